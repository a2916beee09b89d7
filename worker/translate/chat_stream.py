"""The stream of Chat Completions to our events: fed with payloads, it drives an `Emitter` and says how it ended.

    reasoning text   reasoning item      content, refusal   message item      tool deltas   call items

Whatever comes next closes what was open. A stream that never said why it stopped is broken, not completed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from shared.core.emitter import Emitter, Ending
from shared.core.profiles import Profile
from shared.core.sse import BOM, SSEDecoder
from shared.errors import UpstreamError
from shared.wire.items import Logprob
from shared.wire.responses import ResponseError, Usage
from worker.translate.chat_calls import ANYTHING, LEGACY_INDEX, Calls, Offered, mend
from worker.translate.chat_chunk import (
    Choice,
    Chunk,
    Delta,
    ToolDelta,
    decode_chunk,
    join_texts,
    only_text,
    read_logprobs,
    read_usage,
    split_content,
)
from worker.translate.chat_state import Thoughts
from worker.translate.citations import Citations
from worker.translate.errors import garbage_error, stream_error, unfinished_error
from worker.translate.text_slot import TextSlot
from worker.translate.think import ThinkSplitter

FINISHES: Mapping[str, Literal["completed", "max_output_tokens", "content_filter", "failed"]] = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "tool_calls", "tool_use", "function_call"),
        "completed",
    ),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "max_output_tokens"),
    **dict.fromkeys(
        (
            *("content_filter", "content_filtered", "sensitive", "safety", "recitation", "guardrail_intervened"),
            *("refusal", "prohibited_content", "blocklist", "spii"),
        ),
        "content_filter",
    ),
    **dict.fromkeys(
        ("error", "network_error", "insufficient_system_resource", "abort", "malformed_function_call"), "failed"
    ),
}
NO_REASONS = frozenset({"", "null", "none"})
MAX_SPACE_CHARS = 4096
"""White space that is held back where it would open an item; more of it does."""


class ChatStream:
    """One answer. ``ended`` once it said why it stopped: then only its usage may still come."""

    def __init__(
        self, emit: Emitter, profile: Profile, offered: Offered = ANYTHING, thoughts: Thoughts | None = None
    ) -> None:
        self._emit = emit
        self._profile = profile
        self._thoughts = thoughts
        self._calls = Calls(emit, interleaved=profile.interleaved_calls, offered=offered, thoughts=thoughts)
        self._citations = Citations(emit)
        self._think: ThinkSplitter | None = None
        if profile.think_tags is not None:
            self._think = ThinkSplitter(*profile.think_tags, starts_inside=profile.starts_in_think)
        self._finish = ""
        self._done = False
        self._has_deltas = False
        self._usage: Usage | None = None
        self._logprobs: list[Logprob] = []  # of tokens whose text is still to come
        self._torn = False  # texts of this stream may hold halves of surrogate pairs
        self._halves: dict[str, str] = {}
        self._last: Literal["", "text", "reasoning", "call"] = ""  # what came last
        self._space = ""  # white space behind it, of a text
        self._hush = ""  # the same, of reasoning
        self._slot = TextSlot(lambda data: only_text(decode_chunk(data)[0]))

    @property
    def ended(self) -> bool:
        return self._done or bool(self._finish)

    @property
    def warnings(self) -> Sequence[str]:
        unknown = bool(self._finish) and self._finish not in FINISHES
        return [*self._calls.warnings, *([f"stopped for an unknown reason: {self._finish}"] if unknown else [])]

    def feed(self, data: bytes, event: str = "") -> None:
        """One payload. Raises ``UpstreamError`` when it is an error or cannot be read."""
        if self._done or not data or data.isspace():
            return
        if len(data) < 16 and data.strip() == b"[DONE]":
            self._done = True
            return
        over = bool(self._finish) and FINISHES.get(self._finish) != "failed"
        try:
            if event == "error":
                raise stream_error(data)
            if self._goes_on and (text := self._slot.find(data)):
                self._emit.text(text)
                return
            chunk, torn = decode_chunk(data)
            self._torn = self._torn or torn
            if not torn and (text := only_text(chunk)):
                self._slot.learn(data, text)
                if self._goes_on:
                    self._emit.text(text)
                    return
            self._read(chunk)
            if chunk.is_error:
                raise stream_error(data)
        except UpstreamError:
            if not over:  # what breaks behind the end takes nothing from the answer
                raise

    def skim(self, block: bytes, at: int, /) -> int:
        if self._done or not self._goes_on:
            return at
        texts, end = self._slot.find_run(block, at)
        self._emit.texts(texts)
        return end

    def feed_whole(self, body: bytes) -> None:
        """The body of a 200 that is not called a stream: a whole completion, or a stream all the same.

        Raises ``UpstreamError`` for anything else.
        """
        if body.removeprefix(BOM).lstrip().startswith((b"data:", b"event:", b":")):
            for event in SSEDecoder(max_line_bytes=len(body) + 1).feed(body):
                self.feed(event.data, event.event)
            return
        chunk, torn = decode_chunk(body)
        self._torn = self._torn or torn
        if chunk.is_error:
            raise stream_error(body)
        if not chunk.choices:
            raise garbage_error()
        self._read(chunk)
        self._finish = self._finish or "stop"  # it is whole: some say nothing more
        self._done = True

    def follow_up(self) -> bytes | None:
        """A chat completion is never paused."""
        return None

    def end(self) -> Ending:
        """How the answer ends, now that nothing more comes; the last of it is emitted before."""
        fault: str | None = None
        for kind, text in self._think.finish() if self._think else []:
            self._add(kind, text)
        if self._space and self._finish and not self._last:  # it is all that came
            self._last = "text"
            self._emit.text(self._space, self._logprobs)
        self._citations.finish()
        try:
            self._calls.finish()
        except UpstreamError as error:
            fault = error.message
        way = FINISHES.get(self._finish, "completed")
        if not self._finish:
            fault = unfinished_error().message
        elif way == "failed":
            fault = f"The model backend gave up ({self._finish})."
        if fault is not None and not self._last:  # nothing came: another try may help
            raise UpstreamError(fault, retryable=True, max_tries=2)
        if fault is not None:
            return Ending("failed", self._usage, error=ResponseError("server_error", fault))
        if self._thoughts is not None:
            self._thoughts.release()
        if way == "max_output_tokens" or way == "content_filter":
            return Ending("incomplete", self._usage, reason=way)
        return Ending("completed", self._usage)

    @property
    def _goes_on(self) -> bool:
        """Whether a text that comes now only goes on with what came before it: so it is with nearly all of a stream."""
        return self._last == "text" and not (self._torn or self._think or self._hush or self._logprobs)

    def _read(self, chunk: Chunk) -> None:
        for choice in chunk.choices or ():
            if choice is not None and choice.index in (None, 0, "0"):  # we never ask for more than one
                self._read_choice(choice)
        if chunk.usage or chunk.x_groq:
            groq = chunk.x_groq if isinstance(chunk.x_groq, dict) else {}
            self._note_usage(read_usage(chunk.usage) or read_usage(groq.get("usage")))
            if groq.get("error"):
                raise stream_error(json.dumps({"error": groq["error"]}).encode())
        if chunk.citations or chunk.search_results:
            self._citations.note(chunk.citations, chunk.search_results)

    def _read_choice(self, choice: Choice) -> None:
        delta = choice.delta
        if delta is None and not self._has_deltas:  # else it only sums up what was streamed
            delta = choice.message
        self._has_deltas = self._has_deltas or choice.delta is not None
        if delta is not None:
            self._read_delta(delta, choice.logprobs)
        if choice.usage:
            self._note_usage(read_usage(choice.usage))
        if choice.error:
            raise stream_error(json.dumps({"error": choice.error}).encode())
        if not self._finish and isinstance(choice.finish_reason, str):
            reason = choice.finish_reason.strip().lower()[:64]
            self._finish = "" if reason in NO_REASONS else reason

    def _note_usage(self, usage: Usage | None) -> None:
        """The last one counts; one of nothing but zeros takes nothing back."""
        if usage is not None and (self._usage is None or usage.total_tokens):
            self._usage = usage

    def _read_delta(self, delta: Delta, logprobs: Any) -> None:
        reasoning = self._reasoning_of(delta)
        tools = [tool for tool in delta.tool_calls if tool is not None] if delta.tool_calls else []
        if delta.function_call is not None:  # from before there were several
            tools.append(ToolDelta(LEGACY_INDEX, None, delta.function_call))
        if logprobs and not reasoning and not tools:
            self._logprobs += read_logprobs(logprobs)
        if tools and self._calls.is_open:
            # Reasoning leaks into chunks of calls: it must not close the call that they feed.
            self._read_tools(tools)
            tools = []
        if reasoning:
            self._add("reasoning", reasoning)
        if self._thoughts is not None:
            self._read_state(self._thoughts, delta)
        if delta.content:
            self._read_content(delta.content)
        if delta.refusal:
            self._add("refusal", join_texts(delta.refusal))
        if tools:
            self._read_tools(tools)
        if delta.annotations:
            self._citations.add(delta.annotations, has_text=self._last == "text")

    def _read_state(self, thoughts: Thoughts, delta: Delta) -> None:
        if delta.reasoning_details:
            thoughts.details(delta.reasoning_details)
        if delta.encrypted_content:
            thoughts.cipher(delta.encrypted_content)
        if delta.extra_content:
            thoughts.message(delta.extra_content)

    def _reasoning_of(self, delta: Delta) -> str:
        for name in self._profile.reasoning_in:
            if (value := getattr(delta, name)) and (text := join_texts(value)):
                return text
        return ""

    def _read_content(self, content: Any) -> None:
        if isinstance(content, str) and self._think is None:
            self._add("text", content)
            return
        for kind, text in split_content(content):
            if kind == "text" and self._think is not None:
                for split_kind, split_text in self._think.feed(text):
                    self._add(split_kind, split_text)
            else:
                self._add(kind, text)

    def _read_tools(self, tools: list[ToolDelta]) -> None:
        for kind, text in self._think.finish() if self._think else []:
            self._add(kind, text)
        self._last, self._space, self._hush = "call", "", ""
        self._calls.feed(tools)

    def _add(self, kind: str, text: str) -> None:
        if self._torn:
            self._halves[kind], text = mend(self._halves.get(kind, ""), text)
        if not text:
            return
        if kind == "text":
            self._add_text(text)
            return
        if kind == "refusal":
            self._calls.release()
            self._begin_text()
            self._emit.refusal(text)
            return
        self._logprobs.clear()
        self._add_reasoning(text)

    def _add_reasoning(self, text: str) -> None:
        """White space alone, in the middle of a text or a call, is no reasoning."""
        if self._last in ("text", "call"):
            self._hush += text
            if text.isspace() and len(self._hush) < MAX_SPACE_CHARS:
                return
            text, self._hush = self._hush, ""
        if self._thoughts is not None:
            self._thoughts.text(text)
            self._thoughts.late = False
        if self._profile.reasoning_kind != "hidden":
            self._calls.release()
            grow = self._emit.reasoning if self._profile.reasoning_kind == "raw" else self._emit.summary
            grow(text)
        self._last, self._space = "reasoning", ""

    def _add_text(self, text: str) -> None:
        """Servers put line ends before and between reasoning and calls: these open no message.

        They are held until there is text, and dropped when there is none.
        """
        if self._last != "text":
            if text.isspace() and len(self._space) < MAX_SPACE_CHARS:
                self._space += text
                return
            text = self._space + text
            self._space = ""
            self._calls.release()
        begins = self._last != "text"
        if begins or self._hush:
            self._begin_text()
        self._emit.text(text, self._logprobs)
        if self._logprobs:
            self._logprobs = []
        if begins:
            self._citations.release()

    def _begin_text(self) -> None:
        if self._last != "text" and self._thoughts is not None:
            self._thoughts.release()
            self._thoughts.late = True
        self._last, self._hush = "text", ""
