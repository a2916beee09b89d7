"""What an answer must be, row by row."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.examiner import Examiner
from shared.wire.items import (
    AllowedTool,
    AllowedTools,
    Format,
    FunctionCall,
    FunctionChoice,
    FunctionTool,
    InputText,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    OutputItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    TextFormat,
    ToolChoice,
)
from shared.wire.requests import Request
from worker.enforcement import MAX_REPEATED_CHARS, find_breach, plan_repair

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
BY_SCHEMA = JsonSchemaFormat("answer", SCHEMA)
CALL = FunctionCall("c", "f", "{}")
NO_JSON = "text.format demands JSON, and the model's answer is not JSON."
NO_OBJECT = "text.format demands a JSON object, and the model's answer is not one."
NO_CALL = "tool_choice demands a tool call, and the model made none."


@pytest.fixture
async def examiner() -> AsyncIterator[Examiner]:
    async with Examiner() as examiner:
        yield examiner


def said(text: str) -> Message:
    return Message("assistant", [OutputText(text)])


def request(**fields: Any) -> Request:
    return Request(id="resp_1", created_at=1, model="m", tools=[FunctionTool("f")], **fields)


@pytest.mark.parametrize(
    ("wanted", "output", "breach"),
    [
        (None, [said("anything")], None),
        (TextFormat(), [said("anything")], None),
        (JsonObjectFormat(), [said(' {"a": 1}\n')], None),
        (JsonObjectFormat(), [said("[1]")], NO_OBJECT),
        (JsonObjectFormat(), [said('{"a": 1')], NO_JSON),
        (JsonObjectFormat(), [said("```json\n{}\n```")], NO_JSON),
        (JsonObjectFormat(), [], NO_JSON),
        (BY_SCHEMA, [said('{"n": 1}')], None),
        (BY_SCHEMA, [Message("assistant", [OutputText('{"n"'), OutputText(": 1}")])], None),
        (BY_SCHEMA, [said("first a word"), said('{"n": 1}')], None),
        (BY_SCHEMA, [Reasoning([], content=[ReasoningText("no JSON")]), said('{"n": 1}')], None),
        (
            BY_SCHEMA,
            [said('{"n": "x"}')],
            """The model's answer does not fit text.format.schema at $.n: "x" is not of type "integer".""",
        ),
        (
            BY_SCHEMA,
            [said("{}")],
            """The model's answer does not fit text.format.schema at $: "n" is a required property.""",
        ),
        (BY_SCHEMA, [said("[" * 5000)], NO_JSON),
        (BY_SCHEMA, [Message("assistant", [Refusal("no")])], None),
        (BY_SCHEMA, [CALL], None),
        (BY_SCHEMA, [said("let me look"), CALL], None),
    ],
)
async def test_formats(examiner: Examiner, wanted: Format | None, output: list[OutputItem], breach: str | None) -> None:
    assert await find_breach(request(format=wanted), output, examiner) == breach


@pytest.mark.parametrize(
    ("choice", "output", "breach"),
    [
        ("auto", [said("x")], None),
        ("none", [said("x")], None),
        ("required", [said("x")], NO_CALL),
        ("required", [], NO_CALL),
        ("required", [said("x"), CALL], None),
        ("required", [Message("assistant", [Refusal("no")])], None),
        (FunctionChoice("f"), [said("x")], NO_CALL),
        (FunctionChoice("f"), [CALL], None),
        (AllowedTools("auto", [AllowedTool("function", "f")]), [said("x")], None),
        (AllowedTools("required", [AllowedTool("function", "f")]), [said("x")], NO_CALL),
    ],
)
async def test_choices(examiner: Examiner, choice: ToolChoice, output: list[OutputItem], breach: str | None) -> None:
    assert await find_breach(request(tool_choice=choice), output, examiner) == breach


async def test_a_demanded_call_comes_before_a_demanded_format(examiner: Examiner) -> None:
    """Some clients send both (a forced function and a schema): the answer is the call."""
    demands = request(tool_choice="required", format=BY_SCHEMA)
    assert await find_breach(demands, [CALL], examiner) is None
    assert await find_breach(demands, [said('{"n": 1}')], examiner) == NO_CALL


def test_a_second_answer_is_asked_for_with_the_first_one_in_sight() -> None:
    assert plan_repair(NO_JSON, [said("one"), said("two")]) == [
        Message("assistant", [OutputText("onetwo")]),
        Message("user", [InputText(f"{NO_JSON} Answer again, and meet this demand.")]),
    ]
    assert len(plan_repair(NO_JSON, [])) == 1
    first = plan_repair(NO_JSON, [said("x" * 100_000)])[0]
    assert isinstance(first, Message)
    assert first.content == [OutputText("x" * MAX_REPEATED_CHARS)]
