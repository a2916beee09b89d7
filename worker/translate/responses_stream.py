"""The stream of another server of the Responses API to our events: a source of deltas like any other, not a pipe.

Ids, numbers and indexes are ours; what the server left out (parts, deltas, whole items) is made up from what it says later.
An item of theirs is found by its id, else by its index, else it is the last one of its kind. Items may overlap
(`worker.translate.blocks`). What has no form here (hosted tools) is left out, and ``warnings`` says so.
"""

from typing import Any

import msgspec

from shared.core.emitter import Emitter, Ending
from shared.core.profiles import Profile
from shared.core.sse import SSEDecoder
from shared.errors import UpstreamError
from shared.wire.items import Phase
from shared.wire.responses import ResponseError, Usage
from worker.translate.blocks import Blocks
from worker.translate.chat_calls import Offered, compact
from worker.translate.chat_chunk import join_texts
from worker.translate.dialect import State
from worker.translate.errors import garbage_error, stream_error, unfinished_error
from worker.translate.responses_events import (
    ResponsesEvent,
    Theirs,
    Whole,
    decode,
    read_items,
    read_logprobs,
    read_usage,
)
from worker.translate.responses_item import Kind, Upstream, Way, Writers
from worker.translate.responses_request import family_of
from worker.translate.state import Kept, encode_state
from worker.translate.writers import CallWriter, ReasoningWriter, TextWriter

ENDS = frozenset({"completed", "incomplete", "failed", "cancelled"})
MAX_WARNINGS = 16
NAMELESS = "The model backend sent a function call without a name."
_KINDS: dict[str, Kind] = {
    "message": "message", "reasoning": "reasoning", "function_call": "call", "custom_tool_call": "call",
}  # fmt: skip
_WAYS: dict[str, Way] = {
    "output_text": "text", "refusal": "refusal", "reasoning_text": "reasoning", "reasoning": "reasoning",
    "reasoning_summary_text": "summary", "reasoning_summary": "summary",
    "function_call_arguments": "arguments", "custom_tool_call_input": "input",
}  # fmt: skip
"""From the middle of an event's name, ``response.<middle>.delta``."""
_KIND_OF_WAY: dict[Way, Kind] = {
    "text": "message", "refusal": "message", "reasoning": "reasoning", "summary": "reasoning", "arguments": "call",
    "input": "call",
}  # fmt: skip
_PART_WAYS: dict[str, Way] = {
    "output_text": "text", "text": "text", "refusal": "refusal", "reasoning_text": "reasoning", "summary_text": "summary",
}  # fmt: skip
_QUIET = ("response.created", "response.queued", "response.in_progress", "keepalive", "ping")


