"""Ask a backend's own tokenizer how long a context is. Only for contexts that this module surely renders as a worker does.

The encoder of Chat Completions belongs to the worker, and the two rooms never meet; so here stands a plain rendering of
what most contexts are made of (texts, function calls and their outputs, function tools), and a test holds it against the
worker's. Whatever else there is (images, reasoning, custom tools, formats, choices) is estimated.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
import structlog
from aiohttp import web

from shared.config import ModelRow
from shared.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    FunctionTool,
    InputText,
    Item,
    Message,
    OutputText,
    TextFormat,
)
from shared.wire.requests import Request

TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 32 << 20

Json = dict[str, Any]
log = structlog.get_logger()
HTTP = web.AppKey("http", aiohttp.ClientSession)


class _Plan(msgspec.Struct):
    """Of the three kinds of answers, whichever keys there are."""

    input_tokens: int | None = None
    count: int | None = None
    prompt: str | None = None
    tokens: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Plan).decode
_encode = msgspec.json.Encoder().encode


class NoAnswer(Exception):
    """The backend has no such tokenizer, or does not answer now."""


async def open_http(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as app[HTTP]:
        yield


async def count(http: aiohttp.ClientSession, row: ModelRow, request: Request, items: Sequence[Item]) -> int | None:
    """The number of tokens by the backend's own count, or ``None`` where it cannot be asked."""
    if row.dialect != "chat" or row.profile not in ("llamacpp", "vllm"):
        return None
    body = render(request, items)
    if body is None:
        return None
    body["model"] = row.model or request.model
    try:
        async with asyncio.timeout(TIMEOUT_S):
            ask = _Asker(http, row).vllm if row.profile == "vllm" else _Asker(http, row).llamacpp
            return await ask(body)
    except (NoAnswer, TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        log.info("tokenizer.failed", model=request.model, error=type(error).__name__)
        return None


class _Asker:
    def __init__(self, http: aiohttp.ClientSession, row: ModelRow) -> None:
        self._http = http
        self._base = row.base_url.rstrip("/")
        key = row.key.reveal() if row.key is not None else None
        self._headers = {**row.headers, "Content-Type": "application/json", **row.quirks.key_header(key)}

    async def vllm(self, body: Json) -> int:
        return _number((await self._post("/tokenize", body)).count)

    async def llamacpp(self, body: Json) -> int:
        """Servers of 2026 count for chats; older ones show the prompt, and count that."""
        try:
            return _number((await self._post("/chat/completions/input_tokens", body)).input_tokens)
        except NoAnswer:
            prompt = (await self._post("/apply-template", body)).prompt
            asked = {"content": prompt, "add_special": True, "parse_special": True}
            return _number(len((await self._post("/tokenize", asked)).tokens or ()))

    async def _post(self, path: str, body: Json) -> _Plan:
        url = f"{self._base if path.startswith('/chat') else self._base.removesuffix('/v1')}{path}"
        async with self._http.post(url, data=_encode(body), headers=self._headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise NoAnswer
            return _decode(await _read(answer))


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for block in answer.content.iter_any():
        body += block
        if len(body) > MAX_ANSWER_BYTES:
            raise NoAnswer
    return bytes(body)


def _number(found: int | None) -> int:
    if not found or found < 0:
        raise NoAnswer
    return found


def render(request: Request, items: Sequence[Item]) -> Json | None:
    """``messages`` and ``tools`` as a worker would send them to llama.cpp or vLLM; ``None`` where that is not sure."""
    plain = request.tool_choice == "auto" and isinstance(request.format, TextFormat | None)
    if not plain or (request.reasoning is not None and request.reasoning.effort is not None):
        return None
    messages = _messages(items)
    tools = [_tool(tool) for tool in request.tools if isinstance(tool, FunctionTool)]
    if messages is None or len(tools) < len(request.tools):
        return None
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    return {"messages": messages} | ({"tools": tools} if tools else {})


def _tool(tool: FunctionTool) -> Json:
    known = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    function = {name: value for name, value in known.items() if value is not None}
    return {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}, **function}}


def _messages(items: Sequence[Item]) -> list[Json] | None:
    """A turn's calls are part of its message, and their outputs stand directly behind it."""
    outputs: dict[str, deque[Json]] = {}
    for item in items:
        if isinstance(item, FunctionCallOutput):
            if (text := _text(item.output, "\n")) is None:
                return None
            answer = {"role": "tool", "tool_call_id": item.call_id, "content": text}
            outputs.setdefault(item.call_id, deque()).append(answer)
    messages: list[Json] = []
    answers: list[Json] = []
    turn: Json | None = None
    for item in items:
        if isinstance(item, FunctionCall) and item.namespace is None:
            found = outputs.get(item.call_id)
            if not found:
                return None  # cut in mid-answer
            if turn is None:
                turn = {"role": "assistant", "content": None}
                messages.append(turn)
            function = {"name": item.name, "arguments": item.arguments}
            turn.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
            answers.append(found.popleft())
            continue
        messages += answers
        answers, turn = [], None
        if isinstance(item, Message):
            text = _text(item.content, "" if item.role == "assistant" else "\n")
            if text is None:
                return None
            messages.append({"role": "system" if item.role == "developer" else item.role, "content": text})
            turn = messages[-1] if item.role == "assistant" else None
        elif not isinstance(item, FunctionCallOutput):
            return None
    return messages + answers


def _text(content: str | Sequence[object], joint: str) -> str | None:
    """The text of *content*, if it is nothing else."""
    if isinstance(content, str):
        return content
    parts = [part.text for part in content if isinstance(part, InputText | OutputText)]
    return joint.join(parts) if len(parts) == len(content) else None
