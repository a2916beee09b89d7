"""Clients whose every exchange is recorded: transports for the official client, and a plain one on aiohttp."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
from yarl import URL

from support.history import Exchange
from support.recorder import Recorder
from support.schemas import Json

READ_SIZE_BYTES = 65536
TIMEOUT_S = 30.0
KEY_HEADER = "Idempotency-Key"


def api_root(base_url: str) -> str:
    """The base URL for the official client, from the origin of a server."""
    root = base_url.rstrip("/")
    return root if root.endswith("/v1") else f"{root}/v1"


class RecordingAsyncTransport(httpx2.AsyncBaseTransport):
    """Passes everything on and shows a copy to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        started = self._recorder.tick()
        response = await self._inner.handle_async_request(request)
        url, status = str(request.url), response.status_code
        exchange = self._recorder.begin(request.method, url, status, dict(response.headers), started, **_said(request))
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _AsyncTee(response.stream, exchange, self._recorder)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class RecordingTransport(httpx2.BaseTransport):
    """The same for the synchronous client."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._inner = httpx2.HTTPTransport(trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        started = self._recorder.tick()
        response = self._inner.handle_request(request)
        url, status = str(request.url), response.status_code
        exchange = self._recorder.begin(request.method, url, status, dict(response.headers), started, **_said(request))
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Tee(response.stream, exchange, self._recorder)
        return response

    def close(self) -> None:
        self._inner.close()


def _said(request: httpx2.Request) -> dict[str, Any]:
    """What the recorder keeps of a request."""
    try:
        sent = json.loads(request.content)
    except (ValueError, httpx2.RequestNotRead):
        sent = None
    return {"sent": sent, "key": request.headers.get(KEY_HEADER, "")}


class _AsyncTee(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, exchange: Exchange, recorder: Recorder) -> None:
        self._inner, self._exchange, self._recorder = inner, exchange, recorder

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._exchange.body += part
            yield part
        self._recorder.finish(self._exchange, ended=True)

    async def aclose(self) -> None:
        self._recorder.finish(self._exchange, ended=False)
        await self._inner.aclose()


class _Tee(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream, exchange: Exchange, recorder: Recorder) -> None:
        self._inner, self._exchange, self._recorder = inner, exchange, recorder

    def __iter__(self) -> Iterator[bytes]:
        for part in self._inner:
            self._exchange.body += part
            yield part
        self._recorder.finish(self._exchange, ended=True)

    def close(self) -> None:
        self._recorder.finish(self._exchange, ended=False)
        self._inner.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer read to its end."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RawStream:
    """An answer that is being read. Leaving its context before the end hangs up."""

    def __init__(self, reply: aiohttp.ClientResponse, exchange: Exchange, recorder: Recorder) -> None:
        self._reply, self._exchange, self._recorder = reply, exchange, recorder
        self._rest = b""
        self.status = reply.status
        self.headers = exchange.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come; a broken connection raises."""
        async for part in self._reply.content.iter_any():
            self._exchange.body += part
            yield part
        self._recorder.finish(self._exchange, ended=True)

    async def frames(self) -> AsyncIterator[bytes]:
        """Whole SSE frames with their blank line; may be called again to read on."""
        while True:
            while b"\n\n" in self._rest:
                frame, _, self._rest = self._rest.partition(b"\n\n")
                yield frame + b"\n\n"
            part = await self._reply.content.readany()
            if not part:
                self._recorder.finish(self._exchange, ended=True)
                return
            self._exchange.body += part
            self._rest += part

    async def events(self) -> AsyncIterator[Json]:
        """The events, without comments and [DONE]; may be called again to read on."""
        async for frame in self.frames():
            if frame.startswith(b"event: "):
                yield json.loads(frame.partition(b"\ndata: ")[2])

    async def read(self) -> bytes:
        """The rest of the body."""
        rest, self._rest = self._rest, b""
        return rest + b"".join([part async for part in self.chunks()])


class RawClient:
    """A thin client on aiohttp: paths from the root of the server, nothing raised for a status, nothing retried."""

    def __init__(self, base_url: str, recorder: Recorder, *, headers: Mapping[str, str] | None = None) -> None:
        self._base = base_url.rstrip("/").removesuffix("/v1")
        self._recorder = recorder
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False)

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[RawStream]:
        """Send a request and read the answer bit by bit. *options* are aiohttp's: json, data, headers, params."""
        started = self._recorder.tick()
        url = URL(self._base + path, encoded=True)
        async with self._session.request(method, url, **options) as reply:
            said = {"sent": options.get("json"), "key": (options.get("headers") or {}).get(KEY_HEADER, "")}
            exchange = self._recorder.begin(method, str(reply.url), reply.status, dict(reply.headers), started, **said)
            try:
                yield RawStream(reply, exchange, self._recorder)
            finally:
                if not exchange.finished:
                    self._recorder.finish(exchange, ended=False)
                    reply.close()

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request and read the whole answer."""
        async with self.stream(method, path, **options) as stream:
            return Answer(stream.status, stream.headers, await stream.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        return await self.request("POST", path, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        return await self.request("DELETE", path, **options)
