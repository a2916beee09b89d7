"""Decode a client's bytes; msgspec's families of errors become ``InvalidRequest`` with the parameter's path."""

import re
from typing import Any

import msgspec

from api.supported import supported
from shared.core.nesting import MAX_LEVELS, too_deep
from shared.errors import InvalidRequest

MAX_TEXT_CHARS = 10_485_760
MAX_SHOWN_CHARS = 80


def decode(decoder: Any, data: bytes, prefix: str = "") -> Any:
    """*decoder* on *data*; each of msgspec's families of errors becomes ours, with the path behind *prefix*."""
    try:
        if type(data) is bytes and not data.isascii():  # Raw was checked as part of its body
            data.decode()
        return decoder(data)
    except msgspec.ValidationError as error:
        kind = getattr(getattr(decoder, "__self__", None), "type", None)  # of a ``Decoder.decode``
        raise explain(str(error), prefix, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"We could not parse the JSON body of your request{f' at {prefix!r}' if prefix else ''}: {_why(data, error)}."
        raise InvalidRequest(message, param=prefix or None) from None


def _why(data: bytes, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = bytes(data)
    if not text.strip():
        return "it is empty. Send a JSON object"
    if isinstance(error, msgspec.DecodeError) and _HALF_PAIR.search(text):
        return (
            "it holds half of a surrogate pair (an escape from \\ud800 to \\udfff without its other half), "
            "which is no character. Perhaps a text was cut within an emoji"
        )
    return str(error)


_HALF_PAIR = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
"""Good enough to choose a text for what is no JSON anyway."""


def check_nesting(raw: msgspec.Raw, path: str) -> None:
    if too_deep(bytes(raw)):
        message = (
            f"Invalid '{path}': nested too deeply. Expected at most {MAX_LEVELS} arrays and objects within each other."
        )
        raise InvalidRequest(message, param=path, code="invalid_value")


_PATH = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_CHOICE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_TYPES = re.compile(r"Expected `(.*?)`(?:, got `(.*)`)?")


def explain(text: str, prefix: str = "", kind: Any = None) -> InvalidRequest:
    """msgspec's message about a *kind* as the API's error: ``missing_required_parameter``, ``invalid_type`` or
    ``invalid_value``."""
    found = _PATH.match(text)
    what, place = (found.group(1), found.group(2) or "") if found else (text, "")
    inner = place.replace("[...]", "")
    path = f"{prefix}{'' if not prefix or not inner or inner.startswith('[') else '.'}{inner}"
    if missing := _MISSING.fullmatch(what):
        path = f"{path}.{missing.group(1)}" if path else missing.group(1)
        return missing_parameter(path)
    if types := _TYPES.match(what):
        wanted = types.group(1).replace("| null", "").replace("|", "or").strip()
        got = f", but got {types.group(2)} instead" if types.group(2) else ""
        if not path:
            return InvalidRequest(f"The body must be a JSON object{got}.")
        shown = f"a value in '{path}'" if place.endswith("[...]") else f"'{path}'"
        return InvalidRequest(f"Invalid type for {shown}: expected {wanted}{got}.", param=path, code="invalid_type")
    choice = _CHOICE.fullmatch(what)
    if choice and kind is not None and (values := supported(kind, place)):
        what = f"{choice.group(1)[:MAX_SHOWN_CHARS]}. Supported values are: {', '.join(values)}"
    return InvalidRequest(f"Invalid value for '{path}': {what}.", param=path or None, code="invalid_value")


def missing_parameter(path: str, hint: str = "") -> InvalidRequest:
    message = f"Missing required parameter: '{path}'.{f' (HINT: {hint})' if hint else ''}"
    return InvalidRequest(message, param=path, code="missing_required_parameter")


def check_length(text: str | None, path: str, limit: int) -> None:
    if text is not None and len(text) > limit:
        message = (
            f"Invalid '{path}': string too long. Expected at most {limit} characters, but got {len(text)} instead."
        )
        raise InvalidRequest(message, param=path, code="string_above_max_length")
