"""Custom tools over Chat Completions: a function with one text field ``input``, unwrapped again as it streams."""

import json
import re
from typing import Any, Literal

from shared.errors import UpstreamError
from shared.wire.items import CustomTool
from worker.translate.chat_chunk import whole_text

Json = dict[str, Any]

_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_MAX_HEAD_CHARS = 64
MAX_HELD_CHARS = 1 << 20
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def plan_function(tool: CustomTool, name: str) -> Json:
    """The function that stands for *tool*."""
    field = {"type": "string", "description": "The whole input of the tool, as free text."}
    function: Json = {"name": name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = {
        "type": "object", "properties": {"input": field}, "required": ["input"], "additionalProperties": False,
    }  # fmt: skip
    return function


def wrap(text: str) -> str:
    """An earlier call's input as the arguments of that function."""
    return json.dumps({"input": text}, ensure_ascii=False, separators=(",", ":"))


class Unwrapper:
    """Fragments of ``{"input": "..."}`` to the text inside, as far as it is certain.

    Arguments of another form come whole, at the end: the one text in them, else as they are.
    """

    def __init__(self) -> None:
        self._state: Literal["head", "inside", "over", "other"] = "head"
        self._held = ""

    def feed(self, fragment: str) -> str:
        if self._state == "over":
            return ""
        self._held += fragment
        if len(self._held) > MAX_HELD_CHARS:
            raise UpstreamError("The model backend sent a custom tool's input in a form that cannot be streamed.")
        if self._state == "head":
            head = _HEAD.match(self._held)
            if head is not None:
                self._state, self._held = "inside", self._held[head.end() :]
            elif len(self._held) > _MAX_HEAD_CHARS:
                self._state = "other"
        return self._read() if self._state == "inside" else ""

    def finish(self) -> str:
        """What is left at the end."""
        if self._state in ("inside", "over"):
            return ""
        whole = self._held
        try:
            value = json.loads(whole) if whole.strip() else ""
        except (ValueError, RecursionError):
            return whole
        if isinstance(value, dict):
            texts = [member for member in value.values() if isinstance(member, str)]
            if isinstance(value.get("input"), str):
                return whole_text(value["input"])
            return whole_text(texts[0]) if len(value) == len(texts) == 1 else "" if not value else whole
        return whole_text(value) if isinstance(value, str) else whole

    def _read(self) -> str:
        found: list[str] = []
        text, at = self._held, 0
        while at < len(text):
            if plain := _PLAIN.match(text, at):
                found.append(plain.group())
                at = plain.end()
                continue
            if text[at] == '"':
                self._state, at = "over", len(text)
                break
            escape = text[at : at + 2]
            if len(escape) < 2:
                break
            if escape[1] != "u":
                found.append(_ESCAPES.get(escape[1], escape[1]))
                at += 2
                continue
            taken, letter = _unicode(text, at)
            if not taken:
                break
            found.append(letter)
            at += taken
        self._held = text[at:]
        return "".join(found)


def _unicode(text: str, at: int) -> tuple[int, str]:
    """(length, letter) of the escape at *at*; length 0 when its end, or its other half, is still to come."""
    first = _unit(text, at)
    if first is None:
        return (0, "") if len(text) - at < 6 else (6, "\ufffd")
    if not 0xD800 <= first < 0xE000:
        return 6, chr(first)
    if first >= 0xDC00:
        return 6, "\ufffd"
    rest = text[at + 6 : at + 12]
    if len(rest) < 6 and "\\u".startswith(rest[:2]):
        return 0, ""
    second = _unit(text, at + 6)
    if second is None or not 0xDC00 <= second < 0xE000:
        return 6, "\ufffd"
    return 12, chr(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))


def _unit(text: str, at: int) -> int | None:
    digits = text[at + 2 : at + 6]
    if text[at : at + 2] != "\\u" or len(digits) < 4:
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return None
