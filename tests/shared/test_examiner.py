"""Schemas made to be costly are given up in time, whatever they are made of; what people write passes."""

import asyncio
import datetime
import json
import os
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, create_model

from shared.core.schemas import schema_text
from shared.examiner import Examiner, TooCostly

Schema = dict[str, Any]


@pytest.fixture
async def examiner() -> AsyncIterator[Examiner]:
    async with Examiner() as examiner:
        yield examiner


def doubled(levels: int, link: Any, **root: Any) -> Schema:
    """Definitions of which each refers to the next one as *link* does with a reference."""
    names = [f"d{i}" for i in range(levels + 1)]
    chain = {name: link({"$ref": f"#/$defs/{after}"}) for name, after in pairwise(names)}
    return {"$defs": {**chain, names[-1]: {"type": "object"}}, "$ref": "#/$defs/d0", **root}


def twice(keyword: str) -> Any:
    return lambda ref: {keyword: [ref, ref]}


def both_ways(ref: Schema) -> Schema:
    return {"if": ref, "then": ref, "else": ref}


def dynamic(levels: int) -> Schema:
    names = [f"d{i}" for i in range(levels + 1)]
    chain = {
        name: {"$dynamicAnchor": name, "allOf": [{"$dynamicRef": f"#{after}"}] * 2} for name, after in pairwise(names)
    }
    return {"$defs": {**chain, names[-1]: {"$dynamicAnchor": names[-1]}}, "$dynamicRef": "#d0"}


def nest(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


COMPILED_FOR_EVER = {
    "unevaluatedProperties": doubled(16, twice("allOf"), unevaluatedProperties=False),
    "unevaluatedItems": doubled(16, twice("anyOf"), unevaluatedItems=False),
    "oneOf": doubled(16, twice("oneOf"), unevaluatedProperties=False),
    "if": doubled(16, both_ways, unevaluatedProperties=False),
}


@pytest.mark.parametrize("schema", COMPILED_FOR_EVER.values(), ids=COMPILED_FOR_EVER)
async def test_what_compiles_for_ever(examiner: Examiner, schema: Schema) -> None:
    with pytest.raises(TooCostly) as caught:
        await examiner.compile_fault(['{"type": "string"}', json.dumps(schema)])
    assert caught.value.place == 1
    assert await examiner.compile_fault(['{"type": "string"}', '{"type": "object"}']) is None


APPLIED_FOR_EVER: dict[str, tuple[Schema, Any]] = {
    "allOf": (doubled(40, twice("allOf")), {"a": 1}),
    "oneOf": (doubled(40, twice("oneOf")), {"a": 1}),
    "if": (doubled(40, both_ways), {"a": 1}),
    "not": (doubled(40, lambda ref: {"allOf": [{"not": {"not": ref}}, ref]}), {"a": 1}),
    "dependentSchemas": (doubled(40, lambda ref: {"dependentSchemas": {"a": ref}, "allOf": [ref]}), {"a": 1}),
    "propertyNames": (
        {**doubled(40, twice("allOf")), "$ref": "#/$defs/d40", "propertyNames": {"not": {"$ref": "#/$defs/d0"}}}
        | {"$defs": {**doubled(40, twice("allOf"))["$defs"], "d40": {"type": "string"}}},
        {"a": 1},
    ),
    "$dynamicRef": (dynamic(40), {"a": 1}),
    "items, twice at each level": (
        {"items": {"$ref": "#"}, "allOf": [{"items": {"$ref": "#"}}]},
        nest(1, 60),
    ),
    "additionalProperties and patternProperties": (
        {"additionalProperties": {"$ref": "#"}, "allOf": [{"patternProperties": {"": {"$ref": "#"}}}]},
        json.loads('{"a":' * 60 + "1" + "}" * 60),
    ),
    "a wide schema, a long array": (
        {"allOf": [{"items": {"not": {"type": "string"}}}] * 6000},
        list(range(200_000)),
    ),
    "a large enum, a long array": ({"items": {"enum": [[i] for i in range(8000)]}}, [[7999]] * 50_000),
}


@pytest.mark.parametrize(("schema", "value"), APPLIED_FOR_EVER.values(), ids=APPLIED_FOR_EVER)
async def test_what_applies_for_ever(examiner: Examiner, schema: Schema, value: Any) -> None:
    text = json.dumps(schema)
    assert await examiner.compile_fault([text]) is None
    with pytest.raises(TooCostly):
        await examiner.value_fault(text, json.dumps(value))
    assert await examiner.value_fault('{"type": "object"}', "{}") is None


class Author(BaseModel):
    name: str = Field(pattern="^[A-Z]", max_length=80)
    email: str | None = None
    born: datetime.date | None = None


class Node(BaseModel):
    """A tree."""

    title: str
    authors: list[Author] = []
    children: "list[Node]" = []
    attributes: dict[str, "Node | Author | int | None"] = {}


class Number(BaseModel):
    kind: Literal["number"]
    value: float


class Pair(BaseModel):
    kind: Literal["add", "subtract", "multiply", "divide"]
    left: "Expression"
    right: "Expression"


class Choice(BaseModel):
    kind: Literal["if"]
    test: "Expression"
    then: "Expression"
    otherwise: "Expression"


Expression = Number | Pair | Choice


def deep_model(levels: int) -> type[BaseModel]:
    model: type[BaseModel] = Author
    for i in range(levels):
        model = create_model(f"Level{i}", one=(model, ...), others=(list[model], []), maybe=(model | None, None))  # type: ignore[valid-type]
    return model


def tree(depth: int) -> Schema:
    return {"title": "x", "authors": [{"name": "A"}], "children": [tree(depth - 1)] * 2 if depth else []}


def sum_of(depth: int) -> Schema:
    if not depth:
        return {"kind": "number", "value": 1.5}
    return {"kind": "add", "left": sum_of(depth - 1), "right": sum_of(depth - 1)}


def levels(depth: int) -> Schema:
    if not depth:
        return {"name": "A"}
    below = levels(depth - 1)
    return {"one": below, "others": [below, below], "maybe": below if depth < 3 else None}


USUAL: dict[str, tuple[Schema, Any]] = {
    "tree": (Node.model_json_schema(), tree(7)),
    "expression": (TypeAdapter(Expression).json_schema(), sum_of(7)),
    "deep": (deep_model(12).model_json_schema(), levels(6)),
    "closed": ({**Node.model_json_schema(), "unevaluatedProperties": False}, tree(3)),
    "draft 2020-12": ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, Node.model_json_schema()),
    "rows": (
        TypeAdapter(list[Author]).json_schema(),
        [{"name": f"A{i}", "email": "a@example.com", "born": "2000-01-01"} for i in range(20_000)],
    ),
}


