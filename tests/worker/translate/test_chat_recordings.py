"""Every stream of Chat Completions in tests/streams reaches its outcome: whole, cut at any byte, and lost at any byte."""

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.emitter import Emitter, Ending
from shared.core.profiles import PROFILES, Profile
from shared.core.responses import draft
from shared.core.sse import SSEDecoder, SSEEvent
from shared.errors import UpstreamError
from shared.seal import Sealer
from shared.wire.items import FunctionCall, Message, OutputText, Reasoning, Refusal
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError
from support.contract import check_stream
from worker.translate.chat import ChatDialect
from worker.translate.chat_stream import FINISHES
from worker.translate.dialect import Ask
from worker.translate.reading import Reading

STREAMS = Path(__file__).parents[2] / "streams"
STATE = Sealer(["k" * 32]).bind("us", "state")
SALTED = re.compile(rb'"encrypted_content":"[^"]+"')


@cache
def expected(folder: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((STREAMS / folder / "expected.json").read_bytes())
    return found


def captured() -> Iterator[str]:
    for meta in sorted(STREAMS.glob("*/*.meta.json")):
        about = json.loads(meta.read_bytes())
        if about["status"] == 200 and about["path"].endswith("/chat/completions"):
            yield f"{meta.parent.name}/{meta.name.removesuffix('.meta.json')}"


WRITTEN = [f"{folder}/{name}" for folder in ("quirks", "own") for name in expected(folder)]
ALL = [*WRITTEN, *captured()]
STREAMED = [name for name in ALL if (STREAMS / f"{name}.body").read_bytes()[:1] != b"{"]


@cache
def body_of(name: str) -> bytes:
    return (STREAMS / f"{name}.body").read_bytes()


@cache
def profile_of(name: str) -> Profile:
    folder, _, short = name.partition("/")
    about = expected(folder)[short] if folder == "own" else {}
    if "think-tags" in name:
        return PROFILES["think-tags"]
    overrides = msgspec.to_builtins(PROFILES[about.get("profile", "generic")]) | about.get("overrides", {})
    return msgspec.convert(overrides, Profile)


def run(name: str, blocks: list[bytes]) -> tuple[Response, bytes]:
    """(the response, its frames without sealed texts, which are never the same twice)."""
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="m")
    asked = Ask(request, [], "m", profile_of(name), STATE)
    emit = Emitter(draft(request))
    emit.created()
    emit.in_progress()
    stream = ChatDialect().answer(asked, emit)
    reading = Reading(stream)
    try:
        if b"".join(blocks)[:1] in (b"{", b"<"):
            stream.feed_whole(b"".join(blocks))
        else:
            for block in blocks:
                if reading.feed(block):
                    break
        ending = stream.end()
    except UpstreamError as error:
        ending = Ending("failed", error=ResponseError(error.code, error.message))
    response = emit.end(ending, at=2)
    return response, SALTED.sub(b'"encrypted_content":"sealed"', emit.take_frames()[0])


@cache
def whole(name: str) -> tuple[Response, bytes]:
    return run(name, [body_of(name)])


def violations(frames: bytes) -> list[str]:
    return check_stream([json.loads(frame.partition(b"\ndata: ")[2]) for frame in frames.split(b"\n\n")[:-1]])


def outcome(response: Response) -> dict[str, Any]:
    """In the form of expected.json, with all that any of them may say."""
    said = {"text": "", "reasoning": "", "refusal": ""}
    found: dict[str, list[Any]] = {"calls": [], "annotations": [], "logprobs": [], "items": []}
    for item in response.output:
        found["items"].append(item.__struct_config__.tag)
        if isinstance(item, FunctionCall):
            found["calls"].append([item.name, item.arguments])
        elif isinstance(item, Reasoning):
            said["reasoning"] += "".join(part.text for part in item.content or item.summary or [])
        elif isinstance(item, Message):
            for part in item.content:
                if isinstance(part, Refusal):
                    said["refusal"] += part.refusal
                elif isinstance(part, OutputText):
                    said["text"] += part.text
                    found["logprobs"] += [one.token for one in part.logprobs]
                    notes = [json.loads(bytes(raw)) for raw in part.annotations]
                    found["annotations"] += [[one["url"], one["title"]] for one in notes]
    usage = response.usage
    counts = usage and [
        *(usage.input_tokens, usage.input_tokens_details.cached_tokens),
        *(usage.output_tokens, usage.output_tokens_details.reasoning_tokens),
    ]
    return {
        "status": response.status,
        "reason": response.incomplete_details.reason if response.incomplete_details else None,
        "error": response.error.code if response.error else None,
        "usage": counts,
        **said,
        **found,
    }


@pytest.mark.parametrize("name", WRITTEN)
def test_the_outcome(name: str) -> None:
    folder, _, short = name.partition("/")
    wanted = {key: value for key, value in expected(folder)[short].items() if key not in ("profile", "overrides")}
    response, frames = whole(name)
    found = outcome(response)
    assert {key: found[key] for key in wanted} == wanted
    assert violations(frames) == []


@pytest.mark.parametrize("name", STREAMED)
def test_byte_by_byte(name: str) -> None:
    body = body_of(name)
    cut, frames = run(name, [body[at : at + 1] for at in range(len(body))])
    assert frames == whole(name)[1]
    assert outcome(cut) == outcome(whole(name)[0])


def events_of(*blocks: bytes) -> list[SSEEvent]:
    sse = SSEDecoder()
    return [event for block in blocks for event in sse.feed(block)]


@pytest.mark.parametrize("name", [name for name in STREAMED if len(body_of(name)) < 4000])
def test_one_cut_at_every_byte(name: str) -> None:
    """Translators are given events: where these are the same, so is the outcome."""
    body = body_of(name)
    once = events_of(body)
    assert [at for at in range(len(body)) if events_of(body[:at], body[at:]) != once] == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(STREAMED), st.data())
def test_many_cuts_anywhere(name: str, data: st.DataObject) -> None:
    body = body_of(name)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8))), len(body)]
    assert run(name, [body[a:b] for a, b in pairwise(edges)])[1] == whole(name)[1]


def says_why(events: list[SSEEvent]) -> bool:
    """Whether a finish reason (not one that means failure) is among them, in plain reading."""
    for event in events:
        try:
            chunk = json.loads(event.data)
        except ValueError:
            continue
        for choice in (chunk.get("choices") or []) if isinstance(chunk, dict) else []:
            reason = choice.get("finish_reason") if choice and choice.get("index") in (0, None, "0") else None
            if reason and FINISHES.get(reason.lower()) != "failed":
                return True
    return False


@pytest.mark.parametrize("name", [name for name in STREAMED if len(body_of(name)) < 8000])
def test_lost_at_every_byte(name: str) -> None:
    """Until it has said why it stopped, a stream that is lost has failed, and keeps what there was."""
    body, counts = body_of(name), set()
    text = outcome(whole(name)[0])["text"]
    for at in range(len(body)):
        events = events_of(body[:at])
        if len(events) in counts:
            continue
        counts.add(len(events))
        response, frames = run(name, [body[:at]])
        assert violations(frames) == []
        if not profile_of(name).think_tags:  # half a mark may still be text
            assert text.startswith(outcome(response)["text"])
        if not says_why(events):
            assert response.status == "failed", at
