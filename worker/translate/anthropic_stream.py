"""The stream of the Messages API to our events: fed with payloads, it drives an `Emitter` and says how it ended.

    thinking, redacted_thinking   reasoning item, with what must come back sealed in it
    text                          message item        tool_use   call item

Blocks are told apart by their index and may overlap (`worker.translate.blocks`). Tools that the provider ran itself have no
form here: their blocks are left out, and ``warnings`` says so. A turn that the provider paused goes on with `follow_up`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from shared.core.emitter import Emitter, Ending
from shared.core.profiles import Profile
from shared.core.sse import SSEDecoder
from shared.errors import UpstreamError
from shared.wire.responses import ResponseError
from worker.translate.anthropic_events import (
    AnthropicEvent,
    ContentBlock,
    Delta,
    Tokens,
    decode_event,
    decode_message,
    read_block,
    read_citation,
)
from worker.translate.anthropic_messages import family_of
from worker.translate.blocks import Block, Blocks
from worker.translate.chat_calls import Offered, compact
from worker.translate.chat_chunk import whole_text
from worker.translate.dialect import State
from worker.translate.errors import stream_error, unfinished_error
from worker.translate.state import Kept, encode_state
from worker.translate.writers import CallWriter, ReasoningWriter, TextWriter

MAX_PAUSES = 8
"""So often a paused turn is sent back in one response."""
MAX_WARNINGS = 16
STOPS: Mapping[str, Literal["completed", "max_output_tokens", "content_filter", "paused"]] = {
    **dict.fromkeys(("end_turn", "stop_sequence", "tool_use"), "completed"),
    **dict.fromkeys(("max_tokens", "model_context_window_exceeded"), "max_output_tokens"),
    "refusal": "content_filter",
    "pause_turn": "paused",
}


class AnthropicStream:
    """One answer, of one call or, when the provider pauses, of several."""

    def __init__(
        self,
        emit: Emitter,
        profile: Profile,
        offered: Offered,
        state: State,
        *,
        json_tool: str | None = None,
        go_on: Callable[[list[dict[str, Any]]], bytes] | None = None,
    ) -> None:
        """*json_tool* is the tool whose input is the text that was asked for; *go_on* gives the body of a call that goes on
        behind these blocks."""
        self.warnings: list[str] = []
        self._emit = emit
        self._profile = profile
        self._offered = offered
        self._state = state
        self._json_tool = json_tool
        self._go_on = go_on
        self._blocks = Blocks()
        self._by_index: dict[int, _Upstream] = {}
        self._last: _Upstream | None = None
        self._tokens = Tokens()
        self._stop = ""
        self._over = False
        self._refused = False
        self._pauses = 0
        self._turn: list[_Upstream] = []
        self._text_chars = 0

    @property
    def ended(self) -> bool:
        return bool(self._stop)

    def feed(self, data: bytes, event: str = "") -> None:
        """One payload. Raises ``UpstreamError`` when it is an error or cannot be read."""
        if not data or data.isspace() or self._over or (len(data) < 16 and data.strip() == b"[DONE]"):
            return
        try:
            self._read(data, event)
        except UpstreamError:
            if not self._stop:  # what breaks behind the end takes nothing from the answer
                raise

    def _read(self, data: bytes, event: str) -> None:
        found = decode_event(data)
        kind = found.type if isinstance(found.type, str) else event
        if kind == "error" or found.error or event == "error":
            raise stream_error(data)
        if kind == "message_start" and found.message is not None:
            self._tokens.read(found.message.usage)
        elif kind == "content_block_start" and found.content_block is not None:
            self._start(_index(found.index), found.content_block)
        elif kind == "content_block_delta" and found.delta is not None:
            self._add(self._find(_index(found.index), found.delta), found.delta)
        elif kind == "content_block_stop":
            index = _index(found.index)
            upstream = self._last if index is None else self._by_index.get(index)
            if upstream is not None:
                self._close(upstream)
        elif kind == "message_delta":
            self._read_end(found)
        elif kind == "message_stop":
            self._tokens.read(found.usage)
            self._over = bool(self._stop)
        elif kind == "message":  # a whole one, as the payload of a stream
            self._read_whole(data, known=bool(self._by_index))

    def skim(self, _block: bytes, at: int, /) -> int:
        return at  # each event has its name, and each delta its place

    def feed_whole(self, body: bytes) -> None:
        """The body of a 200 that is not called a stream: a whole message, or a stream all the same."""
        if body.lstrip().startswith((b"data:", b"event:", b":")):
            for event in SSEDecoder(max_line_bytes=len(body) + 1).feed(body):
                self.feed(event.data, event.event)
            return
        self._read_whole(body, known=False)

    def _read_whole(self, body: bytes, *, known: bool) -> None:
        """*known*: its blocks were streamed before."""
        message, blocks = decode_message(body)
        self._tokens.read(message.usage)
        for index, block in enumerate(blocks if not known else ()):
            self._start(index, block)
            self._close(self._by_index[index])
        self._note_stop(message.stop_reason if message.stop_reason is not None else "end_turn", message.stop_details)

    def follow_up(self) -> bytes | None:
        """The body of the call that goes on with a paused turn; what it answers is fed to this same stream."""
        if STOPS.get(self._stop) != "paused" or self._go_on is None or self._pauses >= MAX_PAUSES:
            return None
        body = self._go_on([upstream.as_sent() for upstream in self._turn])
        self._pauses += 1
        for upstream in self._by_index.values():
            self._close(upstream)
        self._by_index.clear()
        self._last, self._stop, self._over = None, "", False
        self._tokens.next_call()
        return body

    def end(self) -> Ending:
        """How the answer ends, now that nothing more comes; the last of it is emitted before. Raises ``UpstreamError`` when
        nothing came at all."""
        usage = self._tokens.usage()
        try:
            for upstream in self._by_index.values():
                self._close(upstream)
            self._blocks.finish()
        except UpstreamError as error:
            return Ending("failed", usage, error=ResponseError("server_error", error.message))
        way = STOPS.get(self._stop, "completed")
        if not self._stop:
            broken = unfinished_error()
            if self._blocks.silent:
                raise broken
            return Ending("failed", usage, error=ResponseError(broken.code, broken.message))
        if way == "paused":
            fault = f"The model backend paused its turn more than {MAX_PAUSES} times."
            return Ending("failed", usage, error=ResponseError("server_error", fault))
        if way == "max_output_tokens" or (way == "content_filter" and not self._refused):
            return Ending("incomplete", usage, reason=way)
        return Ending("completed", usage)

    def _start(self, index: int | None, raw: dict[str, Any]) -> None:
        index = len(self._by_index) if index is None else index
        if index in self._by_index:
            self._close(self._by_index[index])
        upstream = self._open(raw)
        self._by_index[index] = self._last = upstream
        self._turn.append(upstream)
        if upstream.block is not None and isinstance(upstream.writer, CallWriter):
            self._blocks.tell(upstream.block, lambda: None)  # a call is there before it has arguments
        for delta in _whole(upstream.content):
            self._add(upstream, delta)

    def _open(self, raw: dict[str, Any]) -> "_Upstream":
        content = read_block(raw)
        kind = content.type
        name = content.name if isinstance(content.name, str) else ""
        if kind == "text" or (kind == "tool_use" and name and name == self._json_tool):
            return self._upstream(raw, TextWriter(self._emit))
        if kind in ("thinking", "redacted_thinking"):
            return self._upstream(raw, ReasoningWriter(self._emit, self._profile.reasoning_kind))
        if kind == "tool_use":
            if not name:
                raise UpstreamError("The model backend sent a function call without a name.")
            call_id = content.id if isinstance(content.id, str) else None
            return self._upstream(raw, CallWriter(self._emit, self._offered, name, call_id))
        self._warn(f"left out a block of type {str(kind)[:64]}")
        return _Upstream(raw, None, None)

    def _upstream(self, raw: dict[str, Any], writer: TextWriter | ReasoningWriter | CallWriter) -> "_Upstream":
        return _Upstream(raw, self._blocks.open(writer), writer)

    def _find(self, index: int | None, delta: Delta) -> "_Upstream":
        """The block of a delta; one that was never started is opened by what the delta holds."""
        if index is None and self._last is not None:
            return self._last
        if index not in self._by_index:
            kind = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}.get(delta.type)
            self._start(index, {"type": kind or "tool_use"})
        return self._by_index[len(self._by_index) - 1 if index is None else index]

    def _add(self, upstream: "_Upstream", delta: Delta) -> None:
        for name in ("text", "thinking", "signature", "partial_json"):
            piece = getattr(delta, name)
            if name == "partial_json" and isinstance(piece, dict):
                piece = compact(piece)
            if isinstance(piece, str) and piece:
                upstream.pieces.setdefault(name, []).append(piece)
                self._say(upstream, name, piece)
        if delta.citation is not None:
            upstream.citations.append(delta.citation)

    def _say(self, upstream: "_Upstream", name: str, piece: str) -> None:
        block, writer = upstream.block, upstream.writer
        if block is None:
            return
        if isinstance(writer, TextWriter) and name in ("text", "partial_json"):
            self._blocks.tell(block, self._say_text, upstream, writer, piece)
        elif isinstance(writer, ReasoningWriter) and name == "thinking":
            self._blocks.tell(block, writer.text, piece)
        elif isinstance(writer, CallWriter) and name == "partial_json":
            self._blocks.tell(block, writer.feed, piece)

    def _say_text(self, upstream: "_Upstream", writer: TextWriter, piece: str) -> None:
        if not self._emit.in_text:
            self._text_chars = 0
        if upstream.text_start is None:
            upstream.text_start = self._text_chars
        self._text_chars += len(piece)
        writer.text(piece)

    def _close(self, upstream: "_Upstream") -> None:
        block = upstream.block
        if block is None or block.over:
            return
        if isinstance(upstream.writer, CallWriter) and "partial_json" not in upstream.pieces and upstream.content.input:
            given = upstream.content.input
            self._say(upstream, "partial_json", given if isinstance(given, str) else compact(given))
        self._keep(upstream)
        for citation in upstream.citations:
            self._blocks.tell(block, self._cite, upstream, citation)
        self._blocks.close(block)

    def _cite(self, upstream: "_Upstream", citation: Any) -> None:
        annotation = read_citation(citation, upstream.text_start or 0, self._text_chars)
        if annotation is not None:
            self._emit.annotation(annotation)

    def _keep(self, upstream: "_Upstream") -> None:
        """Seal what a block of thinking must be sent back with."""
        writer, block = upstream.writer, upstream.block
        if upstream.kept or block is None or not isinstance(writer, ReasoningWriter):
            return
        upstream.kept = True
        family = family_of(self._profile)
        kept = Kept(family, data={"data": upstream.content.data})
        if upstream.content.type == "thinking":
            signature = "".join(upstream.pieces.get("signature", ()))
            kept = Kept(family, "".join(upstream.pieces.get("thinking", ())), {"signature": signature})
            if not signature:
                return
        sealed = self._state.seal(encode_state(kept))
        if sealed is not None:
            self._blocks.tell(block, writer.state, sealed)

    def _read_end(self, found: AnthropicEvent) -> None:
        self._tokens.read(found.usage)
        if found.delta is not None:
            self._note_stop(found.delta.stop_reason, found.delta.stop_details)

    def _note_stop(self, reason: Any, details: Any) -> None:
        if self._stop or not isinstance(reason, str) or not reason:
            return
        self._stop = reason.strip().lower()[:64]
        if self._stop not in STOPS:
            self._warn(f"stopped for an unknown reason: {self._stop}")
        why = details.get("explanation") if isinstance(details, dict) else None
        if self._stop == "refusal" and isinstance(why, str) and why:
            self._refused = True
            writer = TextWriter(self._emit)
            self._blocks.tell(block := self._blocks.open(writer), writer.refusal, why)
            self._blocks.close(block)

    def _warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)


class _Upstream:
    """One block of theirs, and all that was said of it. Without ``block`` it is left out of the answer."""

    __slots__ = ("block", "citations", "content", "kept", "pieces", "raw", "text_start", "writer")

    def __init__(
        self, raw: dict[str, Any], block: Block | None, writer: TextWriter | ReasoningWriter | CallWriter | None
    ) -> None:
        self.raw = raw
        self.content = read_block(raw)
        self.block = block
        self.writer = writer
        self.pieces: dict[str, list[str]] = {}
        self.citations: list[Any] = []
        self.kept = False
        self.text_start: int | None = None
        """In its message, where a citation of it begins."""

    def as_sent(self) -> dict[str, Any]:
        """The block as it goes back to the provider that paused."""
        said = dict(self.raw)
        for name in ("text", "thinking", "signature"):
            if name in self.pieces:
                said[name] = whole_text("".join(self.pieces[name]))
        if "partial_json" in self.pieces:
            try:
                said["input"] = json.loads("".join(self.pieces["partial_json"]))
                msgspec.json.encode(said["input"])  # not with half a surrogate pair in it
            except (ValueError, RecursionError):
                said["input"] = {}
        if self.citations:
            said["citations"] = self.citations
        return said


def _whole(content: ContentBlock) -> list[Delta]:
    """What a block held already when it was started."""
    said = Delta(text=content.text, thinking=content.thinking, signature=content.signature)
    cited = content.citations if isinstance(content.citations, list) else []
    return [said, *(Delta(citation=citation) for citation in cited)]


def _index(value: Any) -> int | None:
    """Of a block; ``None`` where it is not told. Some write it as text, or as 0.0."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e9 else None