class ResponsesStream:
    """One answer."""

    def __init__(
        self, emit: Emitter, profile: Profile, offered: Offered, state: State, *, max_output_tokens: int | None = None
    ) -> None:
        """*max_output_tokens* as it was asked: servers that are not trusted say ``completed`` at the limit."""
        self.warnings: list[str] = []
        self._emit = emit
        self._profile = profile
        self._offered = offered
        self._state = state
        self._limit = None if profile.responses_trusted else max_output_tokens
        self._blocks = Blocks()
        self._items: list[Upstream] = []
        self._nameless: list[Upstream] = []
        self._by_id: dict[str, Upstream] = {}
        self._by_index: dict[int, Upstream] = {}
        self._end = ""
        self._reason: Any = None
        self._usage: Usage | None = None

    @property
    def ended(self) -> bool:
        return bool(self._end)

    def feed(self, data: bytes, event: str = "") -> None:
        """One payload. Raises ``UpstreamError`` when it is an error or cannot be read."""
        if self._end or not data or data.isspace():
            return
        if len(data) < 16 and data.strip() == b"[DONE]":
            return
        found = decode(data, ResponsesEvent)
        name = found.type if isinstance(found.type, str) else event
        verb = name.removeprefix("response.")
        if verb == "error" or event == "error" or (not name and found.error):
            raise stream_error(data)
        if name.startswith("response.") and (verb in ENDS or verb == "done"):
            end = found.response or Whole(error=found.error)
            end.usage = end.usage or found.usage
            self._read_end(end, "completed" if verb == "done" else verb)
        elif not name:
            self._read_nameless(data)
        elif name == "response.output_item.added" and found.item is not None:
            self._add(found.item, found.output_index, early=True)
        elif name == "response.output_item.done" and found.item is not None:
            self._finish_item(self._place(found.item, found.output_index), found.item)
        elif name in ("response.content_part.done", "response.reasoning_summary_part.done"):
            self._finish_part(found)
        elif name == "response.output_text.annotation.added":
            self._annotate(found)
        elif name.endswith((".delta", ".done")):
            middle, _, verb = verb.rpartition(".")
            self._grow(found, middle, verb)
        elif name not in _QUIET and not name.endswith("part.added"):
            self._warn(f"left out an event {name[:64]}")

    def _read_nameless(self, data: bytes) -> None:
        """A whole response, as one payload of a stream; anything else is left out."""
        whole = decode(data, Whole)
        if whole.object == "response" or isinstance(whole.output, list):
            self._read_end(whole, "completed")
        else:
            self._warn("left out an event without a name")

    def skim(self, _block: bytes, at: int, /) -> int:
        return at  # each event has its name, and each delta its place

    def feed_whole(self, body: bytes) -> None:
        """The body of a 200 that is not called a stream: a whole response, or a stream all the same."""
        if body.lstrip().startswith((b"data:", b"event:", b":")):
            for event in SSEDecoder(max_line_bytes=len(body) + 1).feed(body):
                self.feed(event.data, event.event)
            return
        whole = decode(body, Whole)
        if whole.object != "response" and not isinstance(whole.output, list):
            raise stream_error(body) if whole.error or b"message" in body or b"detail" in body else garbage_error()
        self._read_end(whole, "completed")

    def follow_up(self) -> None:
        """It never pauses."""

    def end(self) -> Ending:
        """How the answer ends, now that nothing more comes; the last of it is emitted before. Raises ``UpstreamError`` when
        nothing came at all."""
        try:
            if self._nameless:
                raise UpstreamError(NAMELESS)
            for upstream in self._items:
                if self._end and upstream.added is not None and not (upstream.over or upstream.text):
                    self._finish_item(upstream, upstream.added)
            self._blocks.finish()
        except UpstreamError as error:
            return Ending("failed", self._usage, error=ResponseError("server_error", error.message))
        if not self._end:
            broken = unfinished_error()
            if self._blocks.silent:
                raise broken
            return Ending("failed", self._usage, error=ResponseError(broken.code, broken.message))
        if self._end == "incomplete":
            if self._reason == "content_filter":
                return Ending("incomplete", self._usage, reason="content_filter")
            return Ending("incomplete", self._usage, reason="max_output_tokens")
        if self._limit is not None and self._usage is not None and self._usage.output_tokens >= self._limit:
            return Ending("incomplete", self._usage, reason="max_output_tokens")
        return Ending("completed", self._usage)

    def _add(self, item: Theirs, index: Any, *, early: bool = False) -> "Upstream":
        """*early*: a call that has no name yet may still get one, with its arguments, when it is done."""
        kind = _KINDS.get(item.type) if isinstance(item.type, str) else None
        nameless = early and kind == "call" and not item.name
        kind = None if nameless else kind
        upstream = Upstream(kind, self._writer(kind, item), self._blocks, item)
        if nameless:
            self._nameless.append(upstream)
        elif kind is None:
            self._warn(f"left out an item of type {str(item.type)[:64]}")
        self._items.append(upstream)
        if isinstance(item.id, str) and item.id:
            self._by_id[item.id] = upstream
        if isinstance(index, int):
            self._by_index[index] = upstream
        if kind == "call":
            upstream.say("arguments", 0, "")  # a call is there before it has arguments
        return upstream

    def _writer(self, kind: Kind | None, item: Theirs) -> "Writers | None":
        if kind == "message":
            phase: Phase | None = item.phase if item.phase in ("commentary", "final_answer") else None
            return TextWriter(self._emit, own_message=True, phase=phase)
        if kind == "reasoning":
            return ReasoningWriter(self._emit, self._profile.reasoning_kind)
        if kind is None:
            return None
        name = item.name if isinstance(item.name, str) else ""
        if not name:
            raise UpstreamError(NAMELESS)
        call_id = item.call_id if isinstance(item.call_id, str) else None
        return CallWriter(self._emit, self._offered, name, call_id, free_text=item.type == "custom_tool_call")

    def _place(self, item: Theirs, index: Any) -> "Upstream":
        """The item that this one finishes; one that was never added is added now."""
        found = self._by_id.get(item.id) if isinstance(item.id, str) and item.id else None
        if found is None and isinstance(index, int):
            found = self._by_index.get(index)
        kind = _KINDS.get(item.type) if isinstance(item.type, str) else None
        if found is None and not item.id:
            found = next((one for one in self._items if one.kind == kind and not one.over), None)
        if found is None and kind == "call" and self._nameless and not item.id:
            found = self._nameless[0]
        if found in self._nameless:
            self._nameless.remove(found)
        return found if found is not None and found.kind == kind else self._add(item, index)

    def _find(self, event: ResponsesEvent, kind: Kind) -> "Upstream | None":
        """The item that an event belongs to; ``None`` when that was left out."""
        found = self._by_id.get(event.item_id) if isinstance(event.item_id, str) else None
        if found is None and isinstance(event.output_index, int):
            found = self._by_index.get(event.output_index)
        if found is None:
            found = next((one for one in reversed(self._items) if one.kind == kind and not one.over), None)
        if found is None and kind != "call":
            item_id = event.item_id if isinstance(event.item_id, str) else None
            found = self._add(Theirs(kind, item_id), event.output_index)
        if found is None and self._nameless:
            return None
        if found is None:
            raise UpstreamError("The model backend sent arguments for a function call that it did not name.")
        return found if found.kind == kind else None

    def _grow(self, event: ResponsesEvent, middle: str, verb: str) -> None:
        way = _WAYS.get(middle)
        upstream = self._find(event, _KIND_OF_WAY[way]) if way is not None else None
        if way in ("arguments", "input") and upstream is None and self._nameless:
            return  # they come again, whole, with the name
        if way is None or upstream is None:
            self._warn(f"left out an event response.{middle[:48]}.{verb}")
            return
        part = _number(event.summary_index if way == "summary" else event.content_index)
        if verb == "delta":
            if isinstance(event.delta, str):
                logprobs = read_logprobs({"content": event.logprobs}) if way == "text" and event.logprobs else []
                upstream.say(way, part, event.delta, logprobs)
            return
        whole = {"refusal": event.refusal, "arguments": event.arguments, "input": event.input}.get(way, event.text)
        self._settle(upstream, way, part, whole)

    def _finish_part(self, event: ResponsesEvent) -> None:
        part = event.part
        way = _PART_WAYS.get(part.type) if part is not None and isinstance(part.type, str) else None
        upstream = self._find(event, _KIND_OF_WAY[way]) if way is not None else None
        if part is None or way is None or upstream is None:
            return
        number = _number(event.summary_index if way == "summary" else event.content_index)
        self._read_part(upstream, way, number, part)

    def _read_part(self, upstream: "Upstream", way: Way, number: int, part: Theirs) -> None:
        logprobs = read_logprobs({"content": part.logprobs}) if way == "text" and part.logprobs else []
        self._settle(upstream, way, number, part.refusal if way == "refusal" else part.text, logprobs)
        for annotation in part.annotations if isinstance(part.annotations, list) else ():
            upstream.cite(annotation, self._emit)

    def _annotate(self, event: ResponsesEvent) -> None:
        upstream = self._find(event, "message")
        if upstream is not None:
            upstream.cite(event.annotation, self._emit)

    def _finish_item(self, upstream: "Upstream", item: Theirs) -> None:
        if upstream.kind == "call":
            way: Way = "input" if item.type == "custom_tool_call" else "arguments"
            self._settle(upstream, way, 0, item.input if way == "input" else item.arguments)
        else:
            for name, parts in (("summary", item.summary), ("content", item.content)):
                for number, part in enumerate(read_items(parts)):
                    part_way = _PART_WAYS.get(part.type) if isinstance(part.type, str) else None
                    if part_way is not None and _KIND_OF_WAY[part_way] == upstream.kind:
                        self._read_part(upstream, part_way, number, part)
                    elif name == "content":
                        self._warn(f"left out a part of type {str(part.type)[:64]}")
        if upstream.kind == "reasoning" and isinstance(item.encrypted_content, str) and item.encrypted_content:
            sealed = self._state.seal(encode_state(Kept(family_of(self._profile), data=item.encrypted_content)))
            if sealed is not None:
                upstream.keep(sealed)
        upstream.close()

    def _settle(self, upstream: "Upstream", way: Way, part: int, whole: Any, logprobs: Any = ()) -> None:
        """The *whole* text of a part: say what of it was not said yet."""
        if way == "arguments" and isinstance(whole, dict):
            whole = compact(whole)
        if not isinstance(whole, str):
            return
        said = upstream.said(way, part)
        if whole.startswith(said):
            if len(whole) > len(said):
                upstream.say(way, part, whole[len(said) :], logprobs if not said else ())
        else:
            self._warn(f"ended a {way} with another text than it had streamed")

    def _read_end(self, whole: Whole, name: str) -> None:
        self._usage = read_usage(whole.usage) or self._usage
        status = whole.status if whole.status in ENDS else name
        if status in ("failed", "cancelled") or (whole.error and status != "incomplete"):
            fault = {"message": f"The response is {status} there."}
            raise stream_error(msgspec.json.encode({"error": whole.error or fault}))
        self._compare(read_items(whole.output))
        details = whole.incomplete_details
        self._end = status
        self._reason = details.get("reason") if isinstance(details, dict) else None

    def _compare(self, output: list[Theirs]) -> None:
        """What the server says its output was, against what it streamed: only what never came is said now."""
        streamed = list(self._items)
        by_id = [self._by_id.get(item.id) if isinstance(item.id, str) else None for item in output]
        rest = [one for one in streamed if one not in by_id]
        for item, found in zip(output, by_id, strict=True):
            kind = _KINDS.get(item.type) if isinstance(item.type, str) else None
            if found is None:  # some give the items other ids in the end
                found = next((one for one in rest if one.kind == kind), None)
                if found is not None:
                    rest.remove(found)
            if found is None or found in self._nameless:
                self._finish_item(self._place(item, None), item)
            elif not found.over:
                self._finish_item(found, item)
            elif (text := _text_of(item)) is not None and text != found.text:
                self._warn("told another output at the end than it had streamed")

    def _warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)


def _text_of(item: Theirs) -> str | None:
    """What a message or a call says; ``None`` for others."""
    if item.type == "message":
        return "".join(join_texts(part.text) + join_texts(part.refusal) for part in read_items(item.content))
    given = item.arguments if item.type == "function_call" else item.input if item.type == "custom_tool_call" else None
    return given if isinstance(given, str) else None


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
