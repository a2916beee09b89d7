"""Which call a tool delta belongs to, and when a call is opened.

index known          that call; but another id with a name, or with the call closed, begins a new one
no index             a name, or several entries in one delta, begin a new call each; else the last one
id missing, empty    whatever the entry's index says; the emitter makes an id
"""

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.core.emitter import Emitter
from shared.errors import UpstreamError
from worker.translate.chat_chunk import FunctionDelta, ToolDelta, whole_text

LEGACY_INDEX = -1
"""The index of ``function_call``, from before there were several."""


@dataclass(slots=True, eq=False)
class _Call:
    call_id: str = ""
    name: str = ""
    waiting: str = ""
    """Arguments that came before the call could be opened."""
    handle: int | None = None


class Calls:
    """The calls of one answer. One is open at a time; with *interleaved* the others wait until it is over."""

    def __init__(self, emit: Emitter, *, interleaved: bool) -> None:
        self._emit = emit
        self._interleaved = interleaved
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._current: _Call | None = None  # the one that was opened last
        self._half = ""  # of a surrogate pair, at the end of the last fragment

    @property
    def is_open(self) -> bool:
        return self._current is not None and self._is_open(self._current)

    def feed(self, deltas: list[ToolDelta]) -> None:
        """Raises ``UpstreamError`` for arguments of a call that is over."""
        for delta in deltas:
            function = delta.function or FunctionDelta()
            name, call_id = _word(function.name), _word(delta.id)
            call = self._find(delta.index, name, call_id, several=len(deltas) > 1)
            call.name = call.name or name
            call.call_id = call.call_id or call_id
            self._add(call, _arguments(function.arguments))

    def release(self) -> None:
        """Open what waits for another call to be over."""
        for call in self._calls:
            if call.handle is None and call.name:
                self._open(call)

    def finish(self) -> None:
        """The same at the end. Raises ``UpstreamError`` when a call with arguments never got a name."""
        self.release()
        if any(call.handle is None and call.waiting for call in self._calls):
            raise UpstreamError("The model backend sent a function call without a name.")

    def _find(self, index: Any, name: str, call_id: str, *, several: bool) -> _Call:
        index = int(index) if isinstance(index, str) and index.isdecimal() and len(index) < 10 else index
        if isinstance(index, int):
            call = self._by_index.get(index)
            other = call is not None and call.call_id and call_id and call.call_id != call_id
            if call is None or (other and (name or not self._is_open(call))):
                call = self._by_index[index] = self._new()
            return call
        return self._new() if name or several or not self._calls else self._calls[-1]

    def _new(self) -> _Call:
        self._calls.append(_Call())
        return self._calls[-1]

    def _is_open(self, call: _Call) -> bool:
        return call.handle is not None and self._emit.is_open(call.handle)

    def _add(self, call: _Call, fragment: str) -> None:
        if call.handle is None:
            call.waiting += fragment
            if call.name and not (self._interleaved and self.is_open):
                self._open(call)
        elif fragment:
            if not self._is_open(call):
                raise UpstreamError("The model backend sent arguments for a function call that was over.")
            self._emit.arguments(call.handle, self._mend(fragment))

    def _open(self, call: _Call) -> None:
        self._half = ""
        self._current = call
        call.handle = self._emit.call(call.name, call.call_id or None)
        self._emit.arguments(call.handle, self._mend(call.waiting))
        call.waiting = ""

    def _mend(self, fragment: str) -> str:
        self._half, fragment = mend(self._half, fragment)
        return fragment


def mend(half: str, text: str) -> tuple[str, str]:
    """(a half of a surrogate pair at the end, the text before it): halves of one pair in two chunks come together."""
    if text.isascii() and not half:
        return "", text
    text = half + text
    half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    return half, whole_text(text[: len(text) - len(half)])


def _word(value: Any) -> str:
    """A name or an id; empty for null, and for what is neither text nor number."""
    if isinstance(value, str):
        return whole_text(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64 else ""


def _arguments(value: Any) -> str:
    """A fragment of JSON; some servers send the arguments as the object that they are."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return msgspec.json.encode(value).decode()
    except (ValueError, OverflowError):  # halves of surrogate pairs, numbers without end
        return json.dumps(value, separators=(",", ":"))
