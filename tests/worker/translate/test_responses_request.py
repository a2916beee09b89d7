"""What a call to another server of the Responses API says for a request of ours."""

import hashlib
import json
from typing import Any

import msgspec
import pytest

from shared.core.fitness import left_out
from shared.core.profiles import PROFILES, Profile, spoken
from shared.wire.items import (
    AllowedTool,
    AllowedTools,
    CustomChoice,
    CustomTool,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    FunctionChoice,
    FunctionTool,
    InputImage,
    InputText,
    Item,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamespaceTool,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
)
from shared.wire.requests import Request
from shared.wire.responses import ReasoningEcho
from support.answers import STATE
from worker.translate.dialect import Ask
from worker.translate.responses import ResponsesDialect
from worker.translate.responses_request import family_of
from worker.translate.state import Kept, encode_state

GENERIC, OPENAI, LLAMACPP = (spoken(PROFILES[name], "responses") for name in ("generic", "openai", "llamacpp"))
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS = [FunctionTool("f", "does f", SCHEMA, True), CustomTool("sh", "a shell")]
HELLO: list[Item] = [Message("user", "Hello", "msg_ours", "completed")]


def body(items: list[Item] | None = None, profile: Profile = GENERIC, **more: Any) -> dict[str, Any]:
    request = Request(id="resp_ours", created_at=1, model="m", **more)
    found = json.loads(
        ResponsesDialect().encode(Ask(request, HELLO if items is None else items, "theirs", profile, STATE))
    )
    assert isinstance(found, dict)
    return found


def test_the_smallest_request() -> None:
    plain = {
        "model": "theirs",
        "stream": True,
        "store": False,
        "input": [{"type": "message", "role": "user", "content": "Hello"}],
    }
    assert body() == plain
    assert body(profile=OPENAI) == plain | {"include": ["reasoning.encrypted_content"]}


def test_nothing_of_ours_is_sent() -> None:
    found = body(
        [Message("user", "Hello", "msg_ours", "completed"), FunctionCall("c", "f", "{}", "fc_ours", "completed"),
         FunctionCallOutput("c", "ok", "fco_ours", "completed"), Reasoning([], "rs_ours")],
        previous_response_id="resp_parent", metadata={"a": "b"}, background=True, store=True,
    )  # fmt: skip
    assert "ours" not in json.dumps(found)
    assert found.keys() == {"model", "input", "stream", "store"}


def test_items_of_every_kind() -> None:
    items: list[Item] = [
        Message("developer", "Be brief"), Message("user", [InputText("see"), InputImage("https://a.b/c.png", detail="low")]),
        Message("assistant", [OutputText("yes"), Refusal("no")], phase="commentary"), Message("assistant", "so"),
        FunctionCall("c", "look", "{}", namespace="crm"), CustomToolCall("d", "sh", "ls"),
        FunctionCallOutput("c", [InputText("a"), InputText("b")]), CustomToolCallOutput("d", [InputText("x"), InputImage("https://a.b/c")]),
    ]  # fmt: skip
    said = [
        {"type": "output_text", "text": "yes", "annotations": []},
        {"type": "output_text", "text": "no", "annotations": []},
    ]
    image = {"type": "input_image", "image_url": "https://a.b/c"}
    assert body(items)["input"] == [
        {"type": "message", "role": "system", "content": "Be brief"},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "https://a.b/c.png", "detail": "low"}]},
        {"type": "message", "role": "assistant", "status": "completed", "content": said},
        {"type": "message", "role": "assistant", "status": "completed", "content": [{**said[0], "text": "so"}]},
        {"type": "function_call", "call_id": "c", "name": "crm__look", "arguments": "{}"},
        {"type": "function_call", "call_id": "d", "name": "sh", "arguments": '{"input":"ls"}'},
        {"type": "function_call_output", "call_id": "c", "output": "a\nb"},
        {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "x"}, image]},
    ]  # fmt: skip
    native = body(items, OPENAI)["input"]
    assert native[0]["role"] == "developer"
    assert native[2]["content"][1] == {"type": "refusal", "refusal": "no"}
    assert native[2]["phase"] == "commentary"
    assert native[5] == {"type": "custom_tool_call", "call_id": "d", "name": "sh", "input": "ls"}
    assert native[7]["type"] == "custom_tool_call_output"


def test_reasoning_goes_back_as_its_maker_wants_it() -> None:
    sealed = STATE.seal(encode_state(Kept(family_of(OPENAI), data="theirs")))
    mine: list[Item] = [Reasoning([], content=[ReasoningText("hm")], encrypted_content=sealed)]
    assert body(mine, OPENAI)["input"] == [{"type": "reasoning", "summary": [], "encrypted_content": "theirs"}]
    assert body(mine, GENERIC)["input"] == []
    assert body([Reasoning([], encrypted_content="gAAAforeign")], OPENAI)["input"] == []
    shown = [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}]
    assert body(mine, LLAMACPP)["input"] == shown


def test_tools() -> None:
    tools = [*TOOLS, NamespaceTool("crm", [FunctionTool("find")])]
    function, shell, find = body(tools=tools)["tools"]
    assert function == {"type": "function", "name": "f", "description": "does f", "parameters": SCHEMA, "strict": True}
    assert (shell["type"], list(shell["parameters"]["properties"])) == ("function", ["input"])
    assert find == {"type": "function", "name": "crm__find", "parameters": SCHEMA}
    native = body(tools=tools, profile=OPENAI)["tools"][1]
    assert native == {"type": "custom", "name": "sh", "format": {"type": "text"}, "description": "a shell"}


