"""What is accepted, and what is refused with which code and parameter: tables, straight on `accept`."""

import json
from typing import Any

import openai.types.responses as sdk
import pytest

from api.items import check_pairing, complete
from api.validate import Accepted, accept
from shared.config import ModelRow, Settings
from shared.errors import InvalidRequest
from shared.wire.items import FunctionCall, FunctionCallOutput, InputImage, Message, OutputText, Reasoning

SETTINGS = Settings(models={"echo": ModelRow(dialect="echo"), "meta/*": ModelRow(dialect="echo")}, max_input_items=10)
HI: dict[str, Any] = {"model": "echo", "input": "hi"}
TOOL = {"type": "function", "name": "f"}
MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
UNSUPPORTED, NOT_OFFERED = "unsupported_value", "unsupported_parameter"


def take(**more: Any) -> Accepted:
    return accept(json.dumps({**HI, **more}).encode(), SETTINGS)


def item(**fields: Any) -> dict[str, Any]:
    """A change to the body: one input item."""
    return {"input": [fields]}


def user(*parts: Any) -> dict[str, Any]:
    return item(role="user", content=list(parts))


def tools(*members: Any, **more: Any) -> dict[str, Any]:
    return {"tools": list(members), **more}


def allowed(*names: str) -> dict[str, Any]:
    members = [{"type": "function", "name": name} for name in names]
    return {"type": "allowed_tools", "mode": "auto", "tools": members}


