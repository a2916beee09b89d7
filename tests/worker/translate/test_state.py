"""Provider state: it comes back to the family and tenant that it belongs to, and to nobody else."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UpstreamError
from shared.seal import Seal, Sealer
from shared.wire.items import FunctionCall, Message, Reasoning
from worker.translate.state import MAX_STATE_BYTES, Kept, encode_state, open_states

SEALER = Sealer(["k" * 32])
OURS = SEALER.bind("tenant", "state")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def carried(kept: Kept | bytes, seal: Seal = OURS) -> Reasoning:
    sealed = seal.seal(kept if isinstance(kept, bytes) else encode_state(kept))
    return Reasoning([], encrypted_content=sealed)


@given(st.text(), JSON, st.dictionaries(st.text(), JSON, max_size=3))
def test_what_was_kept_comes_back(text: str, data: Any, calls: dict[str, Any]) -> None:
    kept = Kept("gemini", text, data, calls)
    items = [Message("user", "x"), carried(kept), FunctionCall("c", "f", "{}"), Reasoning([])]
    assert open_states(items, "gemini", OURS) == {1: kept}


def test_each_item_has_its_own() -> None:
    first, second = Kept("a", "1"), Kept("a", "2")
    assert open_states([carried(first), carried(second)], "a", OURS) == {0: first, 1: second}


FOREIGN = {
    "another family": carried(Kept("openrouter", "x")),
    "another tenant": carried(Kept("gemini", "x"), SEALER.bind("other", "state")),
    "another kind": carried(Kept("gemini", "x"), SEALER.bind("tenant", "compaction")),
    "another key": carried(Kept("gemini", "x"), Sealer(["l" * 32]).bind("tenant", "state")),
    "another server": Reasoning([], encrypted_content="gAAAAABo"),
    "nothing": Reasoning([], encrypted_content=""),
    "a newer version": carried(b'{"family":"gemini","text":{"new":1}}'),
    "no object": carried(b"[]"),
    "no JSON": carried(b"\xff{"),
    "deep": carried(b'{"family":"gemini","data":' + b"[" * 100_000),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_foreign_is_ignored(name: str) -> None:
    assert open_states([FOREIGN[name]], "gemini", OURS) == {}


def test_a_changed_letter_is_ignored() -> None:
    item = carried(Kept("gemini", "x"))
    sealed = item.encrypted_content or ""
    for place in range(len(sealed)):
        letter = "A" if sealed[place] != "A" else "B"
        changed = Reasoning([], encrypted_content=sealed[:place] + letter + sealed[place + 1 :])
        found = open_states([changed], "gemini", OURS)
        assert found == {} or place >= len(sealed.rstrip("=")) - 1, place  # the last letter has bits that say nothing


def test_the_family_is_the_only_field_that_is_always_written() -> None:
    assert encode_state(Kept("a")) == b'{"family":"a"}'


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


@pytest.mark.parametrize("data", ["x" * MAX_STATE_BYTES, nested(100_000)], ids=["large", "deep"])
def test_what_cannot_be_kept_is_an_error_of_the_backend(data: Any) -> None:
    with pytest.raises(UpstreamError):
        encode_state(Kept("a", data=data))


def test_half_a_surrogate_pair_is_kept_as_a_mark() -> None:
    kept = msgspec.json.decode(encode_state(Kept("a", "\ud83d.", {"n": ["é\ude00"]})), type=Kept)
    assert (kept.text, kept.data) == ("\ufffd.", {"n": ["é\ufffd"]})


def test_without_a_key_nothing_is_kept_and_nothing_comes_back() -> None:
    closed = Sealer([]).bind("tenant", "state")
    assert closed.seal(encode_state(Kept("a"))) is None
    assert open_states([carried(Kept("a"))], "a", closed) == {}
    assert msgspec.json.decode(encode_state(Kept("a", "t")), type=Kept).text == "t"
