"""What is accepted, and what is refused with which code and parameter: tables, straight on `accept`."""

import json
from typing import Any

import msgspec
import openai.types.responses as sdk
import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

from api.items import complete
from api.validate import Accepted, accept
from shared.core.compaction import KIND, encode_summary
from shared.errors import InvalidRequest
from shared.seal import Sealer
from shared.settings import ModelRow, Settings
from shared.wire.items import (
    CustomToolCallOutput,
    FunctionCallOutput,
    InputImage,
    InputText,
    Logprob,
    Message,
    OutputText,
    Reasoning,
)
from shared.wire.requests import CreateBody

SETTINGS = Settings(models={"echo": ModelRow(dialect="echo"), "meta/*": ModelRow(dialect="echo")}, max_input_items=10)
HI: dict[str, Any] = {"model": "echo", "input": "hi"}
TOOL = {"type": "function", "name": "f"}
SEAL = Sealer(["k" * 32]).bind("us", KIND)
THEIRS = Sealer(["k" * 32]).bind("them", KIND)
OTHER = Sealer(["k" * 32]).bind("us", "state")
INPUT_TEXT, OUTPUT_TEXT = ({"type": f"{way}_text", "text": "x"} for way in ("input", "output"))
CITATION: dict[str, Any] = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
AUDIO: dict[str, Any] = {"type": "input_audio"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
LONG, LONGER = "x" * 10_485_761, "string_above_max_length"
FORGED = "invalid_encrypted_content"
UNSUPPORTED, NOT_OFFERED = "unsupported_value", "unsupported_parameter"

SUMMARY = encode_summary("All is well.")
FORGERY = {"type": "compaction", "encrypted_content": f"rsp1.{'A' * 64}"}


def take(**more: Any) -> Accepted:
    return accept(json.dumps({**HI, **more}).encode(), SETTINGS, "", SEAL.open)


def item(**fields: Any) -> dict[str, Any]:
    """A change to the body: one input item."""
    return {"input": [fields]}


def user(*parts: Any) -> dict[str, Any]:
    return item(role="user", content=list(parts))


def said(*parts: Any) -> dict[str, Any]:
    return item(type="message", role="assistant", content=list(parts))


def quoting(*annotations: Any) -> dict[str, Any]:
    return said(OUTPUT_TEXT | {"annotations": list(annotations)})


def schema(**fields: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", **fields}}}


def nest(depth: int) -> Any:
    return [nest(depth - 1)] if depth else 1


SDK_KEYS = [*ResponseCreateParamsStreaming.__annotations__]
"""What the official client can send."""
EVERYTHING_KNOWN: dict[str, Any] = {
    "input": [
        {"role": "user", "content": [INPUT_TEXT, {"type": "input_image", "image_url": PIXEL}], "phase": None},
        {"role": "assistant", "content": [OUTPUT_TEXT | {"annotations": [CITATION | {"new": 1}], "logprobs": []}]},
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_2"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}], "new": None},
    ],
    "tools": [TOOL | {"parameters": {"new": 1}}, {"type": "web_search", "new": 1}, {"type": "custom", "name": "c"}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"new": {}}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto", "context": None},
    "metadata": {"new": "x"},
    "conversation": "conv_1",
}

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
    ({"previous_response_id": "x" * 129}, LONGER, "previous_response_id"),
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
    ({"seed": 2**63}, "integer_above_max_value", "seed"),
    ({"top_k": -2}, "integer_below_min_value", "top_k"),
    ({"top_k": 1.5}, TYPE, "top_k"),
    ({"repetition_penalty": -0.1}, "decimal_below_min_value", "repetition_penalty"),
    ({"repetition_penalty": 10.1}, "decimal_above_max_value", "repetition_penalty"),
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
    ({"stop": [5]}, TYPE, "stop[0]"),
    ({"user": 5}, TYPE, "user"),
    ({"prompt_cache_retention": "1h"}, VALUE, "prompt_cache_retention"),
    ({"prompt_cache_options": "x"}, TYPE, "prompt_cache_options"),
    ({"prompt_cache_options": {"mode": "x"}}, VALUE, "prompt_cache_options.mode"),
    ({"prompt_cache_options": {"ttl": "1h"}}, VALUE, "prompt_cache_options.ttl"),
    ({"parallel_tool_calls": "yes"}, TYPE, "parallel_tool_calls"),
    ({"stop": ["x"] * 5}, "array_above_max_length", "stop"),
    ({"include": "x"}, TYPE, "include"),
    ({"include": ["message.output_text.logprobs", "x"]}, VALUE, "include[1]"),
    ({"service_tier": "gold"}, VALUE, "service_tier"),
    ({"reasoning": "low"}, TYPE, "reasoning"),
    ({"reasoning": {"effort": "huge"}}, VALUE, "reasoning.effort"),
    ({"reasoning": {"summary": "long"}}, VALUE, "reasoning.summary"),
    ({"reasoning": {"generate_summary": "long"}}, VALUE, "reasoning.generate_summary"),
    # metadata
    ({"metadata": []}, TYPE, "metadata"),
    ({"metadata": {"a": 1}}, TYPE, "metadata"),
    ({"metadata": {"k" * 65: "v"}}, "string_above_max_length", "metadata"),
    ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "object_above_max_properties", "metadata"),
    # conversation
    ({"conversation": 5}, TYPE, "conversation"),
    ({"conversation": {}}, MISSING, "conversation.id"),
    ({"conversation": "@x"}, VALUE, "conversation"),
    ({"conversation": {"id": ""}}, VALUE, "conversation.id"),
    (
        {"conversation": "conv_1", "previous_response_id": "resp_1"},
        "mutually_exclusive_parameters",
        "previous_response_id",
    ),
    # known to the API, not offered here
    ({"prompt": {"id": "p"}}, NOT_OFFERED, "prompt"),
    ({"prompt": "p"}, TYPE, "prompt"),
    ({"prompt": {}}, MISSING, "prompt.id"),
    ({"prompt": {"id": "p", "variables": {"v": 5}}}, TYPE, "prompt.variables"),
    ({"multi_agent": {"enabled": True}}, NOT_OFFERED, "multi_agent"),
    ({"multi_agent": {"enabled": False, "agents": ["a"]}}, NOT_OFFERED, "multi_agent"),
    ({"context_management": [{"type": "compaction"}]}, NOT_OFFERED, "context_management"),
    ({"access_programs": {"cyber": "standard"}}, NOT_OFFERED, "access_programs"),
    ({"background_options": {"completion_window": "2h"}}, NOT_OFFERED, "background_options"),
    ({"image": {"context_compression": "enabled"}}, NOT_OFFERED, "image"),
    ({"moderation": {}}, NOT_OFFERED, "moderation"),
    ({"truncation": "maybe"}, VALUE, "truncation"),
    ({"stream_options": {"include_obfuscation": "yes"}}, TYPE, "stream_options.include_obfuscation"),
    # input
    ({"input": None}, MISSING, "input"),
    ({"input": []}, MISSING, "input"),
    ({"input": 5}, TYPE, "input"),
    ({"input": {}}, TYPE, "input"),
    ({"input": "x" * 10_485_761}, "string_above_max_length", "input"),
    ({"input": [{"role": "user", "content": "x"}] * 11}, "array_above_max_length", "input"),
    ({"input": [None]}, TYPE, "input[0]"),
    ({"input": ["x"]}, TYPE, "input[0]"),
    (item(), MISSING, "input[0].type"),
    (item(role=None, content="x"), MISSING, "input[0].role"),
    (item(content="x"), MISSING, "input[0].role"),
    (item(name="x"), MISSING, "input[0].type"),
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
    (user({"type": "input_image", "image_url": ""}), VALUE, "input[0].content[0].image_url"),
    (user({"type": "input_image", "image_url": "cat.png"}), VALUE, "input[0].content[0].image_url"),
    (user({"type": "input_image", "image_url": "file:///etc/passwd"}), VALUE, "input[0].content[0].image_url"),
    (user({"type": "input_image", "image_url": "data:image/png;base64,"}), VALUE, "input[0].content[0].image_url"),
    (user({"type": "input_image", "image_url": "data:image/png,AAAA"}), VALUE, "input[0].content[0].image_url"),
    (user({"type": "input_image", "image_url": "data:image/png;base64,A*A="}), VALUE, "input[0].content[0].image_url"),
    (user({"type": "input_image", "image_url": "data:text/plain;base64,AAAA"}), VALUE, "input[0].content[0].image_url"),
    (
        user({"type": "input_image", "image_url": "https://h/" + "x" * 20_971_520}),
        "string_above_max_length",
        "input[0].content[0].image_url",
    ),
    (user({"type": "input_image", "image_url": "https://h", "detail": "x"}), VALUE, "input[0].content[0].detail"),
    (user(OUTPUT_TEXT), VALUE, "input[0].content[0]"),
    (user(INPUT_TEXT, {"type": "refusal", "refusal": "x"}), VALUE, "input[0].content[1]"),
    (item(role="developer", content=[OUTPUT_TEXT]), VALUE, "input[0].content[0]"),
    (said(OUTPUT_TEXT, INPUT_TEXT), VALUE, "input[0].content[1]"),
    (item(role="assistant", content=[INPUT_TEXT]), VALUE, "input[0].content[0]"),
    (said({"type": "input_image", "image_url": PIXEL}), VALUE, "input[0].content[0]"),
    (quoting("x"), TYPE, "input[0].content[0].annotations[0]"),
    (quoting({}), MISSING, "input[0].content[0].annotations[0].type"),
    (quoting({"type": "footnote"}), VALUE, "input[0].content[0].annotations[0].type"),
    (quoting({"type": "url_citation", "url": "u"}), MISSING, "input[0].content[0].annotations[0].title"),
    (quoting(CITATION, CITATION | {"start_index": "0"}), TYPE, "input[0].content[0].annotations[1].start_index"),
    (user({"type": "input_audio"}), MISSING, "input[0].content[0].input_audio"),
    (user(AUDIO | {"input_audio": {"data": "AA=", "format": "mp3"}}), VALUE, "input[0].content[0].input_audio.data"),
    (user(AUDIO | {"input_audio": {"data": "", "format": "mp3"}}), VALUE, "input[0].content[0].input_audio.data"),
    (user(AUDIO | {"input_audio": {"data": "AA==", "format": "x"}}), VALUE, "input[0].content[0].input_audio.format"),
    (user({"type": "input_file"}), MISSING, "input[0].content[0].file_data"),
    (user({"type": "input_file", "file_data": ""}), MISSING, "input[0].content[0].file_data"),
    (user({"type": "input_file", "file_data": "data:application/pdf"}), VALUE, "input[0].content[0].file_data"),
    (
        user({"type": "input_file", "file_data": "AA", "filename": "x" * 1025}),
        "string_above_max_length",
        "input[0].content[0].filename",
    ),
    (
        user({"type": "input_text", "text": "x"}, {"type": "input_image", "file_id": "f"}),
        UNSUPPORTED,
        "input[0].content[1].file_id",
    ),
    (user({"type": "input_file", "file_id": "f"}), UNSUPPORTED, "input[0].content[0].file_id"),
    (user({"type": "input_file", "file_url": "f"}), VALUE, "input[0].content[0].file_url"),
    (user({"type": "input_file", "file_url": "file:///etc/passwd"}), VALUE, "input[0].content[0].file_url"),
    (
        user({"type": "input_file", "file_url": "https://a.b/c.pdf", "file_data": "AA=="}),
        "mutually_exclusive_parameters",
        "input[0].content[0].file_url",
    ),
    (
        user({"type": "input_file", "file_url": "https://a.b/" + "c" * 8192}),
        "string_above_max_length",
        "input[0].content[0].file_url",
    ),
    (user({"type": "input_file", "filename": "f"}), MISSING, "input[0].content[0].file_data"),
    (item(type="function_call", name="f", arguments="{}"), MISSING, "input[0].call_id"),
    (item(type="function_call", call_id="", name="f", arguments="{}"), VALUE, "input[0].call_id"),
    (item(type="function_call", call_id="c" * 65, name="f", arguments="{}"), VALUE, "input[0].call_id"),
    (item(type="function_call", call_id="c", name="f", arguments={}), TYPE, "input[0].arguments"),
    (item(type="function_call_output", call_id="c"), MISSING, "input[0].output"),
    (item(type="function_call_output", call_id="c", output=5), TYPE, "input[0].output"),
    (item(type="function_call_output", call_id="c", output=[{"type": "x"}]), VALUE, "input[0].output[0].type"),
    (
        item(type="function_call_output", call_id="c", output=[{"type": "input_file", "file_url": "u"}]),
        VALUE,
        "input[0].output[0].file_url",
    ),
    (item(type="function_call", call_id="c", name="f" * 129, arguments=""), "string_above_max_length", "input[0].name"),
    (item(type="custom_tool_call", call_id="c", name="f"), MISSING, "input[0].input"),
    (item(type="custom_tool_call", call_id="c", name="f", input={}), TYPE, "input[0].input"),
    (item(type="custom_tool_call", call_id="", name="f", input=""), VALUE, "input[0].call_id"),
    (item(type="custom_tool_call_output", call_id="c"), MISSING, "input[0].output"),
    (item(type="custom_tool_call_output", call_id="c", output=5), TYPE, "input[0].output"),
    (item(type="reasoning", id="rs_1"), MISSING, "input[0].summary"),
    (item(type="reasoning", summary=[{"type": "x"}]), VALUE, "input[0].summary[0].type"),
    (item(type="item_reference"), MISSING, "input[0].id"),
    (item(type="item_reference", id=5), TYPE, "input[0].id"),
    (item(id=5), TYPE, "input[0].id"),
    (item(type="compaction"), MISSING, "input[0].encrypted_content"),
    (item(type="compaction", encrypted_content=None), TYPE, "input[0].encrypted_content"),
    (item(type="compaction", encrypted_content=""), FORGED, "input[0].encrypted_content"),
    (item(type="compaction", encrypted_content="gAAAAAx"), FORGED, "input[0].encrypted_content"),
    (item(type="compaction", encrypted_content=THEIRS.seal(SUMMARY)), FORGED, "input[0].encrypted_content"),
    (item(type="compaction", encrypted_content=OTHER.seal(SUMMARY)), FORGED, "input[0].encrypted_content"),
    (item(type="compaction", encrypted_content=SEAL.seal(b"{}")), FORGED, "input[0].encrypted_content"),
    (
        {"input": [{"role": "user", "content": "x"}, {"type": "item_reference", "id": "msg_1"}, FORGERY]},
        FORGED,
        "input[2].encrypted_content",
    ),
    (
        item(type="compaction", encrypted_content="x" * 20_971_521),
        "string_above_max_length",
        "input[0].encrypted_content",
    ),
    (item(type="compaction_trigger"), UNSUPPORTED, "input[0].type"),
    (item(type="web_search_call", id="ws_1"), UNSUPPORTED, "input[0].type"),
    (item(type="mcp_call", id="mcp_1"), UNSUPPORTED, "input[0].type"),
    # lengths
    (said({"type": "output_text", "text": LONG}), LONGER, "input[0].content[0].text"),
    (item(role="assistant", content=[{"type": "refusal", "refusal": LONG}]), LONGER, "input[0].content[0].refusal"),
    (item(role="user", content=LONG), LONGER, "input[0].content"),
    (item(type="function_call", call_id="c", name="f", arguments=LONG), LONGER, "input[0].arguments"),
    (
        item(type="function_call", call_id="c", name="f", arguments="", namespace="n" * 129),
        LONGER,
        "input[0].namespace",
    ),
    (item(type="function_call_output", call_id="c", output=LONG), LONGER, "input[0].output"),
    (
        item(type="function_call_output", call_id="c", output=[{"type": "input_text", "text": LONG}]),
        LONGER,
        "input[0].output[0].text",
    ),
    (item(type="function_call_output", call_id="c" * 65, output=""), VALUE, "input[0].call_id"),
    (item(type="custom_tool_call", call_id="c", name="f", input=LONG), LONGER, "input[0].input"),
    (item(type="custom_tool_call_output", call_id="c", output=LONG), LONGER, "input[0].output"),
    (item(type="reasoning", summary=[], encrypted_content="x" * 20_971_521), LONGER, "input[0].encrypted_content"),
    (user({"type": "input_file", "file_data": "x" * 73_400_321}), LONGER, "input[0].content[0].file_data"),
    ({"tools": [{**TOOL, "name": "f" * 129}]}, LONGER, "tools[0].name"),
    # text
    ({"text": "json"}, TYPE, "text"),
    ({"text": {"format": {"type": "xml"}}}, VALUE, "text.format.type"),
    ({"text": {"verbosity": "loud"}}, VALUE, "text.verbosity"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": []}}}, TYPE, "text.format.schema"),
    (schema(schema={}), MISSING, "text.format.name"),
    (schema(name="x"), MISSING, "text.format.schema"),
    (schema(name="x y", schema={}), VALUE, "text.format.name"),
    (schema(name="x", schema={"enum": nest(100)}), "invalid_json_schema", "text.format.schema"),
    # nesting
    ({"tools": [TOOL, {**TOOL, "name": "g", "parameters": {"a": nest(100)}}]}, VALUE, "tools[1].parameters"),
    (quoting(CITATION | {"x": nest(5)}, nest(101)), VALUE, "input[0].content[0].annotations[1]"),
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
        accept(body, SETTINGS, "", SEAL.open)
    assert (caught.value.code, caught.value.param) == (None, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"input": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"input": "a \\ud83d b, cut within an emoji"}', "half of a surrogate pair"),
        (b'{"input": "a \\uDE00 b"}', "half of a surrogate pair"),
        (b'{"input": "\\\\\\ud83d\\ud83d\\ude00"}', "half of a surrogate pair"),
        (b'{"input": "\\\\ud83d \\ud83d\\ude00"', "truncated"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_why_it_is_no_json(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"could not parse the JSON body of your request: .*{reason}"):
        accept(body, SETTINGS, "", SEAL.open)


def test_messages_of_chat_completions_are_told_from_no_input() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^Missing required parameter: 'input'\. \(HINT: send 'messages' as 'input'\)$"
    ) as caught:
        accept(b'{"model": "echo", "messages": []}', SETTINGS, "", SEAL.open)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "input")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5"])
def test_what_is_no_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        accept(body, SETTINGS, "", SEAL.open)


def test_the_wording_is_the_apis() -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(max_output_tokens=10)
    assert caught.value.message == (
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 10 instead."
    )
    with pytest.raises(InvalidRequest) as caught:
        take(model="nobody")
    assert caught.value.message.startswith("The requested model 'nobody' does not exist. (HINT:")


EVERY_KEY = [
    *("instructions", "stream", "stream_options", "store", "background", "previous_response_id", "include", "text"),
    *("max_output_tokens", "max_tool_calls", "temperature", "top_p", "top_logprobs", "presence_penalty", "metadata"),
    *("frequency_penalty", "parallel_tool_calls", "tools", "tool_choice", "reasoning", "truncation", "service_tier"),
    *("prompt_cache_key", "safety_identifier", "user", "seed", "stop", "top_k", "repetition_penalty", "conversation"),
    *("prompt", "context_management", "moderation", "multi_agent", "prompt_cache_retention", "prompt_cache_options"),
]


@pytest.mark.parametrize("key", EVERY_KEY)
def test_null_is_as_good_as_absent(key: str) -> None:
    assert take(**{key: None}).request == take().request


@pytest.mark.parametrize(
    "change",
    [
        {"context_management": []},
        {"multi_agent": {"enabled": False}},
        {"access_programs": {}, "background_options": {}, "image": {}},
        {"background_options": {"completion_window": "soonest"}, "image": {"context_compression": "auto"}},
    ],
    ids=str,
)
def test_what_asks_for_nothing_is_taken(change: dict[str, Any]) -> None:
    assert take(**change).request.model == "echo"


@pytest.mark.parametrize("beside", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}], ids=str)
def test_no_input_beside_what_came_before(beside: dict[str, Any]) -> None:
    assert take(input=[], **beside).items == []
    with pytest.raises(InvalidRequest, match="'input'"):
        accept(b'{"model": "echo", "input": [ \n ]}', SETTINGS, "", SEAL.open)


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
        "truncation": "auto",
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
        prompt_cache_retention="24h",
        client_metadata={},
        temprature=None,
    )
    assert accepted.dropped == []
    assert accepted.unknown == ["client_metadata"]


