"""A real llama.cpp behind each of its three endpoints, by the worker's own shell: text, thoughts, tools, the limit, cancel."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from shared.core.emitter import Emitter, Ending
from shared.core.responses import draft
from shared.settings import ModelRow
from shared.wire.items import FunctionCall, FunctionCallOutput, FunctionTool, Item, Message, OutputText, Reasoning
from shared.wire.requests import Request
from shared.wire.responses import Response
from support.answers import STATE, outcome
from support.llamacpp import LlamaCpp
from worker.backends.base import Call
from worker.backends.http import HttpBackend

ESSAY = "write a long essay"
CUT_TOKENS = 500  # an essay that nobody stops is at least twice as long
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [FunctionTool(name, f"Get the {name[4:]} in a city.", CITY) for name in ("get_weather", "get_time")]
Speech = Literal["chat", "responses", "anthropic"]

pytestmark = pytest.mark.parametrize("dialect", ["chat", "responses", "anthropic"])


def nothing() -> None:
    """Nobody waits for the events."""


async def ask(
    server: LlamaCpp, dialect: Speech, said: str | Sequence[Item], flush: Any = nothing, **fields: Any
) -> Response:
    fields = {"temperature": 0.0, "max_output_tokens": 300, **fields}
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="tiny", **fields)
    row = ModelRow(dialect=dialect, base_url=server.base_url, profile="llamacpp")
    items: Sequence[Item] = [Message("user", said)] if isinstance(said, str) else said
    emit = Emitter(draft(request), streaming=False)
    async with HttpBackend() as backend:
        ending: Ending = await backend.run(Call(request, items, row, "req", STATE), emit, flush)
    return emit.end(ending, at=2)


async def test_text_and_its_usage(dialect: Speech, llamacpp: LlamaCpp) -> None:
    response = await ask(llamacpp, dialect, "tell me a story")
    (message,) = response.output
    assert isinstance(message, Message)
    (part,) = message.content
    assert isinstance(part, OutputText)
    assert len(part.text) > 100
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.input_tokens > 10
    assert response.usage.output_tokens > 50


async def test_thoughts_come_before_the_answer_and_go_back(dialect: Speech, llamacpp: LlamaCpp) -> None:
    first = await ask(llamacpp, dialect, "think about it")
    assert [type(item) for item in first.output] == [Reasoning, Message]
    found = outcome(first)
    assert found["reasoning"]
    assert found["text"]
    again: list[Item] = [Message("user", "think about it"), *first.output, Message("user", "tell me a story")]
    assert (await ask(llamacpp, dialect, again)).status == "completed"


async def test_calls_and_their_outputs(dialect: Speech, llamacpp: LlamaCpp) -> None:
    question = "weather in Paris and time in Oslo"
    asked = await ask(llamacpp, dialect, question, tools=TOOLS)
    calls = [item for item in asked.output if isinstance(item, FunctionCall)]
    assert [call.name for call in calls] == ["get_weather", "get_time"]
    assert all(list(json.loads(call.arguments)) == ["city"] for call in calls)
    assert asked.status == "completed"
    outputs = [FunctionCallOutput(call.call_id, "fine") for call in calls]
    answered = await ask(llamacpp, dialect, [Message("user", question), *asked.output, *outputs], tools=TOOLS)
    assert answered.status == "completed"
    assert outcome(answered)["text"]


async def test_the_limit(dialect: Speech, llamacpp: LlamaCpp) -> None:
    response = await ask(llamacpp, dialect, ESSAY, max_output_tokens=20)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 20


async def test_a_cancel_stops_the_generation(dialect: Speech, llamacpp: LlamaCpp) -> None:
    before = await asyncio.to_thread(llamacpp.wait_idle)
    begun = asyncio.Event()

    def flush() -> None:
        begun.set()

    running = asyncio.create_task(ask(llamacpp, dialect, ESSAY, flush, max_output_tokens=2 * CUT_TOKENS))
    async with asyncio.timeout(20):
        await begun.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()
    assert 0 < await asyncio.to_thread(llamacpp.wait_idle) - before < CUT_TOKENS
