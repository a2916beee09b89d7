"""How deep JSON goes, whatever stands in its texts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.nesting import MAX_LEVELS, too_deep


def nest(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    "text", ["", "]" * 500, "}" * 500, '"', "\\", '\\"]', '"' + "]" * 300, "[" * 500, "\\" * 301 + "]" * 99]
)
def test_the_limit_is_exact_whatever_stands_in_texts(text: str) -> None:
    for value in (nest(text, MAX_LEVELS), [[text, 1], nest(text, MAX_LEVELS - 1), text]):
        assert not too_deep(json.dumps(value).encode())
    for value in (nest(text, MAX_LEVELS + 1), [[text, 1], nest(text, MAX_LEVELS), text]):
        assert too_deep(json.dumps(value).encode())


def test_much_is_not_deep() -> None:
    assert not too_deep(json.dumps([{"a": [i]} for i in range(10_000)]).encode())


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


VALUES = st.recursive(
    st.text('[]{}"\\/ua', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3),
    max_leaves=40,
)


@given(VALUES, st.integers(MAX_LEVELS - 6, MAX_LEVELS + 1))
def test_any_value(value: Any, around: int) -> None:
    value = nest(value, around)
    assert too_deep(json.dumps(value).encode()) == (depth_of(value) > MAX_LEVELS)
