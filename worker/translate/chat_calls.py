"""Which call a tool delta belongs to, and when a call is opened.

index known          that call; but another id with a name, or with the call closed, begins a new one, and so do a name and
                     arguments without an id, once those of the call are whole or it is closed
no index             that of the id, as long as its arguments are not whole; a name, or several entries in one delta, begin
                     a new call each; else the last
id missing, empty    whatever the entry's index says; the emitter makes an id
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared.core.emitter import Emitter
from shared.core.tools import Offer
from shared.errors import UpstreamError
from shared.wire.items import CustomTool
from worker.translate.chat_chunk import FunctionDelta, ToolDelta, whole_text
from worker.translate.chat_state import Thoughts
from worker.translate.custom_tools import Unwrapper
from worker.translate.json_end import JsonEnd

MAX_CALLS = 1024
MAX_WAITING_CHARS = 1 << 20
"""Bounds of what is held back, and so not yet counted as output."""
LEGACY_INDEX = -1
"""The index of ``function_call``, from before there were several."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The tools that the model was told of, by name, and the only ones it may call (``None``: no limit)."""

    tools: Mapping[str, Offer]
    limit: frozenset[str] | None
    parallel: bool = True
    """Whether it may make several calls."""


ANYTHING = Offered({}, None)


@dataclass(slots=True, eq=False)
class _Call:
    call_id: str = ""
    """Theirs."""
    shown_id: str = ""
    """Ours, once it is open."""
    name: str = ""
    waiting: str = ""
    """Arguments that came before the call could be opened."""
    handle: int | None = None
    unwrap: Unwrapper | None = None
    """Of an open call of a custom tool."""
    extra: Any = None
    """State that came before the call could be opened."""
    end: JsonEnd = field(default_factory=JsonEnd)
    """Of its arguments."""


