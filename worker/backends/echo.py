"""The embedded backend: no network, deterministic, for first steps and tests. It says so in its answer.

What it does is chosen by the last user message: it gives the text back word by word. ``echo:words=N`` in it makes N
words instead, ``echo:delay_ms=N`` waits between words, ``echo:think`` reasons first, ``echo:call`` calls the first tool
(unless the last item is already a tool's output), ``echo:fail`` fails before, ``echo:break`` after the first word.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence

from shared.core.emitter import Emitter, Ending
from shared.core.tools import limit, offers
from shared.errors import UpstreamError
from shared.wire.items import (
    CustomTool,
    CustomToolCallOutput,
    FunctionCallOutput,
    InputText,
    Item,
    Message,
    OutputText,
)
from shared.wire.responses import Usage
from worker.backends.base import Call, Flush

NOTICE = "You talk to Respool's built-in echo model. You said: "
MAX_WORDS = 1_000_000
MAX_DELAY_MS = 60_000
_OPTION = re.compile(r"echo:([a-z_]+)(?:=(\d{1,9}))?")


class EchoBackend:
    """Answers as the module says."""

    async def run(self, call: Call, emit: Emitter, flush: Flush) -> Ending:
        said = _last_text(call.items)
        options = {name: int(number or 1) for name, number in _OPTION.findall(said)}
        if "fail" in options:
            raise UpstreamError("The echo model was asked to fail.")
        if "think" in options:
            emit.reasoning("Let me repeat that.")
        if "call" in options and _call_first(call, emit):
            return Ending("completed", usage=_usage(said, 1))
        words = _words(said, options)
        limit = call.request.max_output_tokens
        delay_s = min(options.get("delay_ms", 0), MAX_DELAY_MS) / 1000
        count = 0
        for count, word in enumerate(words, 1):  # the count is used behind the loop
            emit.text(word)
            if "break" in options:
                raise UpstreamError("The echo model was asked to break.")
            if (delay_s or count % 64 == 0) and (room := flush()) is not None:
                await room()
            if delay_s:
                await asyncio.sleep(delay_s)
            if count == limit:
                return Ending("incomplete", usage=_usage(said, count), reason="max_output_tokens")
        return Ending("completed", usage=_usage(said, count))


def _call_first(call: Call, emit: Emitter) -> bool:
    """Call the first tool that may be called; not when one has just answered."""
    offered = list(offers(call.request.tools))
    allowed = limit(call.request.tool_choice, offered)
    first = next((offer for offer in offered if allowed is None or offer.name in allowed), None)
    if first is None or isinstance(call.items[-1], FunctionCallOutput | CustomToolCallOutput):
        return False
    if isinstance(first.tool, CustomTool):
        emit.custom_input(emit.custom_call(first.tool.name, None, first.namespace), "echo")
    else:
        emit.arguments(emit.call(first.tool.name, None, first.namespace), "{}")
    return True


def _words(said: str, options: dict[str, int]) -> Iterator[str]:
    if "words" in options:
        return (f"w{i} " for i in range(min(options["words"], MAX_WORDS)))
    return iter(re.findall(r"\S+\s*", NOTICE + said))


def _usage(said: str, count: int) -> Usage:
    asked = len(said.split())
    return Usage(input_tokens=asked, output_tokens=count, total_tokens=asked + count)


def _last_text(items: Sequence[Item]) -> str:
    for item in reversed(items):
        if isinstance(item, Message) and item.role == "user":
            if isinstance(item.content, str):
                return item.content
            return " ".join(part.text for part in item.content if isinstance(part, InputText | OutputText))
    return ""
