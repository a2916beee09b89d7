"""Frames of the log as WebSocket messages: the same events, wherever what comes is cut."""

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.texts import CONTINUATION, FINAL, FRAGMENT_BYTES, TEXT, Texts, frame_head, message
from shared.core.frames import render
from shared.wire.events import TextDelta
from support.contract import render_sse
from support.samples import make_stream
from support.schemas import Json

EVENTS = make_stream()
LOG = render_sse(EVENTS).removesuffix(b"data: [DONE]\n\n")
LARGE = render(TextDelta(0, "msg_x", 0, 0, "äö" * FRAGMENT_BYTES, []))


def parse(written: bytes) -> list[tuple[int, bytes]]:
    """The frames: the first byte, and the payload."""
    frames = []
    at = 0
    while at < len(written):
        first, size, at = written[at], written[at + 1], at + 2
        if size >= 126:
            extended = 2 if size == 126 else 8
            size, at = int.from_bytes(written[at : at + extended], "big"), at + extended
        payload = written[at : at + size]
        assert len(payload) == size
        frames.append((first, payload))
        at += size
    return frames


def messages(pieces: Iterable[bytes]) -> list[Json]:
    """As a client reads them: fragments are put together, and nothing may come between them."""
    found: list[Json] = []
    parts: list[bytes] = []
    for first, payload in parse(b"".join(pieces)):
        assert first & ~FINAL == (CONTINUATION if parts else TEXT)
        parts.append(payload)
        if first & FINAL:
            found.append(json.loads(b"".join(parts).decode()))
            parts = []
    assert parts == []
    return found


@pytest.mark.parametrize("stream_id", ["", "a.B-1_"])
def test_each_event_is_one_message(stream_id: str) -> None:
    more = {"stream_id": stream_id} if stream_id else {}
    assert messages(Texts(stream_id).feed(LOG)) == [{**event, **more} for event in EVENTS]


@given(st.lists(st.integers(0, len(LOG)), max_size=12), st.sampled_from(["", "lane"]))
def test_where_it_is_cut_does_not_matter(cuts: list[int], stream_id: str) -> None:
    edges = [0, *sorted(cuts), len(LOG)]
    texts = Texts(stream_id)
    pieces = [piece for a, b in pairwise(edges) for piece in texts.feed(LOG[a:b])]
    assert messages(pieces) == messages(Texts(stream_id).feed(LOG))
    assert (texts.open, texts.ended) == (False, "completed")


def test_it_knows_what_is_half_out() -> None:
    texts = Texts()
    assert not texts.open
    texts.feed(LOG[:100])
    assert texts.open
    texts.feed(LOG[100:])
    assert not texts.open


@pytest.mark.parametrize("step", [1000, 1 << 16, 1 << 20])
def test_a_large_event_goes_out_in_fragments(step: int) -> None:
    texts = Texts("lane")
    pieces = [piece for at in range(0, len(LARGE), step) for piece in texts.feed(LARGE[at : at + step])]
    assert max(map(len, pieces)) < 2 * FRAGMENT_BYTES
    assert all(len(payload) <= FRAGMENT_BYTES for _, payload in parse(b"".join(pieces)))
    (event,) = messages(pieces)
    assert (event["delta"], event["stream_id"]) == ("äö" * FRAGMENT_BYTES, "lane")


@given(st.lists(st.integers(0, len(LOG)), max_size=6))
def test_the_last_event_is_kept_as_it_is(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(LOG)]
    texts = Texts("lane", keep_bytes=len(LOG))
    for a, b in pairwise(edges):
        texts.feed(LOG[a:b])
    assert json.loads(texts.last) == EVENTS[-1]


def test_what_is_too_large_is_not_kept() -> None:
    texts = Texts(keep_bytes=100)
    texts.feed(LOG)
    assert (texts.ended, texts.last) == ("completed", b"")


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_it_tells_how_a_response_has_ended(status: str) -> None:
    texts = Texts()
    texts.feed(render_sse(make_stream(status)))
    assert texts.ended == status


@pytest.mark.parametrize("size", [2, 125, 126, 65535, 65536, 200_000])
def test_a_message_of_any_size(size: int) -> None:
    text = json.dumps("x" * (size - 2)).encode()
    assert len(text) == size
    with_object = b'{"a":%b}' % text
    assert messages(message(with_object)) == [{"a": "x" * (size - 2)}]
    assert parse(frame_head(size, opcode=TEXT, final=True) + text) == [(FINAL | TEXT, text)]
