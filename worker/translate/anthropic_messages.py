"""Items of a context to ``system`` and ``messages`` of the Messages API."""

import base64
import json
import re
from collections import deque
from typing import Any

import msgspec

from shared.core.profiles import Profile
from shared.core.tools import joined_name
from shared.wire.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    Item,
    MessagePart,
    OutputText,
    Reasoning,
    Refusal,
    ToolOutput,
)
from worker.translate.dialect import Ask
from worker.translate.state import Kept, open_states

Json = dict[str, Any]

_DATA_URL = re.compile(r"data:([A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+)[^,]{0,256};base64,")


def family_of(profile: Profile) -> str:
    """Whose state it is that is kept."""
    return f"anthropic/{profile.family}"


def plan_turns(ask: Ask) -> tuple[str, list[Json]]:
    """(``system``, ``messages``)."""
    writer = _Writer(ask)
    for place, item in enumerate(ask.items):
        writer.feed(place, item)
    return writer.finish(ask.request.instructions)


class _Writer:
    def __init__(self, ask: Ask) -> None:
        self._unsigned = ask.profile.reasoning_out != "drop"  # thinking is taken back without a signature
        self._system: list[str] = []
        self._messages: list[Json] = []
        self._thinking: list[Json] = []  # waits for what it led to
        self._waiting: list[str] = []  # calls of the assistant's turn, whose outputs come next
        self._kept = open_states(ask.items, family_of(ask.profile), ask.state)
        self._called = {item.call_id for item in ask.items if isinstance(item, FunctionCall | CustomToolCall)}
        self._outputs: dict[str, deque[ToolOutput]] = {}
        for item in ask.items:
            if isinstance(item, FunctionCallOutput | CustomToolCallOutput):
                self._outputs.setdefault(item.call_id, deque()).append(item)

    def feed(self, place: int, item: Item) -> None:
        if isinstance(item, Reasoning):
            self._thinking += _thinking(item, self._kept.get(place), unsigned=self._unsigned)
        elif isinstance(item, FunctionCall | CustomToolCall):
            self._call(item)
        elif isinstance(item, FunctionCallOutput | CustomToolCallOutput):
            self._answer_calls()
            if item.call_id not in self._called:  # refused at the front end; the backend shall say so, too
                self._add("user", [_result(item)])
        elif item.role == "assistant":
            self._say([{"type": "text", "text": text} for text in _texts(item.content)])
        elif item.role == "user":
            self._answer_calls()
            self._thinking = []
            self._add("user", _content(item.content))
        else:
            self._system.append("\n".join(_texts(item.content)))

    def finish(self, instructions: str | None) -> tuple[str, list[Json]]:
        self._answer_calls()
        if not self._messages and self._system:
            self._add("user", [{"type": "text", "text": self._system.pop()}])
        last: Json = self._messages[-1] if self._messages else {"role": ""}
        if last["role"] == "assistant" and last["content"][-1]["type"] == "text":
            last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()  # refused otherwise
        return "\n\n".join(text for text in (instructions, *self._system) if text), self._messages

    def _call(self, call: FunctionCall | CustomToolCall) -> None:
        if call.status == "incomplete" and not self._outputs.get(call.call_id):
            return  # what is left of an answer that was cut: nobody ran it
        given = _object(call.arguments) if isinstance(call, FunctionCall) else {"input": call.input}
        name = joined_name(call.name, call.namespace)
        self._say([{"type": "tool_use", "id": _call_id(call.call_id), "name": name, "input": given}])
        self._waiting.append(call.call_id)

    def _say(self, blocks: list[Json]) -> None:
        """Of the assistant, with the thinking in front."""
        if blocks := _without_blanks(blocks):
            self._add("assistant", [*self._thinking, *blocks])
            self._thinking = []

    def _answer_calls(self) -> None:
        """The outputs of a turn's calls: all together, first in the next turn, wherever the items had them."""
        waiting, self._waiting = self._waiting, []
        outputs = [outputs.popleft() for call_id in waiting if (outputs := self._outputs.get(call_id))]
        self._add("user", [_result(output) for output in outputs])

    def _add(self, role: str, content: list[Json]) -> None:
        content = _without_blanks(content)
        if not content:
            return
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"] += content
        else:
            self._messages.append({"role": role, "content": content})


def _without_blanks(content: list[Json]) -> list[Json]:
    """Texts of nothing but white space are refused."""
    return [block for block in content if block["type"] != "text" or block["text"].strip()]


def _thinking(item: Reasoning, kept: Kept | None, *, unsigned: bool) -> list[Json]:
    if kept is not None and isinstance(kept.data, dict):
        if isinstance(signature := kept.data.get("signature"), str):
            return [{"type": "thinking", "thinking": kept.text, "signature": signature}]
        return [{"type": "redacted_thinking", "data": kept.data.get("data")}]
    text = "".join(part.text for part in item.content or item.summary or [])
    return [{"type": "thinking", "thinking": text, "signature": ""}] if unsigned and text else []


def _result(output: ToolOutput) -> Json:
    content = output.output if isinstance(output.output, str) else _content(list(output.output))
    return {"type": "tool_result", "tool_use_id": _call_id(output.call_id), "content": content}


def _call_id(call_id: str) -> str:
    """Letters, digits, ``_`` and ``-`` are all that is taken."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", call_id)


def _object(arguments: str) -> Json:
    try:
        value = json.loads(arguments) if arguments.strip() else {}
        msgspec.json.encode(value)  # not with half a surrogate pair in it
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"_raw": arguments}


def _texts(content: str | list[MessagePart]) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [text for part in content if (text := _text(part))]


def _text(part: MessagePart) -> str:
    if isinstance(part, InputText | OutputText):
        return part.text
    return part.refusal if isinstance(part, Refusal) else ""


def _content(content: str | list[MessagePart]) -> list[Json]:
    parts = [InputText(content)] if isinstance(content, str) else content
    return [_image(part) if isinstance(part, InputImage) else _document(part) if isinstance(part, InputFile) else
            {"type": "text", "text": _text(part)} for part in parts]  # fmt: skip


def _image(part: InputImage) -> Json:
    return {"type": "image", "source": _source(part.image_url or "")}


def _document(part: InputFile) -> Json:
    data = part.file_data or ""
    source = _source(part.file_url) if part.file_url else _source(data, "application/pdf")
    if source.get("media_type", "").startswith("text/"):
        text = base64.b64decode(source["data"]).decode("utf-8", "replace")
        source = {"type": "text", "media_type": "text/plain", "data": text}
    return {"type": "document", "source": source, **({"title": part.filename} if part.filename else {})}


def _source(url: str, kind: str = "") -> Json:
    """A data URL, base64 of *kind*, or an address."""
    if head := _DATA_URL.match(url):
        return {"type": "base64", "media_type": head.group(1).lower(), "data": url[head.end() :]}
    return {"type": "base64", "media_type": kind, "data": url} if kind else {"type": "url", "url": url}
