"""Bytes of a create call -> an accepted request, or ``InvalidRequest`` that names the parameter.

Shapes are msgspec's to check (``shared.wire``); what a type cannot say stands in the tables here.
Source of codes and messages: the contract's error catalogue (section 1.5).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from api.decoding import MAX_TEXT_CHARS, check_length, decode
from api.items import decode_items
from shared.config import Settings, find_model
from shared.errors import InvalidRequest
from shared.wire.items import AllowedTools, FunctionChoice, FunctionTool, Item, JsonSchemaFormat, Tool
from shared.wire.requests import NULL, CreateBody, Request
from shared.wire.responses import ReasoningEcho

MAX_INT = 2**31 - 1
MAX_TOOLS = 1024
NAME = re.compile(r"[a-zA-Z0-9_-]+")
RESPONSE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_output_tokens", 16, MAX_INT),
    ("max_tool_calls", 1, MAX_INT),
    ("top_logprobs", 0, 20),
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
)
LENGTHS: tuple[tuple[str, int], ...] = (
    ("instructions", MAX_TEXT_CHARS),
    ("model", 256),
    ("safety_identifier", 128),
    ("prompt_cache_key", 1024),
    ("user", 1024),
)
NOT_OFFERED = ("conversation", "prompt", "context_management", "moderation", "multi_agent")
UNASKED_TOOL = re.compile(r"(web_search|namespace)[a-z0-9_]{0,48}")
"""Hosted tools that clients send without being asked: left out, and said so in a header."""
MAX_STOPS = 4

_decode_body = msgspec.json.Decoder(CreateBody).decode
_decode_tool = msgspec.json.Decoder(FunctionTool).decode


class _Kind(msgspec.Struct):
    type: str


_decode_kind = msgspec.json.Decoder(_Kind).decode


@dataclass(frozen=True, slots=True)
class Accepted:
    """A create call that can be submitted. ``request.id`` and ``created_at`` are still to be filled in."""

    request: Request
    items: list[Item]
    dropped: list[str] = field(default_factory=list)
    """Paths of what was accepted but cannot be honoured."""


def accept(body: bytes, settings: Settings) -> Accepted:
    """Decode and check a create call. *body* is at most ``max_body_bytes`` long."""
    create = decode(_decode_body, body)
    _check_numbers(create)
    _check_metadata(create.metadata)
    if isinstance(create.stop, list) and len(create.stop) > MAX_STOPS:
        message = (
            f"Invalid 'stop': array too long. Expected at most {MAX_STOPS} items, but got {len(create.stop)} instead."
        )
        raise InvalidRequest(message, param="stop", code="array_above_max_length")
    _check_offered(create)
    if not create.model:
        raise InvalidRequest("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    if find_model(settings.models, create.model) is None:
        message = f"The requested model '{create.model}' does not exist."
        raise InvalidRequest(message, param="model", code="model_not_found")
    if create.previous_response_id is not None:
        _check_id(create.previous_response_id)
    if create.input == NULL and create.previous_response_id is None:
        raise InvalidRequest("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    tools, dropped = _tools(create.tools or ())
    _check_choice(create, tools)
    items = decode_items(create.input, settings.max_input_items) if create.input != NULL else []
    return Accepted(_request(create, tools, len(items)), items, dropped)


def _check_numbers(create: CreateBody) -> None:
    for name, low, high in RANGES:
        value = getattr(create, name)
        if value is None or low <= value <= high:
            continue
        kind = "integer" if isinstance(value, int) else "decimal"
        side, word, limit = ("below_min", "minimum", low) if value < low else ("above_max", "maximum", high)
        sign = ">=" if value < low else "<="
        message = f"Invalid '{name}': {kind} {side.split('_')[0]} {word} value. Expected a value {sign} {limit}, but got {value} instead."
        raise InvalidRequest(message, param=name, code=f"{kind}_{side}_value")
    for name, limit in LENGTHS:
        check_length(getattr(create, name), name, limit)


def _check_metadata(metadata: dict[str, str] | None) -> None:
    if not metadata:
        return
    if len(metadata) > 16:
        message = f"Invalid 'metadata': too many properties. Expected at most 16, but got {len(metadata)} instead."
        raise InvalidRequest(message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        check_length(key, "metadata", 64)
        check_length(value, f"metadata.{key}", 512)


def _check_offered(create: CreateBody) -> None:
    for name in NOT_OFFERED:
        if getattr(create, name) is not None:
            raise _unsupported(name, f"Unsupported parameter: '{name}' is not offered by this server.")
    if create.truncation == "auto":
        raise _unsupported("truncation", "Unsupported value: 'truncation' can only be 'disabled' on this server.")
    if create.stream_options is not None and create.stream_options.include_obfuscation:
        path = "stream_options.include_obfuscation"
        raise _unsupported(path, f"Unsupported value: '{path}' can only be false on this server.")


def _unsupported(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="unsupported_parameter")


def _check_id(response_id: str) -> None:
    if not RESPONSE_ID.fullmatch(response_id):
        message = (
            f"Invalid 'previous_response_id': '{response_id[:80]}'. Expected an ID that contains letters, numbers, "
            "underscores, or dashes, but this value contained additional characters."
        )
        raise InvalidRequest(message, param="previous_response_id", code="invalid_value")


def _tools(raw: Sequence[msgspec.Raw]) -> tuple[list[Tool], list[str]]:
    if len(raw) > MAX_TOOLS:
        message = f"Invalid 'tools': array too long. Expected at most {MAX_TOOLS} items, but got {len(raw)} instead."
        raise InvalidRequest(message, param="tools", code="array_above_max_length")
    tools: list[Tool] = []
    dropped: list[str] = []
    for i, each in enumerate(raw):
        path = f"tools[{i}]"
        kind = decode(_decode_kind, each, path).type
        if kind == "function":
            tool = decode(_decode_tool, each, path)
            check_name(tool.name, f"{path}.name", 128)
            tools.append(tool)
        elif UNASKED_TOOL.fullmatch(kind):
            dropped.append(f"{path} ({kind})")
        else:
            message = f"Unsupported value: '{kind[:64]}' is not a tool that this server can run."
            raise InvalidRequest(message, param=f"{path}.type", code="unsupported_value")
    return tools, dropped


def check_name(name: str, path: str, limit: int) -> None:
    check_length(name, path, limit)
    if not NAME.fullmatch(name):
        message = f"Invalid '{path}': string does not match pattern. Expected a string that matches '^[a-zA-Z0-9_-]+$'."
        raise InvalidRequest(message, param=path, code="invalid_value")


def _check_choice(create: CreateBody, tools: Sequence[Tool]) -> None:
    choice, names = create.tool_choice, {tool.name for tool in tools}
    if isinstance(choice, FunctionChoice) and choice.name not in names:
        message = f"Tool choice '{choice.name[:128]}' not found in 'tools' parameter."
        raise InvalidRequest(message, param="tool_choice", code="invalid_value")
    if isinstance(choice, AllowedTools):
        for i, allowed in enumerate(choice.tools):
            if allowed.name not in names:
                message = f"Tool choice '{allowed.name[:128]}' not found in 'tools' parameter."
                raise InvalidRequest(message, param=f"tool_choice.tools[{i}]", code="invalid_value")
    if choice == "required" and not tools:
        message = "Tool choice 'required' must be specified with a non-empty 'tools' parameter."
        raise InvalidRequest(message, param="tool_choice", code="invalid_value")
    if create.text is not None and isinstance(create.text.format, JsonSchemaFormat):
        check_name(create.text.format.name, "text.format.name", 64)


SAME = [
    "background",
    "stream",
    "store",
    "instructions",
    "previous_response_id",
    "include",
    "max_output_tokens",
    "max_tool_calls",
    "temperature",
    "top_p",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "tool_choice",
    "metadata",
    "prompt_cache_key",
    "safety_identifier",
    "user",
    "seed",
    "stop",
    "top_k",
    "repetition_penalty",
]
"""Kept under their own name; null means the default."""


def _request(create: CreateBody, tools: list[Tool], items: int) -> Request:
    given = {name: value for name in SAME if (value := getattr(create, name)) is not None}
    text, reasoning = create.text, create.reasoning
    return Request(
        id="",
        created_at=0,
        model=create.model or "",
        tools=tools,
        format=text.format if text else None,
        verbosity=text.verbosity if text else None,
        reasoning=ReasoningEcho(reasoning.effort, reasoning.summary or reasoning.generate_summary)
        if reasoning
        else None,
        items=items,
        **given,
    )