class Calls:
    """The calls of one answer. One is open at a time; with *interleaved* the others wait until it is over."""

    def __init__(
        self, emit: Emitter, *, interleaved: bool, offered: Offered = ANYTHING, thoughts: Thoughts | None = None
    ) -> None:
        self._emit = emit
        self._thoughts = thoughts
        self._offered = offered
        self._interleaved = interleaved
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._current: _Call | None = None  # the one that was opened last
        self._half = ""  # of a surrogate pair, at the end of the last fragment
        self._pieces: list[str] = []  # of the open function's arguments
        self.warnings: list[str] = []
        """What the client has to live with; for the log."""

    @property
    def is_open(self) -> bool:
        return self._current is not None and self._is_open(self._current)

    def feed(self, deltas: list[ToolDelta]) -> None:
        """Raises ``UpstreamError`` for arguments of a call that is over."""
        for delta in deltas:
            function = delta.function or FunctionDelta(delta.name, delta.arguments)
            name, call_id = _word(function.name), _word(delta.id)
            fragment = _arguments(function.arguments)
            call = self._find(delta.index, name, call_id, several=len(deltas) > 1, empty=not fragment.strip())
            call.name = call.name or name
            call.call_id = call.call_id or call_id
            if delta.extra_content:
                self._add_extra(call, delta.extra_content)
            self._add(call, fragment)

    def release(self) -> None:
        """The open call is over: open what waits for that."""
        self._complete()
        for call in self._calls:
            if call.handle is None and call.name:
                self._open(call)

    def finish(self) -> None:
        """The same at the end. Raises ``UpstreamError`` when a call with arguments never got a name."""
        self.release()
        self._complete()
        if any(call.handle is None and call.waiting for call in self._calls):
            raise UpstreamError("The model backend sent a function call without a name.")

    def _find(self, index: Any, name: str, call_id: str, *, several: bool, empty: bool) -> _Call:
        """*several* deltas came at once; this one is *empty* when it holds no arguments."""
        if (isinstance(index, str) and index.isdecimal() and len(index) < 10) or isinstance(index, float):
            index = int(index) if float(index).is_integer() else None
        if isinstance(index, int):
            call = self._by_index.get(index)
            if call is None or self._begins_another(call, name, call_id, empty=empty):
                call = self._by_index[index] = self._new()
            return call
        named = [call for call in self._calls if call_id and call.call_id == call_id][-1:]
        if named and not (name and self._is_over(named[0])):
            return named[0]
        return self._new() if name or several or not self._calls else self._calls[-1]

    def _begins_another(self, call: _Call, name: str, call_id: str, *, empty: bool) -> bool:
        """Whether what comes at the index of *call* is another call: not all servers count."""
        if call.call_id and call_id:
            return call.call_id != call_id and (bool(name) or not self._is_open(call))
        return bool(name and call.name) and not empty and self._is_over(call)

    def _is_over(self, call: _Call) -> bool:
        """Whether nothing more can belong to it."""
        return call.end.reached or (call.handle is not None and not self._is_open(call))

    def _new(self) -> _Call:
        if len(self._calls) >= MAX_CALLS:
            raise UpstreamError(f"The model backend made more than {MAX_CALLS} function calls.")
        self._calls.append(_Call())
        return self._calls[-1]

    def _is_open(self, call: _Call) -> bool:
        return call.handle is not None and self._emit.is_open(call.handle)

    def _add_extra(self, call: _Call, extra: Any) -> None:
        if call.handle is None:
            call.extra = extra
        elif self._thoughts is not None:
            self._thoughts.call(call.shown_id, extra)

    def _add(self, call: _Call, fragment: str) -> None:
        call.end.feed(fragment)
        if call.handle is None:
            call.waiting += fragment
            if len(call.waiting) > MAX_WAITING_CHARS:
                raise UpstreamError("The model backend sent too much of a function call before its name.")
            if call.name and not (self._interleaved and self.is_open):
                self._open(call)
        elif fragment:
            if not self._is_open(call):
                raise UpstreamError("The model backend sent arguments for a function call that was over.")
            self._tell(call, call.handle, fragment)

    def _open(self, call: _Call) -> None:
        """Raises ``UpstreamError`` when the request did not allow it: what is shown of it could be run."""
        if self._offered.limit is not None and call.name not in self._offered.limit:
            raise UpstreamError(f"The model called {call.name[:64]!r}, which 'tool_choice' does not allow.")
        self._complete()
        if self._current is not None and not self._offered.parallel:
            self._warn("several calls came, although parallel_tool_calls was false")
        self._half = ""
        self._current = call
        call.shown_id = self._emit.reserve(call.call_id)
        if self._thoughts is not None:
            self._thoughts.call(call.shown_id, call.extra)
            self._thoughts.release()
            self._thoughts.late = True
        offer = self._offered.tools.get(call.name)
        name, namespace = (offer.tool.name, offer.namespace) if offer else (call.name, None)
        if offer is not None and isinstance(offer.tool, CustomTool):
            call.unwrap = Unwrapper()
            call.handle = self._emit.custom_call(name, call.shown_id, namespace)
        else:
            call.handle = self._emit.call(name, call.shown_id, namespace)
        self._tell(call, call.handle, call.waiting)
        call.waiting = ""

    def _tell(self, call: _Call, handle: int, fragment: str) -> None:
        fragment = self._mend(fragment)
        if call.unwrap is None:
            self._pieces.append(fragment)
            self._emit.arguments(handle, fragment)
        else:
            self._emit.custom_input(handle, call.unwrap.feed(fragment))

    def _complete(self) -> None:
        """The rest of an open custom call's input, before something else closes it; arguments are looked at."""
        call, arguments, self._pieces = self._current, "".join(self._pieces), []
        if arguments and not _is_json(arguments):
            self._warn("arguments of a call are no JSON")
        if call is not None and call.unwrap is not None and call.handle is not None and self._is_open(call):
            self._emit.custom_input(call.handle, call.unwrap.finish())
            call.unwrap = None

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

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
    return value or "" if value is None or isinstance(value, str) else compact(value)


def compact(value: Any) -> str:
    """JSON without spaces."""
    try:
        return msgspec.json.encode(value).decode()
    except (ValueError, OverflowError):  # halves of surrogate pairs, numbers without end
        return json.dumps(value, separators=(",", ":"))


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
