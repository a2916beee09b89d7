"""Ask a backend how long a context is, where it has a way to count: only contexts that `api.rendering` surely renders."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
import structlog
from aiohttp import web

from api.rendering import render_anthropic, render_chat, render_responses
from shared.settings import ModelRow
from shared.wire.items import Item
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
    counts = COUNTERS.get((row.dialect, row.profile))
    body = None if counts is None else _render(row, request, items)
    if counts is None or body is None:
        return None
    body["model"] = row.model or request.model
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await counts(_Asker(http, row), body)
    except (NoAnswer, TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        log.info("tokenizer.failed", model=request.model, error=type(error).__name__)
        return None


def _render(row: ModelRow, request: Request, items: Sequence[Item]) -> Json | None:
    if row.dialect == "anthropic":
        return render_anthropic(request, items)
    if row.dialect == "responses":
        return render_responses(request, items, developer=row.quirks.system_role)
    return render_chat(request, items)


class _Asker:
    def __init__(self, http: aiohttp.ClientSession, row: ModelRow) -> None:
        self._http = http
        self._base = row.base_url.rstrip("/")
        key = row.key.reveal() if row.key is not None else None
        self._headers = {**row.headers, "Content-Type": "application/json", **row.quirks.key_header(key)}
        if row.dialect == "anthropic":
            self._headers["anthropic-version"] = "2023-06-01"

    async def messages(self, body: Json) -> int:
        return _number((await self._post("/messages/count_tokens", body)).input_tokens)

    async def responses(self, body: Json) -> int:
        return _number((await self._post("/responses/input_tokens", body)).input_tokens)

    async def vllm(self, body: Json) -> int:
        return _number((await self._post("/tokenize", body, below_v1=False)).count)

    async def llamacpp(self, body: Json) -> int:
        """Servers of 2026 count for chats; older ones show the prompt, and count that."""
        try:
            return _number((await self._post("/chat/completions/input_tokens", body)).input_tokens)
        except NoAnswer:
            prompt = (await self._post("/apply-template", body, below_v1=False)).prompt
            asked = {"content": prompt, "add_special": True, "parse_special": True}
            return _number(len((await self._post("/tokenize", asked, below_v1=False)).tokens or ()))

    async def _post(self, path: str, body: Json, *, below_v1: bool = True) -> _Plan:
        url = f"{self._base if below_v1 else self._base.removesuffix('/v1')}{path}"
        async with self._http.post(url, data=_encode(body), headers=self._headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise NoAnswer
            return _decode(await _read(answer))


COUNTERS: Mapping[tuple[str, str], Callable[[_Asker, Json], Awaitable[int]]] = {
    ("chat", "vllm"): _Asker.vllm,
    ("chat", "llamacpp"): _Asker.llamacpp,
    ("anthropic", "anthropic"): _Asker.messages,
    ("anthropic", "llamacpp"): _Asker.messages,
    ("responses", "openai"): _Asker.responses,
    ("responses", "llamacpp"): _Asker.responses,
}
"""By dialect and profile: who counts."""


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
