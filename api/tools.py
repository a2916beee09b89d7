"""``tools`` and ``tool_choice`` of a create call."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from api.decoding import check_length, check_nesting, decode, missing_parameter
from api.schemas import GivenSchema, given_schema
from shared.core.tools import Offer, fits, offers
from shared.errors import InvalidRequest
from shared.wire.items import (
    AllowedTools,
    CustomChoice,
    CustomFormat,
    CustomTool,
    FunctionChoice,
    FunctionTool,
    NamespaceTool,
    Tool,
    ToolChoice,
)

MAX_TOOLS = 1024
MAX_NAME_CHARS = 128
CHECKED_BYTES = 64 << 10
"""So much of strict functions' schemas is compiled for one call; the backend judges the rest."""
NAME = re.compile(r"[a-zA-Z0-9_-]+")
UNASKED = re.compile(r"(web_search)[a-z0-9_]{0,48}")
"""Hosted tools that clients send without being asked: left out, and said so in a header."""


class _Kind(msgspec.Struct):
    type: str


class _Namespace(msgspec.Struct):
    name: str
    tools: list[msgspec.Raw]
    description: str | None = None


_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_namespace = msgspec.json.Decoder(_Namespace).decode
_DECODERS: dict[str, Any] = {
    "function": msgspec.json.Decoder(FunctionTool).decode,
    "custom": msgspec.json.Decoder(CustomTool).decode,
}


def decode_tools(raw: Sequence[msgspec.Raw]) -> tuple[list[Tool], list[str]]:
    """(the tools, paths of those that were left out)."""
    tools: list[Tool] = []
    dropped: list[str] = []
    _check_count(raw)
    for i, each in enumerate(raw):
        path = f"tools[{i}]"
        kind = decode(_decode_kind, each, path).type
        if kind == "namespace":
            namespace = _decode_members(each, path)
            if namespace.tools:
                tools.append(namespace)
                continue
        if kind == "namespace" or UNASKED.fullmatch(kind):
            dropped.append(f"{path} ({kind})")
        else:
            tools.append(_decode_tool(each, kind, path))
    offered = list(offers(tools))
    _check_count(offered)
    _check_unique(offered)
    return tools, dropped


def _decode_members(raw: msgspec.Raw, path: str) -> NamespaceTool:
    body: _Namespace = decode(_decode_namespace, raw, path)
    check_name(body.name, f"{path}.name", MAX_NAME_CHARS)
    members = []
    for k, member in enumerate(body.tools):
        kind = decode(_decode_kind, member, f"{path}.tools[{k}]").type
        members.append(_decode_tool(member, kind, f"{path}.tools[{k}]"))
    return NamespaceTool(body.name, members, body.description or "")


def _decode_tool(raw: msgspec.Raw, kind: str, path: str) -> FunctionTool | CustomTool:
    decoder = _DECODERS.get(kind)
    if decoder is None:
        message = f"Unsupported value: '{kind[:64]}' is not a tool that this server can run."
        raise InvalidRequest(message, param=f"{path}.type", code="unsupported_value")
    try:
        tool: FunctionTool | CustomTool = decode(decoder, raw, path)
    except InvalidRequest as error:
        if error.param == f"{path}.name" and "function" in decode(_decode_keys, raw, path):
            raise missing_parameter(
                error.param, "what Chat Completions has in 'function' stands beside 'type'"
            ) from None
        raise
    check_name(tool.name, f"{path}.name", MAX_NAME_CHARS)
    if isinstance(tool, FunctionTool) and tool.parameters:
        check_nesting(raw, f"{path}.parameters")
    if isinstance(tool, CustomTool):
        tool.format = tool.format or CustomFormat()
        if tool.format.type == "grammar":
            message = "Unsupported value: a custom tool's format can only be 'text' on this server."
            raise InvalidRequest(message, param=f"{path}.format", code="unsupported_value")
    return tool


def _check_count(tools: Sequence[object]) -> None:
    if len(tools) > MAX_TOOLS:
        message = f"Invalid 'tools': array too long. Expected at most {MAX_TOOLS} items, but got {len(tools)} instead."
        raise InvalidRequest(message, param="tools", code="array_above_max_length")


def _check_unique(offered: Sequence[Offer]) -> None:
    seen: set[str] = set()
    for offer in offered:
        if offer.name in seen:
            message = f"Invalid '{offer.path}.name': there is another tool called '{offer.name}'."
            raise InvalidRequest(message, param=f"{offer.path}.name", code="invalid_value")
        seen.add(offer.name)


def schemas_of(tools: Sequence[Tool]) -> list[GivenSchema]:
    """Those of strict functions, to be examined."""
    schemas: list[GivenSchema] = []
    left = CHECKED_BYTES
    for offer in offers(tools):
        tool = offer.tool
        if isinstance(tool, FunctionTool) and tool.strict and tool.parameters and left > 0:
            owner, path = f"function '{tool.name}'", f"{offer.path}.parameters"
            schemas.append(given_schema(tool.parameters, owner, path, "invalid_function_parameters"))
            left -= len(schemas[-1].text)
    return schemas


def check_name(name: str, path: str, limit: int) -> None:
    check_length(name, path, limit)
    if not NAME.fullmatch(name):
        message = f"Invalid '{path}': string does not match pattern. Expected a string that matches '^[a-zA-Z0-9_-]+$'."
        raise InvalidRequest(message, param=path, code="invalid_value")


def check_choice(choice: ToolChoice | None, tools: Sequence[Tool]) -> None:
    """What *choice* names is among *tools*; what it demands can be had."""
    offered = list(offers(tools))
    if isinstance(choice, FunctionChoice | CustomChoice) and not any(fits(choice, offer) for offer in offered):
        raise _not_found(choice.name, "tool_choice")
    usable = len(offered)
    if isinstance(choice, AllowedTools):
        usable = 0
        for i, allowed in enumerate(choice.tools):
            if any(fits(allowed, offer) for offer in offered):
                usable += 1
            elif not UNASKED.fullmatch(allowed.type):
                raise _not_found(allowed.name or allowed.type, f"tool_choice.tools[{i}]")
    if (choice.mode if isinstance(choice, AllowedTools) else choice) == "required" and not usable:
        message = "Tool choice 'required' must be specified with a non-empty 'tools' parameter."
        raise InvalidRequest(message, param="tool_choice", code="invalid_value")


def _not_found(name: str, param: str) -> InvalidRequest:
    message = f"Tool choice '{name[:128]}' not found in 'tools' parameter."
    return InvalidRequest(message, param=param, code="invalid_value")
