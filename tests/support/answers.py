"""Plays recorded bodies to an answer of any dialect, and says in plain words what became of it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared.core.emitter import Emitter, Ending
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.seal import Sealer
from shared.wire.items import CustomToolCall, FunctionCall, Message, OutputText, Reasoning, Refusal
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError
from support.contract import check_stream
from worker.translate.dialect import Answer
from worker.translate.reading import Reading

STREAMS = Path(__file__).parents[1] / "streams"
SEALER = Sealer(["a key of more than thirty-two characters"])
STATE = SEALER.bind("tenant", "state")


def captured(path: str) -> list[str]:
    """Streams that a program sent with status 200 for this path, by folder and name."""
    found = []
    for meta in sorted(STREAMS.glob("*/*.meta.json")):
        about = json.loads(meta.read_bytes())
        if about["status"] == 200 and about["path"].endswith(path):
            found.append(f"{meta.parent.name}/{meta.name.removesuffix('.meta.json')}")
    return found


def body_of(name: str) -> bytes:
    return (STREAMS / f"{name}.body").read_bytes()


def asked_of(name: str) -> dict[str, Any]:
    """The request that a capture answers."""
    asked = json.loads((STREAMS / f"{name}.meta.json").read_bytes())["request"]
    assert isinstance(asked, dict)
    return asked


def run(make: Callable[[Emitter], Answer], blocks: Sequence[bytes]) -> tuple[Response, bytes]:
    """(the response, its frames) of a stream that arrives in *blocks*; a whole body when it is no stream."""
    emit = Emitter(draft(Request(id="resp_00" + "a" * 32, created_at=1, model="m")))
    emit.created()
    emit.in_progress()
    answer = make(emit)
    reading = Reading(answer)
    try:
        if b"".join(blocks)[:1] == b"{":
            answer.feed_whole(b"".join(blocks))
        else:
            for block in blocks:
                if reading.feed(block):
                    break
        ending = answer.end()
    except UpstreamError as error:
        ending = Ending("failed", error=ResponseError(error.code, error.message))
    response = emit.end(ending, at=2)
    frames, _ = emit.take_frames()
    events = [json.loads(frame.partition(b"\ndata: ")[2]) for frame in frames.split(b"\n\n")[:-1]]
    assert check_stream(events) == []
    return response, frames


def pieces(body: bytes) -> list[bytes]:
    """Byte by byte, or nearly so when that would take too long."""
    size = 1 if len(body) <= 8000 else 7
    return [body[at : at + size] for at in range(0, len(body), size)]


def outcome(response: Response) -> dict[str, Any]:
    """In the form of streams/quirks/expected.json; summaries count as reasoning."""
    said: dict[str, str] = {"text": "", "reasoning": "", "refusal": ""}
    calls = []
    for item in response.output:
        if isinstance(item, FunctionCall | CustomToolCall):
            calls.append([item.name, item.arguments if isinstance(item, FunctionCall) else item.input])
        elif isinstance(item, Reasoning):
            said["reasoning"] += "".join(part.text for part in [*(item.content or []), *(item.summary or [])])
        elif isinstance(item, Message):
            for part in item.content:
                if isinstance(part, OutputText):
                    said["text"] += part.text
                elif isinstance(part, Refusal):
                    said["refusal"] += part.refusal
    usage = response.usage
    return {
        "status": response.status,
        "reason": response.incomplete_details.reason if response.incomplete_details else None,
        "error": response.error.code if response.error else None,
        **said,
        "calls": calls,
        "usage": usage
        and [
            usage.input_tokens,
            usage.input_tokens_details.cached_tokens,
            usage.output_tokens,
            usage.output_tokens_details.reasoning_tokens,
        ],
    }


def data_of(body: bytes) -> list[dict[str, Any]]:
    """The payloads of a recorded stream."""
    lines = body.replace(b"\r\n", b"\n").split(b"\n")
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def frames_of(*payloads: dict[str, Any] | bytes) -> bytes:
    """Objects as frames; bytes as they are."""
    return b"".join(
        one if isinstance(one, bytes) else b"data: " + json.dumps(one).encode() + b"\n\n" for one in payloads
    )
