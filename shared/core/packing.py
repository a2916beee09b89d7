"""An ended log, small: only what cannot be made again is kept, compressed, and the frames are rendered when it is read.

What the emitter was told (deltas, calls, the end) is enough to make every event again, byte for byte. `pack` checks that
this holds for the log at hand, and keeps the compressed frames where it does not.
A packed log is one byte (``E`` told, ``F`` frames), then zlib; inside ``E``: JSON of `_Told`.
"""

import zlib
from typing import Any

import msgspec

from shared.core.emitter import Emitter, Ending
from shared.core.frames import decode, render_all
from shared.ids import item_number
from shared.wire.events import (
    AnnotationAdded,
    ArgumentsDelta,
    Completed,
    Created,
    CustomInputDelta,
    Event,
    Failed,
    Incomplete,
    InProgress,
    ItemAdded,
    ItemDone,
    Queued,
    ReasoningTextDelta,
    RefusalDelta,
    SummaryTextDelta,
    TextDelta,
)
from shared.wire.items import CustomToolCall, FunctionCall, Logprob, Reasoning
from shared.wire.responses import Response

TOLD, FRAMES = b"E", b"F"
LEVEL = 6


class _Told(msgspec.Struct, array_like=True):
    """What an emitter was told: the first Response, the first item's number, then kinds with their arguments."""

    response: Response
    first_item: int
    steps: list[tuple[str, list[Any]]]
    obfuscate: bool = False


_encode = msgspec.json.Encoder().encode
_decode_told = msgspec.json.Decoder(_Told).decode
_DELTAS: dict[type[Event], str] = {
    RefusalDelta: "refusal",
    ReasoningTextDelta: "reasoning",
    SummaryTextDelta: "summary",
    ArgumentsDelta: "arguments",
    CustomInputDelta: "custom_input",
}


def pack(frames: bytes) -> bytes:
    """The whole log of an ended response, small. Never fails: what cannot be made again is kept as it is."""
    try:
        packed = TOLD + zlib.compress(_encode(_told(decode(frames))), LEVEL)
        if unpack(packed) == frames:
            return packed
    except (ValueError, KeyError, TypeError):
        pass  # another version's events, or damaged: the bytes themselves are kept
    return FRAMES + zlib.compress(frames, LEVEL)


def unpack(packed: bytes) -> bytes:
    """The frames, byte for byte. Raises ``ValueError`` or ``zlib.error`` for what `pack` did not make."""
    data = zlib.decompress(packed[1:])
    if packed[:1] == FRAMES:
        return data
    told = _decode_told(data)
    emitter = Emitter(told.response, next_item=told.first_item, obfuscate=told.obfuscate)
    handle = -1
    for kind, arguments in told.steps:
        match kind:
            case "text":
                for delta in arguments:
                    emitter.text(delta)
            case "logprobs":
                emitter.text(arguments[0], msgspec.convert(arguments[1], list[Logprob]))
            case "refusal" | "reasoning" | "summary":
                grow = getattr(emitter, kind)
                for delta in arguments:
                    grow(delta)
            case "call":
                handle = emitter.call(*arguments)
            case "custom_call":
                handle = emitter.custom_call(*arguments)
            case "arguments" | "custom_input":
                feed = getattr(emitter, kind)
                for delta in arguments:
                    feed(handle, delta)
            case "annotation":
                emitter.annotation(msgspec.Raw(arguments[0].encode()))
            case "state":
                emitter.state(arguments[0])
            case "end":
                emitter.end(msgspec.convert(arguments[0], Ending), at=arguments[1])
            case _:
                getattr(emitter, kind)()
    return render_all(emitter.take())


def _told(events: list[Event]) -> _Told:
    """Raises ``ValueError`` when *events* are not a whole log."""
    created = events[0] if events else None
    if not isinstance(created, Created):
        raise ValueError("a log begins with response.created")
    told = _Told(created.response, 0, [("created", [])])
    for event in events[1:]:
        _tell(told, event)
        told.obfuscate = told.obfuscate or isinstance(getattr(event, "obfuscation", None), str)
    return told


def _tell(told: _Told, event: Event) -> None:
    steps = told.steps
    match event:
        case TextDelta() if event.logprobs:
            steps.append(("logprobs", [event.delta, event.logprobs]))
        case TextDelta():
            _extend(steps, "text", event.delta)
        case RefusalDelta() | ReasoningTextDelta() | SummaryTextDelta() | ArgumentsDelta() | CustomInputDelta():
            _extend(steps, _DELTAS[type(event)], event.delta)
        case ItemAdded():
            if event.output_index == 0:
                told.first_item = item_number(event.item.id or "")
            if isinstance(event.item, FunctionCall):
                steps.append(("call", _opening(event.item)))
            elif isinstance(event.item, CustomToolCall):
                steps.append(("custom_call", _opening(event.item)))
        case ItemDone():
            if isinstance(event.item, Reasoning) and event.item.encrypted_content is not None:
                steps.append(("state", [event.item.encrypted_content]))
        case AnnotationAdded():
            steps.append(("annotation", [bytes(event.annotation).decode()]))
        case Queued():
            steps.append(("queued", []))
        case InProgress():
            steps.append(("in_progress", []))
        case Completed() | Incomplete() | Failed():
            response = event.response
            reason = response.incomplete_details.reason if response.incomplete_details else None
            ending = Ending(response.status, response.usage, reason, response.error)  # type: ignore[arg-type]  # a last event's response has ended
            steps.append(("end", [ending, response.completed_at or 0]))


def _opening(call: FunctionCall | CustomToolCall) -> list[str]:
    return [call.name, call.call_id, *([call.namespace] if call.namespace is not None else [])]


def _extend(steps: list[tuple[str, list[Any]]], kind: str, delta: str) -> None:
    """Neighbours of one kind share a step."""
    if steps[-1][0] == kind:
        steps[-1][1].append(delta)
    else:
        steps.append((kind, [delta]))
