"""The fold: what any emitter did, from its events alone, and a way to go on from any point."""

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.accumulate import Fold, fold
from shared.core.emitter import Emitter, Ending
from shared.core.frames import decode, render_all
from shared.core.responses import draft
from shared.wire.events import Event
from shared.wire.items import FunctionCall, Logprob
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError, Usage
from support.contract import check_stream

RESPONSE_ID = "resp_00" + "a" * 32
FIRST_ITEM = 7
CITATION = {"type": "url_citation", "url": "https://example.org/", "start_index": 0, "end_index": 1}
FAILED = Ending("failed", error=ResponseError("server_error", "the worker died"))

TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["text", "refusal", "reasoning", "summary"]), TEXTS),
    st.tuples(st.just("logprobs"), TEXTS),
    st.tuples(st.just("annotation"), TEXTS),
    st.tuples(st.just("call"), st.sampled_from([None, "", "a", "b"])),
    st.tuples(st.just("arguments"), TEXTS),
)
ENDINGS = st.builds(
    Ending,
    st.sampled_from(["completed", "incomplete", "failed", "cancelled"]),
    st.none() | st.just(Usage(1, 2, 3)),
    st.none() | st.sampled_from(["max_output_tokens", "content_filter"]),
)


def start(*, streaming: bool = True) -> Emitter:
    emit = Emitter(draft(Request(id=RESPONSE_ID, created_at=1, model="m")), next_item=FIRST_ITEM, streaming=streaming)
    emit.created()
    emit.in_progress()
    return emit


def play(emit: Emitter, steps: list[tuple[str, Any]]) -> None:
    handle = -1
    for step, value in steps:
        if step == "logprobs":
            emit.text(value, [Logprob(value, -0.5, list(value.encode()))])
        elif step == "annotation":
            emit.annotation(msgspec.Raw(msgspec.json.encode(CITATION | {"title": value})))
        elif step == "call":
            handle = emit.call("f", value)
        elif step == "arguments":
            if emit.is_open(handle):
                emit.arguments(handle, value)
        else:
            getattr(emit, step)(value)


def violations(events: list[Event]) -> list[str]:
    return check_stream([json.loads(msgspec.json.encode(event)) for event in events])


def folded(events: list[Event]) -> Fold:
    reader = Fold(first_item=FIRST_ITEM)
    for event in events:
        reader.feed(event)
    return reader


def call_ids(response: Response) -> list[str]:
    return [item.call_id for item in response.output if isinstance(item, FunctionCall)]


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=12), ENDINGS)
def test_the_fold_of_the_events_is_the_response_of_the_emitter(steps: list[tuple[str, Any]], ending: Ending) -> None:
    emit = start()
    play(emit, steps)
    response = emit.end(ending, at=9)
    events = emit.take()
    assert fold(events) == response
    assert fold(decode(render_all(events))) == response
    assert violations(events) == []
    silent = start(streaming=False)
    play(silent, steps)
    assert silent.end(ending, at=9) == response


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=12), st.lists(STEPS, max_size=6), st.integers(1, 200), ENDINGS)
def test_an_emitter_goes_on_from_any_point(
    steps: list[tuple[str, Any]], more: list[tuple[str, Any]], point: int, ending: Ending
) -> None:
    emit = start()
    play(emit, steps)
    emit.end(Ending("completed"), at=9)
    events = emit.take()
    kept = events[: min(point, len(events) - 1)]
    before = copy.deepcopy(kept)
    for rest in ([], more):
        heir = Emitter.resume(folded(kept))
        play(heir, rest)
        response = heir.end(FAILED if not rest else ending, at=9)
        whole = kept + heir.take()
        assert fold(whole) == response
        if len(kept) > 1:  # in_progress is there
            assert violations(whole) == []
        ids = [item.id for item in response.output]
        assert len(set(ids)) == len(ids)
        assert len(set(call_ids(response))) == len(call_ids(response))
        assert kept == before
    assert all((item.id or "")[-4:] >= "0007" for item in response.output)


def test_every_point_of_one_stream_with_everything_in_it() -> None:
    emit = start()
    play(emit, [("summary", "s"), ("reasoning", "r"), ("text", "t"), ("annotation", "a"), ("refusal", "n")])
    play(emit, [("call", "c"), ("arguments", "{}"), ("call", None), ("text", "u")])
    emit.end(Ending("completed"), at=9)
    events = emit.take()
    for point in range(2, len(events)):
        heir = Emitter.resume(folded(events[:point]))
        response = heir.end(FAILED, at=9)
        whole = events[:point] + heir.take()
        assert violations(whole) == []
        assert fold(whole) == response
        assert {item.status for item in response.output[:-1]} <= {"completed"}


def test_a_resumed_emitter_knows_how_much_there_is() -> None:
    emit = start()
    emit.call("f", "c")
    emit.text("x" * 1000)
    reader = folded(emit.take())
    assert reader.next_number == emit.number
    assert reader.next_item == FIRST_ITEM + 2
    assert Emitter.resume(reader).size_bytes > 1000


def test_without_items_the_caller_says_which_number_comes_first() -> None:
    emit = Emitter.resume(folded(start().take()))
    emit.text("x")
    assert (emit.end(FAILED, at=9).output[0].id or "").endswith("0007")


def test_a_log_that_makes_no_sense_is_refused() -> None:
    emit = start()
    emit.text("x")
    events = emit.take()
    emit.end(Ending("completed"), at=9)
    whole = [*events, *emit.take()]
    for broken in (events[1:], events[:2] + events[3:], [*events[:2], *events[1:]], [*whole, whole[-1]]):
        with pytest.raises(ValueError, match="was due"):
            folded(broken)
    with pytest.raises(ValueError, match="begin"):
        Fold().response  # noqa: B018
    with pytest.raises(ValueError, match="nothing to go on"):
        Emitter.resume(folded(whole))
    events[4].output_index = 3  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="not open"):
        folded(events)
