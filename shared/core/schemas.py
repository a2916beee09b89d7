"""JSON Schemas that strangers send: compiled without the network, and held against values.

jsonschema-rs does the work (``offline``: a remote ``$ref`` is an error, never a request). The draft is the one that
``$schema`` names, 2020-12 without it; ``format`` is not asserted. A small schema can keep it busy for years, so servers call
`compile_fault` and `value_fault` only in the process that ``shared.examiner`` keeps for that.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

from shared.core.nesting import MAX_LEVELS, too_deep

MAX_SCHEMA_BYTES = 256 << 10
BACKTRACKS = 100_000
"""What one ``pattern`` may try; then the text counts as not fitting."""
PATTERN_BYTES = 1 << 20
COMPILED = 16
TOO_DEEP = f"it is nested too deeply (at most {MAX_LEVELS} levels are taken)"
MAX_SAID_CHARS = 300

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode


class BadSchema(ValueError):
    """A schema that cannot be used; the message says why."""


def schema_text(schema: dict[str, Any]) -> str:
    """It as JSON, the same text for the same schema. Raises `BadSchema` when it is too large or too deep."""
    try:
        text = _encode(schema)
    except RecursionError:
        raise BadSchema(TOO_DEEP) from None
    except (msgspec.MsgspecError, ValueError, TypeError):
        raise BadSchema("it holds what JSON cannot say") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise BadSchema(f"it has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are taken")
    if too_deep(text):
        raise BadSchema(TOO_DEEP)
    return text.decode()


def compile_fault(text: str) -> str | None:
    """Why *text* is no schema that can be used; ``None`` when it is one."""
    try:
        _compile(text)
    except BadSchema as error:
        return str(error)
    return None


def value_fault(text: str, value: str) -> str | None:
    """What is wrong with *value*, which is JSON, in one sentence. ``None`` when it fits the schema *text*, or that is none."""
    try:
        fault = next(iter(_compile(text).iter_errors(_decode(value))), None)
    except BadSchema:  # taken by an older version of the front end: nothing can be said
        return None
    except ValueError as error:  # it is nested too deeply
        return _short(str(error))
    if fault is None:
        return None
    return f"{_place(fault.instance_path)}: {_short(fault.message)}"


@lru_cache(COMPILED)
def _compile(text: str) -> jsonschema_rs.Validator:
    options = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS, size_limit=PATTERN_BYTES)
    try:
        return jsonschema_rs.validator_for(text, offline=True, validate_formats=False, pattern_options=options)
    except (ValueError, RecursionError) as error:
        raise BadSchema(_short(str(error).partition("\n")[0])) from None


def _place(path: Sequence[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[:MAX_SAID_CHARS]


def _short(text: str) -> str:
    return text if len(text) <= MAX_SAID_CHARS else f"{text[:MAX_SAID_CHARS]}..."
