"""Server-sent events, cut anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.sse import LineTooLong, SSEDecoder, SSEEvent

CASES: dict[str, tuple[bytes, list[tuple[str, bytes]]]] = {
    "plain": (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    "names": (b"event: x\ndata: 1\n\ndata: 2\n\n", [("x", b"1"), ("", b"2")]),
    "name after data, no space": (b"data:1\nevent:x\n\n", [("x", b"1")]),
    "the last name wins": (b"event: x\nevent: y\ndata: 1\n\n", [("y", b"1")]),
    "name without data": (b"event: x\n\ndata: 1\n\n", [("", b"1")]),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", [("", b"a\n\nb")]),
    "empty data": (b"data:\n\ndata\n\n", [("", b""), ("", b"")]),
    "one space only": (b"data:  a \n\n", [("", b" a ")]),
    "comments": (b": ping\n\n:\n\ndata: a\n: in between\ndata: b\n\n", [("", b"a\nb")]),
    "crlf": (b"event: x\r\ndata: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [("x", b"a\nb"), ("", b"c")]),
    "cr": (b"data: a\rdata: b\r\rdata: c\r\r", [("", b"a\nb"), ("", b"c")]),
    "mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\ndata: d\n\n", [("", b"a"), ("", b"b"), ("", b"c"), ("", b"d")]),
    "bom": (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
    "bom later is no bom": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),
    "half a bom": (b"\xef\xbbdata: a\n\ndata: b\n\n", [("", b"b")]),
    "fields that mean nothing": (b"id: 1\nretry: 5\nfoo\ndata: a\nx: y\n\n", [("", b"a")]),
    "no blank line at the end": (b"data: a\n\ndata: b\n", [("", b"a")]),
    "cut in the line": (b"data: a\n\ndata: b", [("", b"a")]),
    "blank lines": (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
    "not utf-8": (b"event: \xff\ndata: \xff\n\n", [("\ufffd", b"\xff")]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", CASES)
def test_events(name: str) -> None:
    raw, expected = CASES[name]
    assert SSEDecoder().feed(raw) == [SSEEvent(*one) for one in expected]


@pytest.mark.parametrize("name", CASES)
def test_byte_by_byte(name: str) -> None:
    raw, expected = CASES[name]
    decoder = SSEDecoder()
    found = [event for at in range(len(raw)) for event in decoder.feed(raw[at : at + 1])]
    assert found == [SSEEvent(*one) for one in expected]


@given(st.lists(st.sampled_from([b"data: a", b"data:", b"event: e", b": c", b"\n", b"\r", b"\r\n", b"x"])), st.data())
def test_where_the_network_cuts_does_not_matter(pieces: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(pieces)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8))), len(raw)]
    decoder = SSEDecoder()
    cut = [event for a, b in pairwise(edges) for event in decoder.feed(raw[a:b])]
    assert cut == SSEDecoder().feed(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"data: " + b"x" * 99 + b"\n\n",
        b"x" * 101,
        b":" + b"x" * 101 + b"\n",
        b"data: 12345\n" * 17,
        b"data:\n" * 101,
    ],
    ids=["line", "no end", "comment", "many lines", "many lines without space"],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_cap_holds_for_lines_and_events(raw: bytes, step: int) -> None:
    decoder = SSEDecoder(max_line_bytes=100)
    assert decoder.feed(b"data: fine\n\n" * 50) == [SSEEvent("", b"fine")] * 50
    with pytest.raises(LineTooLong):
        _ = [decoder.feed(raw[at : at + step]) for at in range(0, len(raw), step)]


def test_what_just_fits_passes() -> None:
    line = b"data: " + b"x" * 94
    assert SSEDecoder(max_line_bytes=100).feed(line + b"\n\n") == [SSEEvent("", line[6:])]
