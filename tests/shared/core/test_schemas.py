"""Schemas of strangers: no network, no endless work, and a word about what is wrong."""

import json
from typing import Any

import pytest

from shared.core.schemas import MAX_SCHEMA_BYTES, BadSchema, compile_fault, schema_text, value_fault

DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({}, 1, None),
        (DRAFT_7, "x", None),
        (DRAFT_7, 1, '$: 1 is not of type "string"'),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}, 1, None),
        ({"properties": {"a": {"items": {"enum": [1]}}}}, {"a": [1, 2]}, "$.a[1]: 2 is not one of 1"),
        ({"$ref": "#"}, 1, None),
        ({"format": "date"}, "no date", None),
        (nested(48), 1, None),
    ],
)
def test_values(schema: dict[str, Any], value: object, fault: str | None) -> None:
    text = schema_text(schema)
    assert compile_fault(text) is None
    assert value_fault(text, json.dumps(value)) == fault


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nope"}, '"nope" is not valid'),
        ({"pattern": "("}, "regex"),
        ({"$ref": "#/$defs/x"}, "/$defs/x"),
        ({"$schema": "https://example.com/own"}, "Unknown meta-schema"),
    ],
)
def test_what_is_no_schema(schema: dict[str, Any], reason: str) -> None:
    fault = compile_fault(schema_text(schema))
    assert fault is not None
    assert reason in fault
    assert value_fault(schema_text(schema), "1") is None


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (nested(2000), "nested too deeply"),
        (nested(51), "nested too deeply"),
        ({"enum": ["x" * MAX_SCHEMA_BYTES]}, "at most"),
        ({"enum": [object()]}, "JSON"),
    ],
)
def test_what_is_no_text(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSchema, match=reason):
        schema_text(schema)


def test_a_pattern_cannot_work_for_ever() -> None:
    fault = value_fault('{"pattern": "^(a|a?)+$"}', f'"{"a" * 40}b"')
    assert fault is not None
    assert len(fault) < 400