def schema(**fields: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", **fields}}}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # model and parent
    ({"model": None}, MISSING, "model"),
    ({"model": ""}, MISSING, "model"),
    ({"model": 5}, TYPE, "model"),
    ({"model": "nobody"}, "model_not_found", "model"),
    ({"model": "x" * 257}, "string_above_max_length", "model"),
    ({"previous_response_id": 5}, TYPE, "previous_response_id"),
    ({"previous_response_id": ""}, VALUE, "previous_response_id"),
    ({"previous_response_id": "@x"}, VALUE, "previous_response_id"),
    ({"previous_response_id": "x" * 129}, VALUE, "previous_response_id"),
    # numbers
    ({"max_output_tokens": 15}, "integer_below_min_value", "max_output_tokens"),
    ({"max_output_tokens": 2**31}, "integer_above_max_value", "max_output_tokens"),
    ({"max_output_tokens": 10**40}, "integer_above_max_value", "max_output_tokens"),
    ({"max_output_tokens": 16.5}, TYPE, "max_output_tokens"),
    ({"max_output_tokens": "16"}, TYPE, "max_output_tokens"),
    ({"max_output_tokens": True}, TYPE, "max_output_tokens"),
    ({"max_tool_calls": 0}, "integer_below_min_value", "max_tool_calls"),
    ({"top_logprobs": 21}, "integer_above_max_value", "top_logprobs"),
    ({"temperature": -0.1}, "decimal_below_min_value", "temperature"),
    ({"temperature": 2.1}, "decimal_above_max_value", "temperature"),
    ({"temperature": "1"}, TYPE, "temperature"),
    ({"top_p": 1.1}, "decimal_above_max_value", "top_p"),
    ({"presence_penalty": 2.1}, "decimal_above_max_value", "presence_penalty"),
    ({"frequency_penalty": -2.1}, "decimal_below_min_value", "frequency_penalty"),
    ({"seed": "x"}, TYPE, "seed"),
    # switches and texts
    ({"stream": "yes"}, TYPE, "stream"),
    ({"stream": 1}, TYPE, "stream"),
    ({"store": "no"}, TYPE, "store"),
    ({"background": 0}, TYPE, "background"),
    ({"instructions": ["x"]}, TYPE, "instructions"),
    ({"instructions": "x" * 10_485_761}, "string_above_max_length", "instructions"),
    ({"safety_identifier": "x" * 129}, "string_above_max_length", "safety_identifier"),
    ({"prompt_cache_key": "x" * 1025}, "string_above_max_length", "prompt_cache_key"),
    ({"stop": 5}, TYPE, "stop"),
    ({"stop": ["x"] * 5}, "array_above_max_length", "stop"),
    ({"include": "x"}, TYPE, "include"),
    ({"include": ["message.output_text.logprobs", "x"]}, VALUE, "include[1]"),
    ({"service_tier": "gold"}, VALUE, "service_tier"),
    ({"reasoning": "low"}, TYPE, "reasoning"),
    ({"reasoning": {"effort": "huge"}}, VALUE, "reasoning.effort"),
    # metadata
    ({"metadata": []}, TYPE, "metadata"),
    ({"metadata": {"a": 1}}, TYPE, "metadata"),
    ({"metadata": {"k" * 65: "v"}}, "string_above_max_length", "metadata"),
    ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "object_above_max_properties", "metadata"),
    # known to the API, not offered here
    ({"conversation": {"id": "conv_1"}}, NOT_OFFERED, "conversation"),
    ({"prompt": {"id": "p"}}, NOT_OFFERED, "prompt"),
    ({"context_management": []}, NOT_OFFERED, "context_management"),
    ({"moderation": {}}, NOT_OFFERED, "moderation"),
    ({"truncation": "auto"}, NOT_OFFERED, "truncation"),
    ({"truncation": "maybe"}, VALUE, "truncation"),
    ({"stream_options": {"include_obfuscation": True}}, NOT_OFFERED, "stream_options.include_obfuscation"),
    # input
    ({"input": None}, MISSING, "input"),
    ({"input": 5}, TYPE, "input"),
    ({"input": {}}, TYPE, "input"),
    ({"input": "x" * 10_485_761}, "string_above_max_length", "input"),
    ({"input": [{"role": "user", "content": "x"}] * 11}, "array_above_max_length", "input"),
    ({"input": [None]}, TYPE, "input[0]"),
    ({"input": ["x"]}, TYPE, "input[0]"),
    (item(), MISSING, "input[0].type"),
    (item(type=5), TYPE, "input[0].type"),
    (item(type="mystery"), UNSUPPORTED, "input[0].type"),
    (item(role="king", content="x"), VALUE, "input[0].role"),
    (item(role="tool", content="x"), VALUE, "input[0].role"),
    (item(role="user"), MISSING, "input[0].content"),
    (item(role="user", content=None), TYPE, "input[0].content"),
    (item(type="message", content="x"), MISSING, "input[0].role"),
    (user("x"), TYPE, "input[0].content[0]"),
    (user({"text": "x"}), MISSING, "input[0].content[0].type"),
    (user({"type": "text", "text": "x"}), VALUE, "input[0].content[0].type"),
    (user({"type": "input_text"}), MISSING, "input[0].content[0].text"),
    (user({"type": "input_text", "text": None}), TYPE, "input[0].content[0].text"),
    (user({"type": "input_text", "text": "x" * 10_485_761}), "string_above_max_length", "input[0].content[0].text"),
    (user({"type": "input_image"}), MISSING, "input[0].content[0].image_url"),
    (user({"type": "input_image", "image_url": {"url": "x"}}), TYPE, "input[0].content[0].image_url"),
    (user({"type": "input_image", "file_id": "f"}), UNSUPPORTED, "input[0].content[0].file_id"),
    (user({"type": "input_file"}), MISSING, "input[0].content[0].file_data"),
    (user({"type": "input_file", "file_id": "f"}), UNSUPPORTED, "input[0].content[0].file_id"),
    (user({"type": "input_file", "file_url": "f"}), UNSUPPORTED, "input[0].content[0].file_url"),
    (item(type="function_call", name="f", arguments="{}"), MISSING, "input[0].call_id"),
    (item(type="function_call", call_id="", name="f", arguments="{}"), VALUE, "input[0].call_id"),
    (item(type="function_call", call_id="c" * 65, name="f", arguments="{}"), VALUE, "input[0].call_id"),
    (item(type="function_call", call_id="c", name="f", arguments={}), TYPE, "input[0].arguments"),
    (item(type="function_call_output", call_id="c"), MISSING, "input[0].output"),
    (item(type="function_call_output", call_id="c", output=5), TYPE, "input[0].output"),
    (item(type="function_call_output", call_id="c", output=[{"type": "x"}]), VALUE, "input[0].output[0].type"),
    (item(type="reasoning", id="rs_1"), MISSING, "input[0].summary"),
    # tools
    ({"tools": {}}, TYPE, "tools"),
    (tools(None), TYPE, "tools[0]"),
    (tools({"name": "f"}), MISSING, "tools[0].type"),
    (tools(TOOL, {"type": "function", "function": {"name": "f"}}), MISSING, "tools[1].name"),
    (tools({"type": "function", "name": "f f"}), VALUE, "tools[0].name"),
    (tools({"type": "function", "name": "f" * 129}), "string_above_max_length", "tools[0].name"),
    (tools({"type": "function", "name": "f", "parameters": []}), TYPE, "tools[0].parameters"),
    (tools({"type": "mcp", "server_label": "x"}), UNSUPPORTED, "tools[0].type"),
    (tools({"type": "code_interpreter"}), UNSUPPORTED, "tools[0].type"),
    (tools({"type": "web_search\r\nX-Evil: 1"}), UNSUPPORTED, "tools[0].type"),
    (tools(*[TOOL] * 1025), "array_above_max_length", "tools"),
    ({"tool_choice": "sometimes"}, VALUE, "tool_choice"),
    ({"tool_choice": 5}, TYPE, "tool_choice"),
    ({"tool_choice": "required"}, VALUE, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, MISSING, "tool_choice.name"),
    (tools(TOOL, tool_choice={"type": "function", "name": "g"}), VALUE, "tool_choice"),
    (tools(TOOL, tool_choice=allowed("f", "g")), VALUE, "tool_choice.tools[1]"),
    (tools({"type": "web_search"}, tool_choice="required"), VALUE, "tool_choice"),
    (tools({"type": "web_search"}, tool_choice={"type": "web_search"}), VALUE, "tool_choice.type"),
    # text
    ({"text": "json"}, TYPE, "text"),
    ({"text": {"format": {"type": "xml"}}}, VALUE, "text.format.type"),
    ({"text": {"verbosity": "loud"}}, VALUE, "text.verbosity"),
    (schema(schema={}), MISSING, "text.format.name"),
    (schema(name="x"), MISSING, "text.format.schema"),
    (schema(name="x y", schema={}), VALUE, "text.format.name"),
    (schema(name="x" * 65, schema={}), "string_above_max_length", "text.format.name"),
]


