"""Frames: exactly the bytes of the contract, and back."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core import frames
from shared.core.emitter import Emitter, Ending
from shared.core.responses import draft
from shared.wire.events import Event, TextDelta
from shared.wire.items import Logprob
from shared.wire.requests import Request
from support.contract import parse_sse

RESPONSE_ID = "resp_00" + "a" * 32


def some_events() -> list[Event]:
    emit = Emitter(draft(Request(id=RESPONSE_ID, created_at=1, model="m")))
    emit.created()
    emit.in_progress()
    emit.reasoning("hm\n\nhm")
    emit.text("Grüße\r\n\n data: x\u2028", [Logprob("Gr", -0.5, [71, 114])])
    emit.annotation(msgspec.Raw(b'{"type":\n\n"url_citation",\n"title":"a\\nb"}'))
    emit.call("f", "call_1")
    emit.end(Ending("completed"), at=2)
    return emit.take()


def test_a_frame_is_an_event_line_a_data_line_and_a_blank_line() -> None:
    frame = frames.render(TextDelta(7, "msg_1", 0, 0, "a\nb", []))
    assert frame == (
        b"event: response.output_text.delta\n"
        b'data: {"type":"response.output_text.delta","sequence_number":7,"item_id":"msg_1","output_index":0,'
        b'"content_index":0,"delta":"a\\nb","logprobs":[]}\n\n'
    )


def test_frames_are_read_as_server_sent_events_and_decode_to_the_same_events() -> None:
    events = some_events()
    raw = frames.render_all(events)
    parsed = parse_sse(raw + frames.DONE)
    assert parsed.violations == []
    assert parsed.events == [json.loads(msgspec.json.encode(event)) for event in events]
    assert frames.decode(raw) == events
    assert raw == b"".join(map(frames.render, events))


@given(st.lists(st.text(), min_size=1), st.integers(0, 10**6), st.integers(0, 99))
def test_a_run_of_texts_is_rendered_like_its_events(texts: list[str], number: int, index: int) -> None:
    run = frames.TextRun(number, "msg_1", index, index + 1, texts)
    assert run.events() == [TextDelta(number + n, "msg_1", index, index + 1, text, []) for n, text in enumerate(texts)]
    assert run.render() == frames.render_all([run]) == b"".join(map(frames.render, run.events()))


def test_cut_drops_whole_frames() -> None:
    events = some_events()
    raw = frames.render_all(events)
    for skip in range(len(events) + 2):
        assert frames.cut(raw, skip) == frames.render_all(events[skip:])


@pytest.mark.parametrize("junk", [b"data: {}\n\n", b"event: x\ndata: {}\n\n", b"event: x\n\n", b"x\n\n"])
def test_what_is_no_frame_of_ours_is_refused(junk: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's own, with its own texts
        frames.decode(junk)


def test_nothing_decodes_to_nothing() -> None:
    assert frames.decode(b"") == []
    assert frames.render_all([]) == b""