def test_unknown_keys_are_refused_by_name_in_strict_mode() -> None:
    strict = msgspec.structs.replace(SETTINGS, strict_parameters=True)
    known = json.dumps({**HI, **dict.fromkeys([*CreateBody.__struct_fields__, *SDK_KEYS]), **HI}).encode()
    assert accept(known, strict, "", SEAL.open).request.model == "echo"
    accept(json.dumps({**HI, **EVERYTHING_KNOWN}).encode(), strict, "", SEAL.open)
    change: dict[str, Any]
    for change, path in (
        ({"client_metadata": {}}, "client_metadata"),
        ({"tools": [TOOL, {**TOOL, "name": "g", "container": "x"}]}, "tools[1].container"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{**TOOL, "new": 1}]}]}, "tools[0].tools[0].new"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [], "new": 1}}, "tool_choice.new"),
        ({"text": {"new": 1}}, "text.new"),
        ({"text": {"format": {"type": "json_object", "name": "x"}}}, "text.format.name"),
        ({"reasoning": {"effort": "low", "new": False}}, "reasoning.new"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"conversation": {"id": "conv_1", "new": 1}}, "conversation.new"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
        (item(role="user", content="x", new=1), "input[0].new"),
        (user(INPUT_TEXT, {**INPUT_TEXT, "new": 1}), "input[0].content[1].new"),
        (item(type=None, id="msg_1", new=1), "input[0].new"),
        (item(type="function_call_output", call_id="c", output=[{**INPUT_TEXT, "new": 1}]), "input[0].output[0].new"),
        ({"x" * 90: 1}, "x" * 80),
    ):
        with pytest.raises(InvalidRequest) as caught:
            accept(json.dumps({**HI, **change}).encode(), strict, "", SEAL.open)
        assert (caught.value.code, caught.value.param) == ("unknown_parameter", path)
        assert caught.value.message == f"Unknown parameter: '{path}'."
        take(**change) if path not in ("tool_choice.new", "input[0].output[0].new") else None


