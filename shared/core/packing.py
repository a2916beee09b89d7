"""An ended response, small: only what cannot be made again is kept, compressed, and the rest is made when it is read.

What the emitter was told (deltas, calls, the end) is enough to make every event again, byte for byte, and the Response.
`pack` checks that this holds for the log at hand, and keeps the compressed frames where it does not.
A packed log is one byte (``E`` told, ``F`` frames), then zlib; inside ``E``: JSON of `_Told`. An output without a log is
``Z``, then zlib; what begins otherwise is not packed.
"""

import zlib
from itertools import accumulate
from typing import Any

import msgspec

from shared.core.emitter import Emitter, Ending
from shared.core.frames import decode
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
    PartAdded,
    PartDone,
    Queued,
    ReasoningTextDelta,
    RefusalDelta,
    SummaryPartAdded,
    SummaryPartDone,
    SummaryTextDelta,
    TextDelta,
)
from shared.wire.items import CustomToolCall, FunctionCall, Logprob, Message, Reasoning
from shared.wire.responses import Response

TOLD, FRAMES, OUTPUT = b"E", b"F", b"Z"
LEVEL = 6


class _Told(msgspec.Struct, array_like=True):
    """What an emitter was told: the first Response, the first item's number, then kinds with their arguments.

    Deltas of one kind that follow each other are one text and their lengths: smaller, and a Response is made of it at once.
    """

    response: Response
    first_item: int
    steps: list[tuple[str, list[Any]]]
    obfuscate: bool = False


class _Output(msgspec.Struct):
    output: msgspec.Raw


_decode_output = msgspec.json.Decoder(_Output).decode
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
    emitter, _ = _tell_again(_decode_told(data), streaming=True)
    return emitter.take_frames()[0]


def response_of(packed: bytes) -> bytes:
    """The Response at the end of a packed log, JSON. Raises ``ValueError`` where only frames were kept."""
    return _encode(_response_of(packed))


def output_of(stored: bytes) -> bytes:
    """The output items (a JSON array) in what a block keeps of them: as they are, packed, or in a packed log."""
    if stored[:1] == TOLD:
        return _encode(_response_of(stored).output)
    return zlib.decompress(stored[1:]) if stored[:1] == OUTPUT else stored


def pack_ended(frames: bytes, response: bytes) -> tuple[bytes, bool]:
    """The packed log, and whether *response* (JSON, as it is stored) is exactly what `response_of` makes of it."""
    packed = pack(frames)
    return packed, packed[:1] == TOLD and response_of(packed) == response


def pack_output(response: bytes) -> bytes:
    """The output of a Response (JSON) without a log, small."""
    return OUTPUT + zlib.compress(bytes(_decode_output(response).output), LEVEL)


def _response_of(packed: bytes) -> Response:
    if packed[:1] != TOLD:
        raise ValueError("no packed log that a Response can be made of")
    _, response = _tell_again(_decode_told(zlib.decompress(packed[1:])), streaming=False)
    return response


def _tell_again(told: _Told, *, streaming: bool) -> tuple[Emitter, Response]:
    """The emitter that was told everything, and the Response. Without *streaming* a text is told in one piece."""
    emitter = Emitter(told.response, next_item=told.first_item, streaming=streaming, obfuscate=told.obfuscate)
    response, handle = told.response, -1
    for kind, arguments in told.steps:
        match kind:
            case "text":
                emitter.texts(_deltas(arguments, streaming=streaming))
            case "logprobs":
                emitter.text(arguments[0], msgspec.convert(arguments[1], list[Logprob]))
            case "refusal" | "reasoning" | "summary":
                grow = getattr(emitter, kind)
                for delta in _deltas(arguments, streaming=streaming):
                    grow(delta)
            case "call":
                handle = emitter.call(*arguments)
            case "custom_call":
                handle = emitter.custom_call(*arguments)
            case "arguments" | "custom_input":
                feed = getattr(emitter, kind)
                for delta in _deltas(arguments, streaming=streaming):
                    feed(handle, delta)
            case "annotation":
                emitter.annotation(msgspec.Raw(arguments[0].encode()))
            case "state":
                emitter.state(arguments[0])
            case "message":
                emitter.message(*arguments)
            case "end":
                response = emitter.end(msgspec.convert(arguments[0], Ending), at=arguments[1])
            case _:
                getattr(emitter, kind)()
    return emitter, response


def _deltas(arguments: list[Any], *, streaming: bool) -> list[str]:
    text, lengths = arguments
    if not streaming:
        return [text]
    ends = list(accumulate(lengths))
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _told(events: list[Event]) -> _Told:
    """Raises ``ValueError`` when *events* are not a whole log."""
    created = events[0] if events else None
    if not isinstance(created, Created):
        raise ValueError("a log begins with response.created")
    told = _Told(created.response, 0, [("created", [])])
    before: Event = created
    for event in events[1:]:
        if _was_told_to_close(before, event):
            told.steps.append(("close_part" if isinstance(before, PartDone | SummaryPartDone) else "close_item", []))
        _tell(told, event)
        if not isinstance(event, AnnotationAdded):
            before = event
        told.obfuscate = told.obfuscate or isinstance(getattr(event, "obfuscation", None), str)
    for number, (kind, arguments) in enumerate(told.steps):
        if kind == "text" or kind in _DELTAS.values():
            told.steps[number] = (kind, ["".join(arguments), [len(delta) for delta in arguments]])
    return told


def _was_told_to_close(before: Event, event: Event) -> bool:
    """Whether an emitter would not have closed by itself what is closed between these two."""
    match before, event:
        case ItemDone(item=item), ItemAdded(item=other):
            return isinstance(item, Reasoning) and isinstance(other, Reasoning)
        case ItemDone(item=item), Incomplete() | Failed():
            return item.status == "completed"
        case PartDone(part=part), PartAdded(part=other_part):
            return type(part) is type(other_part)
        case SummaryPartDone(), SummaryPartAdded():
            return True
        case _:
            return False


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
            elif isinstance(event.item, Message):
                steps.append(("message", [event.item.phase] if event.item.phase else []))
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
