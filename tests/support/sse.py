"""Reads and checks the bytes of a stream of server-sent events as this API sends them."""

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from support.schemas import Json

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class ParsedStream:
    """`events[i]` was read from `frames[i]` (the raw bytes with both line ends)."""

    events: list[Json] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    comments: int = 0
    done: bool = False
    violations: list[str] = field(default_factory=list)


def parse_sse(raw: bytes, *, cut: bool = False) -> ParsedStream:
    """Take a whole body apart. With *cut* the reader stopped early: the end may be missing, or lie inside a frame."""
    parsed = ParsedStream()
    if b"\r" in raw:
        parsed.violations.append("carriage return in the stream, only LF is allowed")
    *frames, rest = raw.split(b"\n\n")
    if rest and not cut:
        parsed.violations.append(f"the stream ends inside a frame: {rest[-80:]!r}")
    for number, body in enumerate(frames):
        frame = body + b"\n\n"
        if parsed.done:
            parsed.violations.append(f"frame {number} comes after [DONE]: {frame[:80]!r}")
        elif frame == DONE:
            parsed.done = True
        else:
            parsed.violations += [f"frame {number}: {line}" for line in _read_frame(parsed, frame)]
    if not parsed.done and not cut:
        parsed.violations.append("the stream does not end with data: [DONE]")
    return parsed


def _read_frame(parsed: ParsedStream, frame: bytes) -> list[str]:
    lines = frame[:-2].split(b"\n")
    fields = [line for line in lines if not line.startswith(b":")]
    parsed.comments += len(lines) - len(fields)
    if not fields:
        return []
    if len(fields) < len(lines):
        return [f"comment inside an event frame: {frame[:80]!r}"]
    if len(fields) != 2 or not fields[0].startswith(b"event: ") or not fields[1].startswith(b"data: "):
        return [f"not one event line and one data line: {frame[:120]!r}"]
    name = fields[0].removeprefix(b"event: ").decode("utf-8", "replace")
    try:
        event = json.loads(fields[1].removeprefix(b"data: "), parse_constant=_refuse_constant)
    except ValueError as error:
        return [f"data is not JSON ({error}): {fields[1][:120]!r}"]
    if not isinstance(event, dict):
        return [f"data is not an object: {fields[1][:120]!r}"]
    parsed.events.append(event)
    parsed.frames.append(frame)
    return [] if event.get("type") == name else [f"event line says {name!r}, data says {event.get('type')!r}"]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def render_sse(events: list[Json], *, done: bool = True) -> bytes:
    """The bytes of these events as the API would send them; for samples in tests."""
    return b"".join(map(render_frame, events)) + (DONE if done else b"")


def render_frame(event: dict[str, Any]) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