def test_references_are_set_aside() -> None:
    references: Any = [{"id": "msg_1"}, {"type": None, "id": "rs_1"}, {"type": "item_reference", "id": "fc_1"}]
    accepted = take(input=[references[0], {"role": "user", "content": "x", "id": "y"}, *references[1:]])
    assert accepted.references == {0: "msg_1", 2: "rs_1", 3: "fc_1"}
    assert [type(each) for each in accepted.items] == [Message]
    assert accepted.request.items == 4


@pytest.mark.parametrize(
    "url",
    ["https://example.org/a.png?x=1", "http://h", PIXEL, "data:image/svg+xml;charset=utf-8;base64,AAAA"],
)
def test_addresses_of_images(url: str) -> None:
    assert take(**user({"type": "input_image", "image_url": url})).items


@pytest.mark.parametrize("data", ["JVBERi0=", "data:application/pdf;base64,JVBERi0="])
def test_files_as_data(data: str) -> None:
    assert take(**user({"type": "input_file", "file_data": data, "filename": "a.pdf"})).items


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


def test_a_phase_belongs_to_the_assistant() -> None:
    for role in ("user", "system", "developer"):
        (message,) = take(**item(role=role, content="x", phase="commentary")).items
        assert message == Message(role, [InputText("x")])


def test_what_is_quoted_is_kept() -> None:
    (message,) = take(**quoting(CITATION, {"type": "file_path", "file_id": "f", "index": 0})).items
    assert isinstance(message, Message)
    assert isinstance(message.content[0], OutputText)
    assert msgspec.json.decode(message.content[0].annotations[0]) == CITATION


