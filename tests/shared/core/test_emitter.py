"""The emitter: pairs, order, numbers and frozen snapshots."""

import json
from typing import Any

import msgspec
import pytest

from shared.core.emitter import Emitter, Ending
from shared.core.frames import render_all
from shared.core.responses import draft
from shared.wire.events import Event
from shared.wire.items import FunctionCall, FunctionTool, Logprob, Message, OutputText, Reasoning, Refusal
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError, Usage
from support.contract import check_response, check_stream

RESPONSE_ID = "resp_00" + "a" * 32
USAGE = Usage(3, 4, 7)


def emitter(*, streaming: bool = True, next_item: int = 0) -> Emitter:
    request = Request(id=RESPONSE_ID, created_at=1, model="m", tools=[FunctionTool("f")])
    return Emitter(draft(request), next_item=next_item, streaming=streaming)


def started() -> Emitter:
    emit = emitter()
    emit.created()
    emit.in_progress()
    return emit


def plain(events: list[Event]) -> list[dict[str, Any]]:
    return [json.loads(msgspec.json.encode(event)) for event in events]


def names(events: list[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in plain(events)]


def finish(emit: Emitter, status: Any = "completed", **more: Any) -> tuple[Response, list[Event]]:
    response = emit.end(Ending(status, USAGE, **more), at=9)
    events = emit.take()
    assert check_stream(plain(events)) == []
    assert check_response(json.loads(msgspec.json.encode(response))) == []
    assert events[-1].response == response  # type: ignore[union-attr]
    return response, events


@pytest.mark.parametrize("texts", [[], ["", "", "", ""], ["a"], ["a", "é"], ["a", "", "b", "\n", "é"]])
@pytest.mark.parametrize("obfuscate", [False, True])
def test_texts_together_are_texts_one_by_one(texts: list[str], obfuscate: bool) -> None:
    one, together = (
        Emitter(draft(Request(id=RESPONSE_ID, created_at=1, model="m")), obfuscate=obfuscate) for _ in "ab"
    )
    for text in texts:
        one.text(text)
    together.texts(texts)
    assert together.size_bytes == one.size_bytes
    frames, count = together.take_frames()
    events = one.take()
    assert (frames, count) == (render_all(events), len(events))
    assert together.end(Ending("completed"), at=9) == one.end(Ending("completed"), at=9)
    assert together.take() == one.take()


def test_a_run_of_texts_is_taken_as_events() -> None:
    emit = started()
    emit.texts(["a", "b", "c"])
    assert names(emit.take())[-3:] == ["output_text.delta"] * 3
    assert emit.take_frames() == (b"", 0)


def test_a_plain_answer() -> None:
    emit = emitter(next_item=3)
    emit.created()
    emit.queued()
    emit.in_progress()
    emit.text("Hel")
    emit.text("")
    emit.text("lo", [Logprob("lo", -1.0, [108, 111])])
    response, events = finish(emit)
    assert names(events) == [
        "created",
        "queued",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(11)) == list(range(emit.number))
    part = OutputText("Hello", [], [Logprob("lo", -1.0, [108, 111])])
    assert response.output == [Message("assistant", [part], f"msg_00{'a' * 32}0003", "completed")]
    assert (response.status, response.completed_at, response.usage) == ("completed", 9, USAGE)


def test_every_kind_of_output_in_turn() -> None:
    emit = started()
    emit.summary("In short.")
    emit.reasoning("Let me")
    emit.reasoning(" see")
    emit.text("Yes")
    emit.annotation(msgspec.Raw(b'{"type":"url_citation","url":"u","title":"t","start_index":0,"end_index":1}'))
    emit.refusal("but no")
    emit.arguments(emit.call("f", "call_1"), '{"a":1}')
    emit.call("g", None)
    emit.text("after")
    response, _ = finish(emit)
    reasoning, first, call, empty, second = response.output
    assert isinstance(reasoning, Reasoning)
    assert [part.text for part in reasoning.summary or []] == ["In short."]
    assert [part.text for part in reasoning.content or []] == ["Let me see"]
    assert isinstance(first, Message)
    assert isinstance(first.content[0], OutputText)
    assert first.content[1] == Refusal("but no")
    assert isinstance(call, FunctionCall)
    assert (call.call_id, call.arguments, call.status) == ("call_1", '{"a":1}', "completed")
    assert isinstance(empty, FunctionCall)
    assert empty.arguments == "{}"
    assert isinstance(second, Message)
    assert [item.status for item in response.output] == ["completed"] * 5


def test_reasoning_without_raw_text_has_no_content() -> None:
    emit = started()
    emit.summary("s")
    response, events = finish(emit)
    assert isinstance(response.output[0], Reasoning)
    assert response.output[0].content is None
    assert "content" not in plain(events)[2]["item"]


def test_empty_deltas_open_nothing() -> None:
    emit = started()
    for grow in (emit.text, emit.refusal, emit.reasoning, emit.summary):
        grow("")
    emit.annotation(msgspec.Raw(b"{}"))
    response, events = finish(emit)
    assert names(events) == ["created", "in_progress", "completed"]
    assert response.output == []


@pytest.mark.parametrize("status", ["incomplete", "failed", "cancelled"])
def test_an_early_end_keeps_what_there_is_as_incomplete(status: Any) -> None:
    emit = started()
    emit.text("done before")
    emit.arguments(emit.call("f", "c"), '{"a')
    error = ResponseError("server_error", "broke off")
    response, events = finish(emit, status, error=error)
    assert [item.status for item in response.output] == ["completed", "incomplete"]
    assert isinstance(response.output[1], FunctionCall)
    assert response.output[1].arguments == '{"a'
    assert (response.status, response.completed_at) == (status, None)
    assert response.error == (error if status == "failed" else None)
    assert (response.incomplete_details is not None) == (status == "incomplete")
    assert names(events)[-1] == ("incomplete" if status == "incomplete" else "failed")


def test_an_unfinished_call_keeps_its_empty_arguments() -> None:
    emit = started()
    emit.call("f", "c")
    response, _ = finish(emit, "incomplete", reason="content_filter")
    assert isinstance(response.output[0], FunctionCall)
    assert response.output[0].arguments == ""
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "content_filter"


def test_a_failure_before_the_start() -> None:
    emit = emitter()
    emit.created()
    response = emit.end(Ending("failed"), at=9)
    assert (response.status, response.output) == ("failed", [])
    assert response.error is not None


@pytest.mark.parametrize("given", [None, "", "known", "x" * 65])
def test_unusable_call_ids_are_replaced(given: str | None) -> None:
    emit = started()
    emit.call("f", "known")
    emit.call("f", given)
    response, _ = finish(emit)
    first, second = response.output
    assert isinstance(first, FunctionCall)
    assert isinstance(second, FunctionCall)
    assert first.call_id == "known"
    assert second.call_id == f"call_{(second.id or '').removeprefix('fc_')}"
    assert len(second.call_id) <= 64


def test_arguments_for_a_closed_call_are_refused() -> None:
    emit = started()
    first = emit.call("f", "a")
    assert emit.is_open(first)
    second = emit.call("g", "b")
    assert not emit.is_open(first)
    with pytest.raises(ValueError, match="not open"):
        emit.arguments(first, "{}")
    emit.text("x")
    assert not emit.is_open(second)


def test_events_never_change_after_they_were_made() -> None:
    emit = started()
    taken: list[tuple[Event, bytes]] = []

    def take() -> None:
        taken.extend((event, render_all([event])) for event in emit.take())

    emit.reasoning("r")
    take()
    emit.text("a", [Logprob("a", -1.0, [97])])
    take()
    emit.annotation(msgspec.Raw(b"{}"))
    emit.text("b", [Logprob("b", -1.0, [98])])
    take()
    emit.refusal("no")
    take()
    emit.call("f", "c")
    take()
    response = emit.end(Ending("completed", USAGE), at=9)
    take()
    response.output.clear()
    response.status = "queued"
    assert [render_all([event]) for event, _ in taken] == [frame for _, frame in taken]


def test_without_streaming_there_is_the_same_response_and_no_event() -> None:
    results = []
    for streaming in (True, False):
        emit = emitter(streaming=streaming)
        emit.created()
        emit.in_progress()
        emit.reasoning("r")
        emit.text("a", [Logprob("a", -1.0, [97])])
        emit.call("f", "")
        assert bool(emit.take()) == streaming
        results.append(emit.end(Ending("completed", USAGE), at=9))
        assert (emit.number > 0) == streaming
    assert results[0] == results[1]


def test_the_size_counts_bytes_and_items() -> None:
    emit = started()
    emit.text("ab")
    before = emit.size_bytes
    emit.text("é€")
    assert emit.size_bytes == before + 5
    emit.call("f", None)
    assert emit.size_bytes > before + 100


def test_there_is_one_end() -> None:
    emit = started()
    finish(emit)
    with pytest.raises(ValueError, match="ended"):
        emit.end(Ending("failed"), at=9)
    with pytest.raises(ValueError, match="ended"):
        emit.text("more")


def test_provider_state_belongs_to_the_reasoning_that_is_open() -> None:
    emit = started()
    emit.reasoning("because")
    emit.state("rsp1.first")
    emit.state("rsp1.sealed")
    emit.text("so")
    response, events = finish(emit)
    reasoning = response.output[0]
    assert isinstance(reasoning, Reasoning)
    assert reasoning.encrypted_content == "rsp1.sealed"
    added = next(each for each in plain(events) if each["type"] == "response.output_item.added")
    assert "encrypted_content" not in added["item"]  # it is only certain at the end


def test_provider_state_without_reasoning_makes_an_item_of_its_own() -> None:
    emit = started()
    emit.text("so")
    emit.state("rsp1.sealed")
    response, events = finish(emit)
    assert [type(item) for item in response.output] == [Message, Reasoning]
    assert response.output[1] == Reasoning([], response.output[1].id, None, "rsp1.sealed", "completed")
    assert names(events)[-3:] == ["output_item.added", "output_item.done", "completed"]


def test_provider_state_counts_as_output() -> None:
    emit = started()
    emit.reasoning("x")
    before = emit.size_bytes
    emit.state("y" * 1000)
    emit.state("z" * 1000)
    assert emit.size_bytes == before + 1000


def test_it_never_ends_before_it_was_created() -> None:
    """The two moments are told by two machines, whose clocks may differ."""
    emit = Emitter(draft(Request(id=RESPONSE_ID, created_at=100, model="m", tools=[])), streaming=True)
    assert emit.end(Ending("completed"), at=40).completed_at == 100
