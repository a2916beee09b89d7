"""Calls and their outputs over the whole context of a request: what is said twice counts once, and everything pairs."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from shared.errors import InvalidRequest
from shared.wire.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    Message,
    Reasoning,
    StoredItem,
    ToolCall,
    ToolOutput,
)

_T = TypeVar("_T", bound=StoredItem)


@dataclass(slots=True)
class _Asked:
    """The newest call with its ``call_id``: some backends use one again in a later turn, once it is answered."""

    call: ToolCall
    output: ToolOutput | None = None

    def is_meant_by(self, call: ToolCall) -> bool:
        """*call* is this one, or wants to be."""
        if call.id is not None and call.id == self.call.id:
            return True
        return self.output is None and self.call.status != "incomplete"


def without_repeats(
    context: Iterable[StoredItem], items: Sequence[StoredItem], referenced: Container[int] = ()
) -> list[StoredItem]:
    """*items* without what *context*, or an item before, says already: clients send ``previous_response_id`` together with
    that response's output. Users may repeat themselves, and who refers to a message (*referenced*: places in
    *items*) wants it told again. Raises ``InvalidRequest`` for two calls, or two outputs, that
    claim to be the same one and differ."""
    asked: dict[str, _Asked] = {}
    spoken: dict[str, Message | Reasoning] = {}
    for item in context:
        _is_repeat(item, asked, spoken, held=True)
    return [
        item
        for place, item in enumerate(items)
        if (place in referenced and isinstance(item, Message | Reasoning))
        or not _is_repeat(item, asked, spoken, held=False)
    ]


def _is_repeat(
    item: StoredItem, asked: dict[str, _Asked], spoken: dict[str, Message | Reasoning], *, held: bool
) -> bool:
    """*held* items are stored: they stay as they are."""
    if isinstance(item, FunctionCall | CustomToolCall):
        before = asked.get(item.call_id)
        if held or before is None or not before.is_meant_by(item):
            asked[item.call_id] = _Asked(item)
            return False
        if _bare(item) != _bare(before.call):
            raise _twice("calls", item.call_id)
        return True
    if isinstance(item, FunctionCallOutput | CustomToolCallOutput):
        before = asked.get(item.call_id)
        if before is None:
            return False
        if before.output is None:
            before.output = item
            return False
        if not held and _bare(item) != _bare(before.output):
            raise _twice("outputs", item.call_id)
        return not held
    if item.id is None or not (isinstance(item, Reasoning) or (isinstance(item, Message) and item.role == "assistant")):
        return False
    known = spoken.get(item.id)
    if known is None:
        spoken[item.id] = item
        return False
    return _bare(item) == _bare(known)


def _bare(item: _T) -> _T:
    return msgspec.structs.replace(item, id=None, status=None)


def _twice(what: str, call_id: str) -> InvalidRequest:
    message = (
        f"There are two different {what} with the call_id {call_id}. Send each once: what previous_response_id or "
        "conversation brings with it need not be in the input."
    )
    return InvalidRequest(message, param="input", code="invalid_value")


def check_pairing(items: Iterable[StoredItem]) -> None:
    """Every output belongs to a call before it, and every call has an output: over the whole context.

    A call that was cut short may go without: nobody could run it.
    """
    calls: dict[str, bool] = {}
    for item in items:
        if isinstance(item, FunctionCall | CustomToolCall):
            calls[item.call_id] = item.status == "incomplete"
        elif isinstance(item, FunctionCallOutput | CustomToolCallOutput):
            if item.call_id not in calls:
                message = f"No tool call found for function call output with call_id {item.call_id}."
                raise InvalidRequest(message, param="input")
            calls[item.call_id] = True
    for call_id, answered in calls.items():
        if not answered:
            raise InvalidRequest(f"No tool output found for function call {call_id}.", param="input")