def test_what_items_may_leave_out_is_filled_in() -> None:
    image = {"type": "input_image", "image_url": PIXEL}
    given: Any = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [image, {**image, "detail": "low"}]},
        {"type": "custom_tool_call", "call_id": "d", "name": "f", "input": ""},
        {"type": "custom_tool_call_output", "call_id": "d", "output": [{**image, "detail": None}]},
        {"role": "assistant", "content": [{**OUTPUT_TEXT, "logprobs": [{"token": "é", "logprob": -0.5}]}]},
    ]
    _, first, _, second, message = complete(take(input=given).items, "resp_00" + "0" * 32)
    assert isinstance(first, FunctionCallOutput)
    assert isinstance(second, CustomToolCallOutput)
    assert isinstance(message, Message)
    assert first.output == [InputImage(PIXEL, detail="auto"), InputImage(PIXEL, detail="low")]
    assert second.output == [InputImage(PIXEL, detail="auto")]
    assert message.content == [OutputText("x", logprobs=[Logprob("é", -0.5, [0xC3, 0xA9])])]


def test_an_image_without_detail() -> None:
    accepted = take(**user({"type": "input_image", "image_url": PIXEL, "detail": None, "file_id": None}))
    (message,) = complete(accepted.items, "resp_00" + "0" * 32)
    assert isinstance(message, Message)
    assert message.content == [InputImage(PIXEL, detail="auto")]


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
CUSTOM = sdk.ResponseCustomToolCall.model_validate(
    {"type": "custom_tool_call", "call_id": "call_1", "name": "f", "input": "x"}
)
SEALED = sdk.ResponseReasoningItem.model_validate(
    {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "x" * 100}
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


@pytest.mark.parametrize(
    "made", [MESSAGE, CALL, CUSTOM, THOUGHTS, SEALED, REFUSAL], ids=lambda made: type(made).__name__
)
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