@pytest.mark.parametrize(
    ("choice", "names", "wanted"),
    [
        ("auto", ["f", "sh"], None),
        ("required", ["f", "sh"], "required"),
        ("none", ["f", "sh"], "none"),
        (FunctionChoice("f"), ["f"], {"type": "function", "name": "f"}),
        (CustomChoice("sh"), ["sh"], {"type": "function", "name": "sh"}),
        (AllowedTools("required", [AllowedTool("function", "f")]), ["f"], "required"),
        (AllowedTools("auto", [AllowedTool("function", "f")]), ["f"], None),
    ],
)
def test_tool_choice(choice: Any, names: list[str], wanted: Any) -> None:
    found = body(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert [tool["name"] for tool in found["tools"]] == names
    assert found.get("tool_choice") == wanted
    assert found["parallel_tool_calls"] is False
    if isinstance(choice, CustomChoice):
        native = body(tools=TOOLS, tool_choice=choice, profile=OPENAI)
        assert native["tool_choice"] == {"type": "custom", "name": "sh"}


def test_formats() -> None:
    wanted = JsonSchemaFormat("city", SCHEMA, strict=True)
    plain = {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}
    assert body(format=wanted)["text"] == {"format": plain}
    assert body(format=JsonObjectFormat(), verbosity="low", profile=OPENAI)["text"] == {
        "format": {"type": "json_object"}, "verbosity": "low",
    }  # fmt: skip
    assert "text" not in body(format=wanted, tools=TOOLS, tool_choice=FunctionChoice("f"))


def test_a_format_that_is_only_understood_as_that_of_chat_completions() -> None:
    wanted = JsonSchemaFormat("n", SCHEMA, "what it is", True)
    found = body(format=wanted, profile=LLAMACPP)
    assert found["text"] == body(format=wanted)["text"]
    said = {"name": "n", "schema": SCHEMA, "description": "what it is", "strict": True}
    assert found["response_format"] == {"type": "json_schema", "json_schema": said}
    assert body(format=JsonObjectFormat(), profile=LLAMACPP)["response_format"] == {"type": "json_object"}
    for other in (
        body(format=wanted),
        body(profile=LLAMACPP),
        body(format=wanted, profile=LLAMACPP, tools=TOOLS, tool_choice=FunctionChoice("f")),
    ):
        assert "response_format" not in other


def test_parameters() -> None:
    given: dict[str, Any] = {
        "max_output_tokens": 50, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"], "top_k": 3, "presence_penalty": 1.0,
        "prompt_cache_key": "k", "user": "u", "service_tier": "flex", "truncation": "auto", "instructions": "Be brief",
        "reasoning": ReasoningEcho("low", "auto"), "top_logprobs": 2,
    }  # fmt: skip
    known = {"model", "input", "stream", "store"}
    same = {"max_output_tokens": 50, "temperature": 0.5, "top_p": 0.9, "instructions": "Be brief", "top_logprobs": 2}
    same |= {"reasoning": {"effort": "low", "summary": "auto"}}
    local, hosted = (
        {k: v for k, v in body(profile=one, **given).items() if k not in known} for one in (GENERIC, OPENAI)
    )
    logprobs = "message.output_text.logprobs"
    assert local == same | {"seed": 1, "stop": ["x"], "top_k": 3, "presence_penalty": 1.0, "include": [logprobs]}
    assert hosted == same | {
        "prompt_cache_key": "k", "user": "u", "service_tier": "flex", "truncation": "auto",
        "include": ["reasoning.encrypted_content", logprobs],
    }  # fmt: skip
    request = Request(id="resp_1", created_at=1, model="m", **given)
    assert left_out(request, OPENAI) == ["presence_penalty", "seed", "stop", "top_k"]


def test_a_schema_is_said_in_words_where_only_an_object_can_be_promised() -> None:
    zai = spoken(PROFILES["zai"], "responses")
    asked = {"format": JsonSchemaFormat("n", SCHEMA), "instructions": "Be brief."}
    found = body(profile=zai, **asked)
    assert found["text"] == {"format": {"type": "json_object"}}
    assert found["instructions"].startswith("Be brief.\n\nAnswer with one JSON object that fits")
    assert json.dumps(SCHEMA, separators=(",", ":")) in found["instructions"]
    assert body(profile=GENERIC, **asked)["instructions"] == "Be brief."


def test_identifiers_are_hashed_and_an_operators_keys_go_into_what_is_there() -> None:
    profile = msgspec.structs.replace(OPENAI, hash_identifiers=True, extra_body={"reasoning": {"summary": "auto"}})
    found = body(profile=profile, user="ada", safety_identifier="ada", reasoning=ReasoningEcho(effort="low"))
    assert found["user"] == found["safety_identifier"] == hashlib.sha256(b"ada").hexdigest()
    assert found["reasoning"] == {"effort": "low", "summary": "auto"}


def test_half_a_call_that_nobody_ran_is_left_out() -> None:
    half, run = FunctionCall("c", "f", '{"a', status="incomplete"), FunctionCall("d", "f", "{}", status="incomplete")
    found = body([*HELLO, half, run, FunctionCallOutput("d", "ok")])["input"]
    assert [one.get("call_id") for one in found] == [None, "d", "d"]
