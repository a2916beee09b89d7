"""What the short way for texts finds is what decoding the whole chunk gives."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.translate.chat_chunk import decode_chunk, only_text
from worker.translate.text_slot import MAX_LEARNED, TextSlot


def read(data: bytes) -> str:
    return only_text(decode_chunk(data)[0])


def chunk(text: str, *, spaced: bool = False, escaped: bool = False, **more: Any) -> bytes:
    value = {"id": "c", **more, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    separators = None if spaced else (",", ":")
    return json.dumps(value, ensure_ascii=escaped, separators=separators).encode()


def taught(*chunks: bytes) -> TextSlot:
    slot = TextSlot(read)
    for data in chunks:
        slot.learn(data, read(data))
    return slot


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("text", ["b", "é😀", 'a "quoted" \\ word\n', '","content":"x'])
def test_a_chunk_like_one_before_is_found(text: str, spaced: bool) -> None:
    slot = taught(chunk("a", spaced=spaced))
    for escaped in (False, True):
        assert slot.find(chunk(text, spaced=spaced, escaped=escaped)) == text


@pytest.mark.parametrize(
    "other",
    [
        chunk(""),
        chunk("b", id="d"),
        chunk("b", usage={"total_tokens": 1}),
        chunk("b")[:-1],
        chunk("b").replace(b'"b"', b'"b","refusal":"no"'),
        chunk("b").replace(b'"b"', b'"b","content":"c"'),
        chunk("b").replace(b'"b"', b"null"),
        chunk("b").replace(b'"b"', b'"\\ud800"'),
        chunk("b").replace(b'"b"', b'"\xff"'),
        chunk("b").replace(b'"b"', b'"\n"'),
    ],
)
def test_any_other_chunk_has_to_be_decoded(other: bytes) -> None:
    assert taught(chunk("a")).find(other) == ""


def test_what_only_looks_like_the_text_is_not_learned() -> None:
    decoy = chunk("a", note={"content": "a"})
    assert taught(decoy).find(chunk("b", note={"content": "a"})) == ""
    assert taught(decoy).find(chunk("a", note={"content": "b"})) == ""


def test_a_server_that_writes_something_else_each_time_is_given_up() -> None:
    chunks = [chunk("a", id=str(number)) for number in range(MAX_LEARNED + 1)]
    slot = taught(*chunks)
    assert slot.find(chunks[-2]) == "a"
    assert slot.find(chunks[-1]) == ""


@given(st.text(), st.text(), st.binary(max_size=8), st.integers(0, 120), st.booleans())
def test_it_finds_nothing_but_what_decoding_gives(first: str, second: str, noise: bytes, at: int, spaced: bool) -> None:
    slot = taught(chunk("plain", spaced=spaced), chunk(first, spaced=spaced))
    whole = chunk(second, spaced=spaced)
    assert slot.find(whole) == second
    found = slot.find(whole[:at] + noise + whole[at + len(noise) :])
    if found:
        assert found == read(whole[:at] + noise + whole[at + len(noise) :])