@pytest.mark.parametrize(("change", "code", "param"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused(change: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(**change)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.status == 400
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b"{} {}",
        b'{"model": NaN}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000,
    ],
    ids=lambda body: str(body)[:20],
)
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="could not parse") as caught:
        accept(body, SETTINGS)
    assert (caught.value.code, caught.value.param) == (None, None)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5"])
def test_what_is_no_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        accept(body, SETTINGS)


def test_the_wording_is_the_apis() -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(max_output_tokens=10)
    assert caught.value.message == (
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 10 instead."
    )
    with pytest.raises(InvalidRequest) as caught:
        take(model="nobody")
    assert caught.value.message == "The requested model 'nobody' does not exist."


EVERY_KEY = [
    *("instructions", "stream", "stream_options", "store", "background", "previous_response_id", "include", "text"),
    *("max_output_tokens", "max_tool_calls", "temperature", "top_p", "top_logprobs", "presence_penalty", "metadata"),
    *("frequency_penalty", "parallel_tool_calls", "tools", "tool_choice", "reasoning", "truncation", "service_tier"),
    *("prompt_cache_key", "safety_identifier", "user", "seed", "stop", "top_k", "repetition_penalty", "conversation"),
    *("prompt", "context_management", "moderation", "multi_agent"),
]


@pytest.mark.parametrize("key", EVERY_KEY)
def test_null_is_as_good_as_absent(key: str) -> None:
    assert take(**{key: None}).request == take().request


def test_nulls_inside_are_absent_too() -> None:
    accepted = take(
        text={"format": None, "verbosity": None},
        reasoning={"effort": None, "summary": None, "generate_summary": None},
        tools=[{**TOOL, "description": None, "parameters": None, "strict": None}],
        stream_options={"include_obfuscation": None},
    )
    assert accepted.request.tools[0].name == "f"
    assert accepted.request.format is None


def test_defaults() -> None:
    request = take().request
    assert (request.stream, request.background, request.store) == (False, False, True)
    assert (request.tool_choice, request.tools, request.metadata, request.items) == ("auto", [], {}, 1)


def test_what_is_given_is_kept() -> None:
    given = {
        "instructions": "Be brief.",
        "stream": True,
        "store": False,
        "background": True,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 16,
        "max_tool_calls": 3,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_logprobs": 2,
        "presence_penalty": -2.0,
        "frequency_penalty": 2.0,
        "parallel_tool_calls": False,
        "metadata": {"a": ""},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "seed": 7,
        "stop": ["a", "b"],
        "top_k": 40,
        "repetition_penalty": 1.1,
    }
    request = take(**given).request
    assert {name: getattr(request, name) for name in given} == given


def test_the_old_name_of_the_reasoning_summary() -> None:
    reasoning = take(reasoning={"effort": "low", "generate_summary": "concise"}).request.reasoning
    assert reasoning is not None
    assert (reasoning.effort, reasoning.summary) == ("low", "concise")


def test_unknown_keys_are_tolerated_everywhere() -> None:
    accepted = take(
        input=[{"role": "user", "content": [{"type": "input_text", "text": "x", "new": 1}], "new": {}}],
        tools=[{**TOOL, "new": True}],
        text={"format": {"type": "text", "new": 1}, "new": 1},
        reasoning={"effort": "low", "context": "x", "mode": "y"},
        access_programs=[],
        prompt_cache_retention="24h",
        image={},
    )
    assert accepted.dropped == []


def test_a_pattern_of_the_model_table_fits() -> None:
    assert take(model="meta/llama-3").request.model == "meta/llama-3"


def test_without_input_a_parent_is_needed() -> None:
    assert take(input=None, previous_response_id="resp_1").items == []
    assert take(input=[], previous_response_id="resp_1").items == []


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "user", "content": "x"},
        {"role": "user", "content": "x", "type": None},
        {"role": "user", "content": "x", "type": "message", "id": None, "status": None, "phase": None},
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
    ],
)
def test_forms_of_a_message(fields: dict[str, Any]) -> None:
    assert take(**item(**fields)).items == take(input="x").items


