"""What the payloads of one answer hold, read plainly, beside the Response that was made of them: for ``respool check --model``."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.core.sse import SSEDecoder
from shared.wire.responses import Response

Json = dict[str, Any]


@dataclass(slots=True)
class Heard:
    """What a dialect was fed with: (name of the event, payload) of a stream, or a body that was not called one."""

    payloads: list[tuple[str, bytes]] = field(default_factory=list)
    whole: bytes = b""
    warnings: Sequence[str] = ()


@dataclass(slots=True)
class Seen:
    """One answer. ``carriers`` are the fields, blocks or events of the wire that were not empty; ``lacks`` is what a whole
    server would have sent, too."""

    response: Response
    heard: Heard
    carriers: set[str] = field(default_factory=set)
    lacks: set[str] = field(default_factory=set)
    finish: str = ""
    content: str = ""
    call_ids: list[str] = field(default_factory=list)
    """As they came; empty for a call without one."""


def look(dialect: str, response: Response, heard: Heard) -> Seen:
    seen = Seen(response, heard)
    read = _READERS[dialect]
    payloads = heard.payloads
    if heard.whole.lstrip().startswith((b"data:", b"event:", b":")):
        events = SSEDecoder(max_line_bytes=len(heard.whole) + 1).feed(heard.whole)
        payloads = [(event.event, event.data) for event in events]
    elif heard.whole:
        payloads = [("", heard.whole)]
    for name, data in payloads:
        for value in _objects(data):
            read(seen, value, name)
    return seen


def _chat(seen: Seen, chunk: Json, _: str) -> None:
    for choice in _dicts(chunk.get("choices")):
        delta = choice.get("delta") or choice.get("message")
        calls = _dicts(delta.get("tool_calls")) if isinstance(delta, dict) else []
        for one in [delta, *calls] if isinstance(delta, dict) else []:
            seen.carriers |= {name for name, value in one.items() if value}
        content = delta.get("content") if isinstance(delta, dict) else None
        seen.content += _text(content)
        seen.finish = seen.finish or _text(choice.get("finish_reason"))
        seen.call_ids += [_text(call.get("id")) for call in calls if _text(_dict(call.get("function")).get("name"))]
        if calls and any(call.get("index") is None for call in calls) and "delta" in choice:
            seen.lacks.add("index of calls")


def _anthropic(seen: Seen, event: Json, name: str) -> None:
    kind = event.get("type") or name
    if kind == "message":  # a whole one
        for block in _dicts(event.get("content")):
            _block(seen, block)
        seen.finish = seen.finish or _text(event.get("stop_reason"))
    elif kind == "content_block_start":
        _block(seen, _dict(event.get("content_block")))
        if not isinstance(event.get("index"), int):
            seen.lacks.add("index of blocks")
    elif kind == "content_block_delta":
        _block(seen, _dict(event.get("delta")))
    elif kind == "message_delta":
        seen.finish = seen.finish or _text(_dict(event.get("delta")).get("stop_reason"))


def _block(seen: Seen, block: Json) -> None:
    """Of a block, or a delta of one."""
    names = ("text", "thinking", "signature")
    seen.carriers |= {name for name in names if block.get(name)}
    if block.get("type") == "redacted_thinking":
        seen.carriers.add("redacted_thinking")
    elif block.get("type") == "tool_use":
        seen.call_ids.append(_text(block.get("id")))
    seen.content += _text(block.get("text"))


def _responses(seen: Seen, event: Json, name: str) -> None:
    kind = _text(event.get("type") or name)
    if event.get("object") == "response":  # a whole one
        kind, event = "response.completed", {"response": event}
    stem, _, verb = kind.removeprefix("response.").rpartition(".")
    whole = _dict(event.get("response"))
    if kind in ("response.completed", "response.incomplete", "response.failed"):
        seen.finish = _text(_dict(whole.get("incomplete_details")).get("reason")) or _text(whole.get("status"))
        for item in _dicts(whole.get("output")):
            _item(seen, item, ended=True)
    elif verb == "delta" and isinstance(event.get("delta"), str):
        seen.carriers.add(stem)
        seen.lacks |= {f"{name} of deltas" for name in ("item_id", "output_index") if event.get(name) is None}
        seen.content += event["delta"] if stem == "output_text" else ""
    elif verb in ("added", "done") and stem == "output_item":
        _item(seen, _dict(event.get("item")), ended=verb == "done")


def _item(seen: Seen, item: Json, *, ended: bool) -> None:
    if item.get("encrypted_content"):
        seen.carriers.add("encrypted_content")
    if ended and item.get("type") == "function_call" and (call_id := _text(item.get("call_id"))) not in seen.call_ids:
        seen.call_ids.append(call_id)
    if ended and not seen.content:
        seen.content += "".join(_text(part.get("text")) for part in _dicts(item.get("content")))


_READERS: Mapping[str, Callable[[Seen, Json, str], None]] = {
    "chat": _chat, "anthropic": _anthropic, "responses": _responses,
}  # fmt: skip


def _objects(data: bytes) -> Iterator[Json]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        yield value


def _dicts(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
