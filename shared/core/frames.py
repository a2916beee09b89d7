"""Events to the exact bytes of their server-sent events, and back. An event is rendered once, by whoever logs it."""

from collections.abc import Iterable
from typing import get_args

import msgspec

from shared.wire.events import Event

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_HEADS = {kind: f"event: {kind.__struct_config__.tag}\ndata: ".encode() for kind in get_args(Event)}


def render(event: Event) -> bytes:
    """``event: <type>``, ``data: <JSON on one line>`` and a blank line, with LF only."""
    return _HEADS[type(event)] + _ENCODER.encode(event) + b"\n\n"


def render_all(events: Iterable[Event]) -> bytes:
    """The same as joining what `render` says of each, in two thirds of the time."""
    frames = bytearray()
    for event in events:
        frames += _HEADS[type(event)]
        _ENCODER.encode_into(event, frames, -1)  # -1: behind what is there
        frames += b"\n\n"
    return bytes(frames)


def decode(frames: bytes) -> list[Event]:
    """The events of whole frames that `render` made. Raises ``ValueError`` (msgspec's) on anything else."""
    events = []
    for frame in frames.split(b"\n\n")[:-1]:
        head, found, data = frame.partition(b"\ndata: ")
        if not found or not head.startswith(b"event: "):
            raise ValueError("not a frame of ours")
        events.append(_DECODER.decode(data))
    return events


def cut(frames: bytes, skip: int) -> bytes:
    """*frames* without its first *skip* frames (empty when there are no more). Nothing is decoded."""
    at = 0
    for _ in range(skip):
        end = frames.find(b"\n\n", at)
        if end < 0:
            return b""
        at = end + 2
    return frames[at:] if at else frames
