"""JSON Schemas that strangers send: compiled with bounds, without the network, and kept by their text.

jsonschema-rs does the work (``offline``: a remote ``$ref`` is an error, never a request). The draft is the one that
``$schema`` names, 2020-12 without it; ``format`` is not asserted.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

MAX_SCHEMA_BYTES = 256 << 10
BACKTRACKS = 100_000
"""What one ``pattern`` may try; then the text counts as not fitting."""
PATTERN_BYTES = 1 << 20
COMPILED = 128
MAX_SAID_CHARS = 300

_encode = msgspec.json.Encoder(order="sorted").encode


class BadSchema(ValueError):
    """A schema that cannot be used; the message says why."""


def check_schema(schema: dict[str, Any]) -> int:
    """Its size in bytes. Raises `BadSchema`."""
    text = _text(schema)
    _compile(text)
    return len(text)


def find_fault(schema: dict[str, Any], value: Any) -> str | None:
    """What is wrong with *value* (decoded JSON), in one sentence; ``None`` when it fits. Raises `BadSchema`."""
    try:
        fault = next(iter(_compile(_text(schema)).iter_errors(value)), None)
    except ValueError as error:  # it is nested too deeply
        return _short(str(error))
    if fault is None:
        return None
    return f"{_place(fault.instance_path)}: {_short(fault.message)}"


def _text(schema: dict[str, Any]) -> bytes:
    try:
        text = _encode(schema)
    except RecursionError:
        raise BadSchema("it is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError, TypeError):
        raise BadSchema("it holds what JSON cannot say") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise BadSchema(f"it has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are taken")
    return text


@lru_cache(COMPILED)
def _compile(text: bytes) -> jsonschema_rs.Validator:
    options = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS, size_limit=PATTERN_BYTES)
    try:
        return jsonschema_rs.validator_for(text.decode(), offline=True, validate_formats=False, pattern_options=options)
    except (ValueError, RecursionError) as error:
        raise BadSchema(_short(str(error).partition("\n")[0])) from None


def _place(path: Sequence[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[:MAX_SAID_CHARS]


def _short(text: str) -> str:
    return text if len(text) <= MAX_SAID_CHARS else f"{text[:MAX_SAID_CHARS]}..."
