"""Tools and choices among them: what is accepted, left out, and refused, straight on `accept`."""

import json
from typing import Any

import pytest

from api.schemas import MAX_WAITING, check_schemas
from api.tools import CHECKED_BYTES
from api.validate import Accepted, accept
from shared.core.compaction import KIND
from shared.errors import InvalidRequest, Overloaded
from shared.examiner import Examiner
from shared.seal import Sealer
from shared.settings import ModelRow, Settings
from shared.wire.items import CustomFormat, CustomTool, FunctionTool, NamespaceTool

SETTINGS = Settings(models={"echo": ModelRow(dialect="echo")})
F = {"type": "function", "name": "f"}
C = {"type": "custom", "name": "c"}
N = {"type": "namespace", "name": "n", "description": "", "tools": [F, C]}
MISSING, TYPE, VALUE, UNSUPPORTED = (
    "missing_required_parameter",
    "invalid_type",
    "invalid_value",
    "unsupported_value",
)
LONG = "string_above_max_length"
SCHEMA = "invalid_function_parameters"
NO_SCHEMA = {"strict": True, "parameters": {"type": "thing"}}
COSTLY = {
    "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)} | {"d20": {}},
    "$ref": "#/$defs/d0",
    "unevaluatedProperties": False,
}
FAR_SCHEMA = {"strict": True, "parameters": {"$ref": "http://127.0.0.1:9/s.json"}}


def take(tools: Any, choice: Any = None) -> Accepted:
    body = {"model": "echo", "input": "hi", "tools": tools, "tool_choice": choice}
    return accept(json.dumps(body).encode(), SETTINGS, "", Sealer([]).bind("us", KIND).open)


def allowed(*entries: Any, mode: str = "auto") -> dict[str, Any]:
    members = [{"type": "function", "name": each} if isinstance(each, str) else each for each in entries]
    return {"type": "allowed_tools", "mode": mode, "tools": members}