@pytest.mark.parametrize(("schema", "value"), USUAL.values(), ids=USUAL)
async def test_what_people_write_passes(examiner: Examiner, schema: Schema, value: Any) -> None:
    text = schema_text(schema)
    assert await examiner.compile_fault([text]) is None
    fault = await examiner.value_fault(text, json.dumps(value))
    assert fault is None or "required property" in fault  # of the deep model, whose lower levels are cut


async def test_many_tools_pass(examiner: Examiner) -> None:
    parameters = Node.model_json_schema()
    tools = [{**parameters, "title": f"Tool {i}"} for i in range(200)]
    assert await examiner.compile_fault([schema_text(tool) for tool in tools]) is None


async def test_the_first_that_is_no_schema_is_named(examiner: Examiner) -> None:
    bad = '{"type": "thing"}'
    for _ in range(2):
        assert await examiner.compile_fault(["{}", "{}", '{"type": "object"}', bad, "{}"]) == (
            3,
            "\"thing\" is not valid under any of the schemas listed in the 'anyOf' keyword",
        )


async def test_what_was_good_is_not_asked_again(examiner: Examiner) -> None:
    assert await examiner.compile_fault(["{}"]) is None
    async with asyncio.timeout(10):
        examiner._child, child = None, examiner._child
        assert await examiner.compile_fault(["{}", "{}"]) is None
        assert examiner._child is None
        examiner._child = child


async def test_one_that_is_killed_is_replaced(examiner: Examiner) -> None:
    assert await examiner.value_fault("{}", "1") is None
    assert examiner._child is not None
    os.kill(examiner._child.pid, signal.SIGKILL)
    assert await examiner.value_fault('{"type": "string"}', "1") == '$: 1 is not of type "string"'


async def test_nobody_reads_what_was_meant_for_another(examiner: Examiner) -> None:
    """A job that is cancelled while it is done takes the process along; those behind it are done by the next one."""
    schema, value = APPLIED_FOR_EVER["allOf"]
    assert await examiner.value_fault("{}", "1") is None
    first = examiner._child
    given_up = asyncio.create_task(examiner.value_fault(json.dumps(schema), json.dumps(value)))
    behind = [asyncio.create_task(examiner.value_fault('{"type": "string"}', str(i))) for i in range(3)]
    await asyncio.sleep(0)  # each has begun
    assert examiner.waiting == 4
    given_up.cancel()
    async with asyncio.timeout(20):
        for i, task in enumerate(behind):
            assert await task == f'$: {i} is not of type "string"'
    assert given_up.cancelled()
    assert examiner.waiting == 0
    assert examiner._child is not first


async def test_the_process_ends_with_its_owner() -> None:
    async with Examiner() as examiner:
        assert await examiner.value_fault("{}", "1") is None
        assert examiner._child is not None
        pid = examiner._child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
