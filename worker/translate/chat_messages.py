"""Items of a context to the ``messages`` of Chat Completions.

There a turn of the assistant is one message (thoughts, text, calls), and the outputs of its calls stand directly behind
it; here these are items of their own, in any order. Nothing is added, and only what no message can say is left out.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from shared.core.profiles import Profile
from shared.core.tools import joined_name
from shared.wire.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputAudio,
    InputFile,
    InputImage,
    InputText,
    Item,
    MessagePart,
    OutputText,
    Reasoning,
    Refusal,
    ToolCall,
    ToolOutput,
)
from worker.translate.chat_state import Recalled, join_details, recall
from worker.translate.custom_tools import wrap
from worker.translate.state import Kept

Json = dict[str, Any]

NOTHING_KEPT: Mapping[int, Kept] = {}
IMAGE_NOTE = "(see the image in the next message)"
"""Stands in a tool message that has nothing but images, which only user messages can hold."""
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def plan_messages(
    instructions: str | None, items: Sequence[Item], profile: Profile, states: Mapping[int, Kept] = NOTHING_KEPT
) -> list[Json]:
    """*states* by the place of their reasoning item among *items*."""
    writer = _Writer(items, profile)
    if instructions:
        writer.say(profile.system_role, instructions)
    for place, item in enumerate(items):
        if isinstance(item, Reasoning):
            writer.think(item, states.get(place))
        else:
            writer.feed(item)
    return writer.finish()


@dataclass(slots=True)
class _Turn:
    """One assistant message in the making."""

    text: str | None = None
    refusal: str | None = None
    thoughts: Recalled = field(default_factory=Recalled)
    calls: list[ToolCall] = field(default_factory=list)


class _Writer:
    def __init__(self, items: Sequence[Item], profile: Profile) -> None:
        self._profile = profile
        self._messages: list[Json] = []
        self._turn: _Turn | None = None
        self._thoughts = Recalled()  # of the next turn
        self._call_states: Json = {}
        self._called = {item.call_id for item in items if isinstance(item, FunctionCall | CustomToolCall)}
        self._outputs: dict[str, deque[ToolOutput]] = {}
        for item in items:
            if isinstance(item, FunctionCallOutput | CustomToolCallOutput):
                self._outputs.setdefault(item.call_id, deque()).append(item)

    def think(self, item: Reasoning, kept: Kept | None) -> None:
        """*kept* says more exactly what *item* shows, and what it does not show."""
        shown = "".join(part.text for part in item.content or item.summary or [])
        if kept is None:
            self._thoughts.text += shown
            return
        before, after = recall(kept)
        if self._turn is not None:
            self._turn.thoughts.add(before)
        self._thoughts.add(after)
        self._thoughts.text += "" if kept.text else shown
        self._call_states |= kept.calls

    def feed(self, item: Item) -> None:
        if isinstance(item, FunctionCall | CustomToolCall):
            self._call(item)
        elif isinstance(item, FunctionCallOutput | CustomToolCallOutput):
            self._close_turn()
            if item.call_id not in self._called:  # refused at the front end; the backend shall say so, too
                self._answer([item])
        elif isinstance(item, Reasoning):
            self.think(item, None)
        elif item.role == "assistant":
            self._close_turn()
            self._turn = _Turn(*_spoken(item.content, self._profile), thoughts=self._thoughts)
            self._thoughts = Recalled()
        else:
            self._close_turn()
            if self._thoughts:
                self._thoughts = Recalled()
            role = self._profile.system_role if item.role == "developer" else item.role
            self.say(role, _content(item.content))

    def finish(self) -> list[Json]:
        self._close_turn()
        return self._messages

    def say(self, role: str, content: str | list[Json]) -> None:
        last = self._messages[-1] if self._messages else {}
        if self._profile.single_system and role != "user" and last.get("role") == role:
            last["content"] = f"{last['content']}\n\n{content}"
        else:
            self._messages.append({"role": role, "content": content})

    def _call(self, call: ToolCall) -> None:
        if call.status == "incomplete" and not self._outputs.get(call.call_id):
            return  # what is left of an answer that was cut: nobody ran it
        if self._turn is not None and self._turn.calls and self._thoughts:
            self._close_turn()
        if self._turn is None:
            self._turn = _Turn()
        self._turn.thoughts.add(self._thoughts)
        self._thoughts = Recalled()
        self._turn.calls.append(call)

    def _close_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        message: Json = {"role": "assistant", "content": turn.text}
        if turn.text is None and not (turn.calls and self._profile.null_content) and turn.refusal is None:
            message["content"] = ""
        if turn.refusal is not None:
            message["refusal"] = turn.refusal
        if turn.calls:
            message["tool_calls"] = calls = [self._write_call(call) for call in turn.calls]
            if self._profile.unsigned_call and not any("extra_content" in call for call in calls):
                calls[0] |= self._profile.unsigned_call
        self._add_thoughts(message, turn.thoughts, has_calls=bool(turn.calls))
        self._messages.append(message)
        waiting = [self._outputs.get(call.call_id) for call in turn.calls]
        self._answer([outputs.popleft() for outputs in waiting if outputs])

    def _add_thoughts(self, message: Json, thoughts: Recalled, *, has_calls: bool) -> None:
        place, text = self._profile.reasoning_out, thoughts.text
        if place == "think_tags":
            if text:
                opening, closing = self._profile.think_tags or ("<think>", "</think>")
                message["content"] = f"{opening}{text}{closing}\n\n{message['content'] or ''}"
        elif place == "reasoning_details":
            if thoughts.details:
                message[place] = join_details(thoughts.details)
            elif text:
                message["reasoning"] = text
        elif place != "drop" and (text or (has_calls and self._profile.reasoning_required_with_calls)):
            message[place] = text
        if thoughts.cipher:
            message["encrypted_content"] = thoughts.cipher
        if thoughts.extra:
            message["extra_content"] = thoughts.extra

    def _write_call(self, call: ToolCall) -> Json:
        arguments = call.arguments if isinstance(call, FunctionCall) else wrap(call.input)
        function = {"name": joined_name(call.name, call.namespace), "arguments": arguments}
        written = {"id": self._call_id(call.call_id), "type": "function", "function": function}
        if (extra := self._call_states.pop(call.call_id, None)) is not None:
            written["extra_content"] = extra
        return written

    def _answer(self, outputs: list[ToolOutput]) -> None:
        images: list[Json] = []
        for output in outputs:
            parts = [InputText(output.output)] if isinstance(output.output, str) else output.output
            text = "\n".join(part.text for part in parts if isinstance(part, InputText))
            others = [_part(part) for part in parts if not isinstance(part, InputText)]
            images += others
            content = text or (IMAGE_NOTE if others else "")
            self._messages.append({"role": "tool", "tool_call_id": self._call_id(output.call_id), "content": content})
        if images:
            self._messages.append({"role": "user", "content": images})

    def _call_id(self, call_id: str) -> str:
        if self._profile.call_id_style == "any" or (len(call_id) == 9 and call_id.isascii() and call_id.isalnum()):
            return call_id
        number = int.from_bytes(sha256(call_id.encode()).digest())
        return "".join(_LETTERS[number // 62**place % 62] for place in range(9))


def _spoken(content: str | list[MessagePart], profile: Profile) -> tuple[str | None, str | None]:
    """(text, refusal) of an assistant message; the refusal is part of the text where it has no field."""
    if isinstance(content, str):
        return content, None
    refusals = [part.refusal for part in content if isinstance(part, Refusal)]
    if not profile.refusal_field or not refusals:
        return "".join(_text(part) for part in content), None
    texts = [_text(part) for part in content if not isinstance(part, Refusal)]
    return ("".join(texts) if texts else None), "".join(refusals)


def _content(content: str | list[MessagePart]) -> str | list[Json]:
    """A plain text where that says it all: not every server takes parts."""
    if isinstance(content, str):
        return content
    if any(isinstance(part, InputImage | InputFile | InputAudio) for part in content):
        return [_part(part) for part in content]
    return "\n".join(_text(part) for part in content)


def _text(part: MessagePart) -> str:
    if isinstance(part, InputText | OutputText):
        return part.text
    return part.refusal if isinstance(part, Refusal) else ""


def _part(part: MessagePart) -> Json:
    if isinstance(part, InputImage):
        image = {"url": part.image_url} if part.detail is None else {"url": part.image_url, "detail": part.detail}
        return {"type": "image_url", "image_url": image}
    if isinstance(part, InputFile):
        known = {"filename": part.filename, "file_data": part.file_data or part.file_url, "file_id": part.file_id}
        return {"type": "file", "file": {name: value for name, value in known.items() if value is not None}}
    if isinstance(part, InputAudio):
        return {"type": "input_audio", "input_audio": msgspec.structs.asdict(part.input_audio)}
    return {"type": "text", "text": _text(part)}
