"""What a client says over a WebSocket, and what is said back to it beside the events of its responses.

A message is one JSON object in one text frame; its ``type`` says what it is.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from api.decoding import decode, missing_parameter
from shared.errors import ApiError, InvalidRequest

STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
TYPES = "response.create", "response.steer"
NOT_IN_THE_BODY = "type", "stream_id", "generate", "stream", "stream_options"
"""Of a ``response.create``: the first ones belong to the message, and it is always streamed."""

Fields = dict[str, msgspec.Raw]
_encode = msgspec.json.Encoder().encode
_decode_fields: Callable[[bytes], Fields] = msgspec.json.Decoder(Fields).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_flag = msgspec.json.Decoder(bool | None).decode
_EMPTY = msgspec.Raw(b'""')


class Create(msgspec.Struct):
    """A ``response.create``. The default lane has no ``stream_id``."""

    stream_id: str
    parent: str
    """The ``previous_response_id``, if there is one."""
    text: bytes
    """As it came, for decoded it is many times as large: it is decoded when its turn has come, and then let go."""


class ErrorTold(msgspec.Struct, omit_defaults=True):
    """``headers`` are those that an HTTP answer with this error would have."""

    type: str
    code: str
    """Never null: clients of the Open Responses specification want a text."""
    message: str
    param: str | None
    headers: dict[str, str] = {}


class ErrorEvent(msgspec.Struct, tag_field="type", tag="error", omit_defaults=True):
    """In place of a response, or of the rest of one. ``status`` is that of an HTTP answer with the same error."""

    status: int
    error: ErrorTold
    stream_id: str = ""


class SteerTold(msgspec.Struct):
    previous_response_id: msgspec.Raw
    input: msgspec.Raw


class SteerFailed(msgspec.Struct, tag_field="type", tag="response.steer.failed", omit_defaults=True):
    error: ErrorTold
    steer: SteerTold
    stream_id: str = ""


def decode_message(data: bytes) -> Fields:
    """Raises ``InvalidRequest`` for what is no JSON object in UTF-8."""
    fields: Fields = decode(_decode_fields, data)
    return fields


def stream_id_of(fields: Fields) -> str:
    """Which lane a message is for; empty for the default one."""
    raw = fields.get("stream_id")
    if raw is None or bytes(raw) == b"null":
        return ""
    try:
        given = _decode_text(raw)
    except msgspec.DecodeError:
        given = ""
    if not STREAM_ID.fullmatch(given):
        message = "Invalid 'stream_id': expected 1 to 256 letters, digits, underscores, dots or dashes."
        raise InvalidRequest(message, param="stream_id", code="invalid_stream_id")
    return given


def type_of(fields: Fields) -> str:
    """One of ``TYPES``."""
    if "type" not in fields:
        raise missing_parameter("type")
    given: str = decode(_decode_text, fields["type"], "type")
    if given not in TYPES:
        message = f"Invalid value for 'type': '{given[:64]}'. Supported values are: {', '.join(TYPES)}"
        raise InvalidRequest(message, param="type", code="invalid_value")
    return given


def parent_of(fields: Fields) -> str:
    """The ``previous_response_id``, as far as there is one; whether it is a good one is looked at elsewhere."""
    try:
        parent: Any = _decode_text(fields.get("previous_response_id", _EMPTY))
    except msgspec.DecodeError:
        return ""
    return str(parent)


def generates(fields: Fields) -> bool:
    """Whether a ``response.create`` wants output: with ``generate`` false it only prepares what the next turn continues."""
    wanted: bool | None = decode(_decode_flag, fields["generate"], "generate") if "generate" in fields else None
    return wanted is not False


def body_of(fields: Fields) -> bytes:
    """The body of the POST that a ``response.create`` stands for."""
    if bytes(fields.get("background", b"")) == b"true":
        message = "Unsupported parameter: 'background' is not supported over a WebSocket. Use POST /v1/responses."
        raise InvalidRequest(message, param="background", code="unsupported_parameter")
    given = {name: raw for name, raw in fields.items() if name not in NOT_IN_THE_BODY}
    return _encode({**given, "stream": True})


def error_event(error: ApiError, stream_id: str = "") -> bytes:
    body = error.body()
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else {}
    told = ErrorTold(body.type, body.code or body.type, body.message, body.param, headers)
    return _encode(ErrorEvent(error.status, told, stream_id))


def steer_failed(fields: Fields, stream_id: str) -> bytes:
    """The answer to every ``response.steer``: it gets its input back."""
    told = ErrorTold("invalid_request_error", "steering_not_supported", "This server does not support steering.", None)
    steer = SteerTold(fields.get("previous_response_id", _EMPTY), fields.get("input", _EMPTY))
    return _encode(SteerFailed(told, steer, stream_id))
