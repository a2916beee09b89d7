"""The OpenAPI 3.1 document of this server, from its own types (``shared.wire``) and its table of operations."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UnsetType

from api.operations import OPERATIONS, Field, Operation, StreamEvent
from shared.wire.responses import ErrorEnvelope

Json = dict[str, Any]

ERRORS = {
    400: "The request is wrong; `param` names the parameter.",
    401: "The key is missing, malformed or wrong.",
    403: "A page of another origin, where no key is needed.",
    404: "There is no such object for this key.",
    405: "There is no such method here.",
    413: "The body is too large.",
    415: "The body's Content-Encoding is unknown, or not what the body is.",
    422: "The Idempotency-Key was used with another body.",
    429: "Over a limit; see `Retry-After`.",
    500: "A fault of the server.",
    503: "Overloaded, or its store is away; see `Retry-After`.",
}
EVENT_STREAM = (
    "Server-sent events: `event: TYPE`, `data: EVENT` (one line of JSON), and `data: [DONE]` at the end; comments keep the "
    "connection alive. The schema is that of one event."
)
SOCKET = "A WebSocket: text frames, each with one message as JSON. The schema is that of one event."
EVERY_ANSWER = (
    Field("x-request-id", str, "The id of this request in the logs."),
    Field("openai-processing-ms", str, "Milliseconds until the answer began."),
)
RETRY_AFTER = Field("Retry-After", int, "Seconds, 1 to 120.")
_REF = "#/components/schemas/{name}"
_EVENT = "ResponseStreamEvent"


def describe(version: str, *, needs_key: bool) -> Json:
    """The whole document. Without *needs_key* callers may come without a key, as long as none is stored."""
    bodies, answers = [each.body for each in OPERATIONS if each.body], [each.answer for each in OPERATIONS]
    fields = [field.type for each in OPERATIONS for field in (*each.query, *each.headers, *each.takes, *EVERY_ANSWER)]
    _, asked = msgspec.json.schema_components(bodies, ref_template=_REF)
    types = [*answers, *bodies, *fields, StreamEvent, ErrorEnvelope, int]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = {id(each): schema for each, schema in zip(types, schemas, strict=True)}
    for struct in _structs(types):
        if struct.__name__ in components and struct.__name__ not in asked:
            components[struct.__name__]["required"] = _always_written(struct)
    components[_EVENT] = schema_of[id(StreamEvent)]
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Respool", "version": version, "description": "A self-hosted server for the Responses API."},
        "servers": [{"url": "/"}],
        "security": [{"key": []}] if needs_key else [{"key": []}, {}],
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schema_of: Mapping[int, Json]) -> Json:
    answer: Json = {operation.media: {"schema": schema_of[id(operation.answer)]}}
    told, status = "The answer.", "101" if operation.upgrade else "200"
    if operation.upgrade:
        answer, told = {"application/json": {"schema": {"$ref": _REF.format(name=_EVENT)}}}, SOCKET
    if operation.stream:
        answer["text/event-stream"] = {"schema": {"$ref": _REF.format(name=_EVENT)}}
        told = f"With `stream`: {EVENT_STREAM}"
    ok = {"description": told, "headers": _headers((*EVERY_ANSWER, *operation.headers), schema_of), "content": answer}
    errors = operation.errors if operation.open else {*operation.errors, 401, 500, 503}
    found: Json = {
        "operationId": _operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation, schema_of),
        "responses": {status: ok} | {str(each): _error(each, operation, schema_of) for each in sorted(errors)},
    }
    if operation.text:
        found["description"] = operation.text
    if operation.open:
        found["security"] = []
    if operation.body:
        content = {"application/json": {"schema": schema_of[id(operation.body)]}}
        found["requestBody"] = {"required": operation.needs_body, "content": content}
    return found


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path.removeprefix("/v1")) or ["root"]
    return "_".join([operation.method.lower(), *words])


def _parameters(operation: Operation, schema_of: Mapping[int, Json]) -> list[Json]:
    names = re.findall(r"\{(\w+)\}", operation.path)
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    rest = [("query", field) for field in operation.query] + [("header", field) for field in operation.takes]
    return in_path + [
        {"name": field.name, "in": place, "description": field.text, "schema": schema_of[id(field.type)]}
        for place, field in rest
    ]


def _headers(fields: Iterable[Field], schema_of: Mapping[int, Json]) -> Json:
    return {field.name: {"description": field.text, "schema": schema_of[id(field.type)]} for field in fields}


def _error(status: int, operation: Operation, schema_of: Mapping[int, Json]) -> Json:
    headers = (*EVERY_ANSWER, RETRY_AFTER) if status in (429, 503) and not operation.open else EVERY_ANSWER
    schema = schema_of[id(operation.answer if operation.open else ErrorEnvelope)]
    content = {"application/json": {"schema": schema}}
    return {"description": ERRORS[status], "headers": _headers(headers, schema_of), "content": content}


def _always_written(struct: type[msgspec.Struct]) -> list[str]:
    """What an answer always has: all fields, but those that can be unset or are left out at their default."""
    config = struct.__struct_config__
    tag = [config.tag_field] if config.tag_field else []
    fields = msgspec.structs.fields(struct)
    return tag + [
        each.encode_name
        for each in fields
        if each.required or not (config.omit_defaults or UnsetType in getattr(each.type, "__args__", ()))
    ]


def _structs(types: Iterable[Any]) -> Iterable[type[msgspec.Struct]]:
    """Every struct that *types* lead to."""
    left, seen = list(types), set()
    while left:
        each = left.pop()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each not in seen:
            seen.add(each)
            left += [field.type for field in msgspec.structs.fields(each)]
        else:
            left += getattr(each, "__args__", ())
    return seen