@pytest.mark.parametrize(
    ("tools", "code", "param"),
    [
        ({}, TYPE, "tools"),
        ([None], TYPE, "tools[0]"),
        ([{"name": "f"}], MISSING, "tools[0].type"),
        ([F, {"type": "function", "function": {"name": "f"}}], MISSING, "tools[1].name"),
        ([{"type": "function", "name": "f f"}], VALUE, "tools[0].name"),
        ([{"type": "function", "name": ""}], VALUE, "tools[0].name"),
        ([{"type": "function", "name": "f" * 129}], LONG, "tools[0].name"),
        ([{**F, "parameters": []}], TYPE, "tools[0].parameters"),
        ([{**F, "strict": "yes"}], TYPE, "tools[0].strict"),
        ([F, F], VALUE, "tools[1].name"),
        ([F, {"type": "custom", "name": "f"}], VALUE, "tools[1].name"),
        ([{"type": "function", "name": f"f{n}"} for n in range(1025)], "array_above_max_length", "tools"),
        ([{"type": "custom"}], MISSING, "tools[0].name"),
        ([{"type": "custom", "name": "c c"}], VALUE, "tools[0].name"),
        ([{**C, "format": "text"}], TYPE, "tools[0].format"),
        ([{**C, "format": {"type": "regex"}}], VALUE, "tools[0].format.type"),
        (
            [F, {**C, "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}],
            UNSUPPORTED,
            "tools[1].format",
        ),
        ([{"type": "namespace", "tools": [F]}], MISSING, "tools[0].name"),
        ([{"type": "namespace", "name": "n"}], MISSING, "tools[0].tools"),
        ([{"type": "namespace", "name": "n n", "tools": [F]}], VALUE, "tools[0].name"),
        ([{"type": "namespace", "name": "n", "tools": [F, {"type": "mcp"}]}], UNSUPPORTED, "tools[0].tools[1].type"),
        ([{"type": "namespace", "name": "n", "tools": [{"name": "f"}]}], MISSING, "tools[0].tools[0].type"),
        ([{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}], MISSING, "tools[0].tools[0].name"),
        ([N, {"type": "function", "name": "n__f"}], VALUE, "tools[1].name"),
        ([N, N], VALUE, "tools[1].tools[0].name"),
        *[
            ([{"type": kind}], UNSUPPORTED, "tools[0].type")
            for kind in ("file_search", "code_interpreter", "computer_use_preview", "image_generation", "mcp", "shell")
        ],
        *[
            ([F, {"type": kind}], UNSUPPORTED, "tools[1].type")
            for kind in ("local_shell", "apply_patch", "tool_search", "web_search\r\nX-Evil: 1", "mystery" * 50)
        ],
    ],
    ids=lambda value: str(value)[:60],
)
def test_tools_that_are_refused(tools: Any, code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(tools)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("tools", "choice", "code", "param"),
    [
        ([F], "sometimes", VALUE, "tool_choice"),
        ([F], 5, TYPE, "tool_choice"),
        ([], "required", VALUE, "tool_choice"),
        ([{"type": "web_search"}], "required", VALUE, "tool_choice"),
        ([{"type": "web_search"}], {"type": "web_search"}, VALUE, "tool_choice.type"),
        ([F], {"type": "file_search"}, VALUE, "tool_choice.type"),
        ([F], {"type": "function"}, MISSING, "tool_choice.name"),
        ([F], {"type": "function", "name": "g"}, VALUE, "tool_choice"),
        ([C], {"type": "function", "name": "c"}, VALUE, "tool_choice"),
        ([F], {"type": "custom", "name": "f"}, VALUE, "tool_choice"),
        ([F], {"type": "allowed_tools", "tools": []}, MISSING, "tool_choice.mode"),
        ([F], allowed("f", mode="none"), VALUE, "tool_choice.mode"),
        ([F], allowed("f", "g"), VALUE, "tool_choice.tools[1]"),
        ([F], allowed({"type": "custom", "name": "f"}), VALUE, "tool_choice.tools[0]"),
        ([F], allowed({"type": "mcp", "server_label": "x"}), VALUE, "tool_choice.tools[0]"),
        ([F], allowed({"name": "f"}), MISSING, "tool_choice.tools[0].type"),
        ([N], allowed({"type": "function", "name": "f", "namespace": "m"}), VALUE, "tool_choice.tools[0]"),
        ([F], allowed(mode="required"), VALUE, "tool_choice"),
        ([F, {"type": "web_search"}], allowed({"type": "web_search"}, mode="required"), VALUE, "tool_choice"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_choices_that_are_refused(tools: Any, choice: Any, code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(tools, choice)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    "choice",
    [
        *("none", "auto", "required", {"type": "function", "name": "f"}, {"type": "custom", "name": "c"}),
        *(allowed("f"), allowed("f", mode="required"), allowed(), allowed({"type": "custom", "name": "c"})),
        allowed({"type": "function", "name": "f", "namespace": "n"}),
        allowed({"type": "namespace", "name": "n"}, {"type": "web_search"}),
    ],
    ids=str,
)
def test_choices(choice: Any) -> None:
    assert take([F, C, N, {"type": "web_search"}], choice).request.tool_choice is not None


def test_hosted_tools_that_nobody_asked_for_are_left_out_and_named() -> None:
    empty = {"type": "namespace", "name": "n", "tools": []}
    accepted = take([{"type": "web_search_preview_2025_03_11"}, F, empty, {"type": "web_search"}], "required")
    dropped = ["tools[0] (web_search_preview_2025_03_11)", "tools[2] (namespace)", "tools[3] (web_search)"]
    assert accepted.dropped == dropped
    assert accepted.request.tools == [FunctionTool("f")]


def test_defaults_are_filled_in() -> None:
    nulls = {"type": "custom", "name": "d", "description": None, "format": None}
    named = {"type": "namespace", "name": "n", "description": None, "tools": [C]}
    text = CustomFormat("text")
    assert take([C, nulls, named]).request.tools == [
        CustomTool("c", None, text),
        CustomTool("d", None, text),
        NamespaceTool("n", [CustomTool("c", None, text)], ""),
    ]


async def examine(accepted: Accepted) -> None:
    async with Examiner() as examiner:
        await check_schemas(accepted.schemas, examiner)


@pytest.mark.parametrize(
    ("tools", "path"),
    [
        ([C, {**F, **NO_SCHEMA}], "tools[1].parameters"),
        ([{**F, **FAR_SCHEMA}], "tools[0].parameters"),
        ([{**N, "tools": [C, {**F, **FAR_SCHEMA}]}], "tools[0].tools[1].parameters"),
        ([{**F, "strict": True, "parameters": COSTLY}], "tools[0].parameters"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_schemas_that_are_refused(tools: Any, path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid schema for function 'f': ") as caught:
        await examine(take(tools))
    assert (caught.value.code, caught.value.param) == (SCHEMA, path)


async def test_a_format_is_examined_with_the_tools() -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": COSTLY}}
    body = {
        "model": "echo",
        "input": "hi",
        "text": text,
        "tools": [{**F, "strict": True, "parameters": {"type": "object"}}],
    }
    with pytest.raises(
        InvalidRequest, match=r"^Invalid schema for 'text\.format\.schema': it takes too long"
    ) as caught:
        await examine(accept(json.dumps(body).encode(), SETTINGS, "", Sealer([]).bind("us", KIND).open))
    assert (caught.value.code, caught.value.param) == ("invalid_json_schema", "text.format.schema")


async def test_who_comes_when_many_wait_for_their_schemas_is_to_come_again() -> None:
    examiner = Examiner()
    examiner.waiting = MAX_WAITING
    with pytest.raises(Overloaded):
        await check_schemas(take([{**F, **NO_SCHEMA}]).schemas, examiner)
    await check_schemas(take([F]).schemas, examiner)


async def test_only_a_strict_function_is_held_to_its_schema() -> None:
    for fields in (NO_SCHEMA, FAR_SCHEMA):
        await examine(take([{**F, **fields, "strict": False}]))
    await examine(take([{**F, "strict": True}, {"type": "function", "name": "g", "strict": True, "parameters": {}}]))


async def test_no_more_schemas_are_compiled_than_cost_little() -> None:
    large = {"type": "object", "properties": {f"property_{n}": {"type": "string"} for n in range(2000)}}
    tools = [{**F, "strict": True, "parameters": large}, {**F, "name": "g", **NO_SCHEMA}]
    assert len(json.dumps(large, separators=(",", ":"))) >= CHECKED_BYTES
    await examine(take(tools))
    with pytest.raises(InvalidRequest) as caught:
        await examine(take(tools[::-1]))
    assert caught.value.param == "tools[0].parameters"