def test_a_text_of_the_assistant_is_output() -> None:
    (message,) = take(**item(role="assistant", content="x", phase="commentary")).items
    assert message == Message("assistant", [OutputText("x")], phase="commentary")


def test_an_image_without_detail() -> None:
    accepted = take(**user({"type": "input_image", "image_url": "data:x", "detail": None, "file_id": None}))
    (message,) = complete(accepted.items, "resp_00" + "0" * 32)
    assert isinstance(message, Message)
    assert message.content == [InputImage("data:x", detail="auto")]


def test_hosted_tools_that_nobody_asked_for_are_left_out_and_named() -> None:
    accepted = take(
        tools=[{"type": "web_search_preview_2025_03_11"}, TOOL, {"type": "namespace", "name": "n", "tools": []}],
        tool_choice="required",
    )
    assert accepted.dropped == ["tools[0] (web_search_preview_2025_03_11)", "tools[2] (namespace)"]
    assert [tool.name for tool in accepted.request.tools] == ["f"]


@pytest.mark.parametrize("choice", ["none", "auto", "required", {"type": "function", "name": "f"}, allowed("f")])
def test_choices_of_tools(choice: Any) -> None:
    assert take(tools=[TOOL], tool_choice=choice).request.tool_choice is not None


MESSAGE = sdk.ResponseOutputMessage.model_validate(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
    }
)
CALL = sdk.ResponseFunctionToolCall.model_validate(
    {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
)
THOUGHTS = sdk.ResponseReasoningItem.model_validate(
    {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
)
REFUSAL = sdk.ResponseOutputMessage.model_validate(
    {
        "id": "msg_2",
        "type": "message",
        "role": "assistant",
        "status": "incomplete",
        "content": [{"type": "refusal", "refusal": "No."}],
    }
)


@pytest.mark.parametrize("made", [MESSAGE, CALL, THOUGHTS, REFUSAL], ids=lambda made: type(made).__name__)
def test_items_that_the_official_client_dumps_can_be_sent_back(made: Any) -> None:
    short, whole = (take(input=[made.model_dump(exclude_unset=unset)]).items for unset in (True, False))
    assert short == whole  # the whole dump says null for all that was not set


def test_nulls_of_other_clients_dumps() -> None:
    logprob = {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": None}
    texts = [
        {"type": "output_text", "text": "a", "annotations": None, "logprobs": None},
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": [logprob]},
    ]
    (message,) = take(**item(type="message", role="assistant", content=texts, id=None, status=None)).items
    assert isinstance(message, Message)
    assert [part.text for part in message.content if isinstance(part, OutputText)] == ["a", "a"]
    fields = {"content": None, "encrypted_content": None, "status": None, "id": None}
    assert take(**item(type="reasoning", summary=None, **fields)).items == [Reasoning([])]


def test_items_get_ids_and_statuses() -> None:
    owner = "resp_00" + "0" * 32
    given: Any = [
        {"role": "user", "content": "x"},
        {"role": "user", "content": "x", "id": "msg_mine"},
        {"role": "user", "content": "x", "id": "not well formed", "status": "incomplete"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {"type": "reasoning", "summary": []},
    ]
    done = complete(take(input=given).items, owner)
    tail = owner.removeprefix("resp_")
    assert [each.id for each in done] == [
        f"msg_{tail}0000",
        "msg_mine",
        f"msg_{tail}0002",
        f"fc_{tail}0003",
        f"fco_{tail}0004",
        f"rs_{tail}0005",
    ]
    assert [each.status for each in done] == ["completed"] * 2 + ["incomplete"] + ["completed"] * 3


def call(call_id: str, status: Any = "completed") -> FunctionCall:
    return FunctionCall(call_id, "f", "{}", status=status)


def output(call_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(call_id, "x")


@pytest.mark.parametrize(
    "items",
    [
        [],
        [call("a"), output("a")],
        [call("a"), call("b"), output("b"), Message("user", "x"), output("a")],
        [call("a"), output("a"), call("a"), output("a")],
        [call("a", "incomplete")],
        [call("a", "incomplete"), output("a")],
    ],
)
def test_calls_and_outputs_that_pair(items: Any) -> None:
    check_pairing(items)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([call("a")], "No tool output found for function call a."),
        ([call("a"), call("b"), output("b")], "No tool output found for function call a."),
        ([output("a")], "No tool call found for function call output with call_id a."),
        ([output("a"), call("a")], "No tool call found for function call output with call_id a."),
    ],
)
def test_calls_and_outputs_that_do_not_pair(items: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_pairing(items)
    assert (caught.value.message, caught.value.param, caught.value.code) == (message, "input", None)
