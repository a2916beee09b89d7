"""What is skimmed is what would have come of each event by itself, wherever the network cut the stream."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.emitter import Emitter, Ending
from shared.core.frames import render_all
from shared.core.profiles import PROFILES
from shared.core.responses import draft
from shared.core.sse import LineTooLong, SSEDecoder
from shared.errors import UpstreamError
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError
from worker.translate.chat_stream import ChatStream
from worker.translate.reading import Reading


def chunk(text: str, *, escaped: bool = False, **more: Any) -> bytes:
    value = {"id": "c", "choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}
    return json.dumps(value, ensure_ascii=escaped, separators=(",", ":")).encode()


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


WORD = event(chunk("a"))
STOP = event(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
DONE = event(b"[DONE]")
ODD = [
    event(chunk("", role="assistant")),
    event(chunk("b", reasoning_content="hm")),
    event(chunk("b").replace(b'"b"', b'"\\ud83d"')),
    event(chunk("b").replace(b'"b"', b'"\xff"')),
    event(chunk("b").replace(b'"b"', b'"\\"')),
    event(chunk("b").replace(b'"b"', b'"b","content":"c"')),
    event(chunk("b").replace(b'"b"', b'","')),
    event(chunk("b").replace(b'"b"', b'"b" ')),
    event(chunk("b")).replace(b"\n", b"\r\n"),
    event(chunk("b")).replace(b"\n", b"\r"),
    event(chunk("b")).replace(b": ", b":"),
    event(chunk("b")[:-1] + b"\ndata: }"),
    event(chunk("b")[:-1] + b"\n}"),
    event(chunk("b"))[:-1],
    b": ping\n\n",
    b"event: error\n" + event(b"{}"),
    b"event: delta\n" + event(chunk("b")),
    b"\xef\xbb\xbf",
    b"\n",
    b"id: 1\n",
    STOP,
    DONE,
]
EVENTS = st.one_of(
    st.integers(1, 5).map(lambda count: WORD * count),
    st.builds(lambda text, escaped: event(chunk(text, escaped=escaped)), st.text(), st.booleans()),
    st.sampled_from(ODD),
)


def begun(*, streaming: bool, obfuscate: bool) -> tuple[Emitter, ChatStream]:
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="m")
    emit = Emitter(draft(request), number=2, streaming=streaming, obfuscate=obfuscate)
    return emit, ChatStream(emit, PROFILES["generic"])


def ended(emit: Emitter, stream: ChatStream) -> Response:
    try:
        ending = stream.end()
    except UpstreamError as error:
        ending = Ending("failed", error=ResponseError(error.code, error.message))
    return emit.end(ending, at=2)


def read(blocks: list[bytes], **flags: bool) -> tuple[bytes, int, Response, int]:
    """(frames, how many, the Response, its size), taken after each block."""
    emit, stream = begun(**flags)
    reading, frames, count = Reading(stream), b"", 0
    try:
        for block in blocks:
            over = reading.feed(block)
            more, made = emit.take_frames()
            frames, count = frames + more, count + made
            if over:
                break
    except UpstreamError:
        pass
    response = ended(emit, stream)
    more, made = emit.take_frames()
    return frames + more, count + made, response, emit.size_bytes


def read_one_by_one(body: bytes, **flags: bool) -> tuple[bytes, int, Response, int]:
    emit, stream = begun(**flags)
    try:
        for one in SSEDecoder().feed(body):
            if one.data == b"[DONE]":
                break
            stream.feed(one.data, one.event)
    except UpstreamError:
        pass
    response = ended(emit, stream)
    events = emit.take()
    return render_all(events), len(events), response, emit.size_bytes


@settings(deadline=None, max_examples=500)
@given(st.lists(EVENTS, max_size=12), st.data(), st.booleans(), st.booleans())
def test_where_the_network_cuts_does_not_matter(
    events: list[bytes], data: st.DataObject, streaming: bool, obfuscate: bool
) -> None:
    body, flags = b"".join([WORD, WORD, *events, STOP]), {"streaming": streaming, "obfuscate": obfuscate}
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6))), len(body)]
    assert read([body[a:b] for a, b in pairwise(edges)], **flags) == read_one_by_one(body, **flags)


@pytest.mark.parametrize("before", ODD)
def test_what_stands_beside_words_does_not_matter(before: bytes) -> None:
    flags = {"streaming": True, "obfuscate": False}
    for after in ODD:
        body = WORD * 3 + before + WORD * 6 + after + WORD * 3 + STOP
        assert read([body], **flags) == read_one_by_one(body, **flags)


def test_words_are_skimmed() -> None:
    _, stream = begun(streaming=True, obfuscate=False)
    assert stream.skim(WORD, 0) == 0  # nothing is known yet
    assert not Reading(stream).feed(WORD * 2)
    assert stream.skim(STOP + WORD * 7 + STOP, len(STOP)) == len(STOP + WORD * 7)
    assert stream.skim(STOP + WORD, 0) == 0


def test_a_line_in_a_large_block_may_still_be_too_long() -> None:
    _, stream = begun(streaming=True, obfuscate=False)
    reading = Reading(stream)
    reading.feed(WORD * 3)
    with pytest.raises(LineTooLong):
        reading.feed(event(chunk("a" * (1 << 20))))
