"""A response's events from any point to its end, and the SSE connection that they go out on.

Listen first, then read; a lost, repeated or late message costs one more read of the log. Frames are relayed as bytes.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator

import structlog
from aiohttp import web

from shared.core.frames import DONE, PING, cut
from shared.core.lifecycle import TERMINAL
from shared.errors import StoreUnavailable
from shared.hub import Hub, Reader
from shared.store.responses import Page, Responses

RECHECK_S = 5.0
STORE_AWAY_S = 60.0
"""How long a stream is kept open while Redis is away; then it is cut, and the client resumes."""
STORE_RETRY_S = 0.5
PIECE_BYTES = 64 << 10
AT_ONCE_BYTES = 16 << 10
"""Up to asyncio's low-water mark a write never waits, so it is spared its timer."""

log = structlog.get_logger()


class Gone(Exception):
    """The response was deleted, expired or lost while it was read: the stream ends without its end mark."""


class Follower:
    """One reader's way through a response's events, from behind *after* (-1: from the start)."""

    def __init__(
        self, responses: Responses, hub: Hub, response_id: str, tenant: str, after: int, ping_s: float
    ) -> None:
        self._responses = responses
        self._hub = hub
        self._response_id = response_id
        self._tenant = tenant
        self._next = after + 1
        self._ping_s = ping_s
        self._relayed = False

    async def follow(self, reader: Reader, *, read_log: bool = True) -> AsyncGenerator[bytes, None]:
        """Frames in order, whole events only, and pings in silence; ends behind the last event. Raises ``Gone``.

        With *read_log* false the log is only read when something was missed.
        """
        written = time.monotonic()
        while True:
            if read_log:
                page, before = await self._look(), self._next
                for batch in page.batches:
                    if frames := self._admit(batch.first, batch.count, batch.frames):
                        yield frames
                        written = time.monotonic()
                if page.status in TERMINAL and self._next >= page.seq:
                    if self._relayed and self._next > page.seq:
                        raise Gone  # Redis lost events that were relayed: another end was written behind fewer of them
                    return
                if page.status in TERMINAL and self._next == before:
                    raise Gone
                read_log = before < self._next < page.seq
                if read_log:
                    continue
            heard = await reader.next(RECHECK_S * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
            if heard is None or heard.kind not in b"ez":
                read_log = True
                if time.monotonic() - written >= self._ping_s:
                    yield PING
                    written = time.monotonic()
                continue
            first, count = int(heard.a), int(heard.b)
            if first > self._next:
                log.info("reader.repaired", response_id=self._response_id, missing=first - self._next)
                read_log = True
                continue
            if frames := self._admit(first, count, heard.blob):
                yield frames
                written = time.monotonic()
            if heard.kind == b"z":
                return

    def _admit(self, first: int, count: int, frames: bytes) -> bytes:
        """What of a batch was not seen yet."""
        if first + count <= self._next:
            return b""
        fresh = cut(frames, self._next - first)
        self._next = first + count
        self._relayed = True
        return fresh

    async def _look(self) -> Page:
        """One page of the log; waits a while for a Redis that is away."""
        deadline = time.monotonic() + STORE_AWAY_S
        while True:
            try:
                async with self._hub.looks:
                    page = await self._responses.watch(
                        self._response_id, self._tenant, self._hub.process, self._next - 1
                    )
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(STORE_RETRY_S)
                continue
            if page is None:
                raise Gone
            return page

    async def leave(self) -> None:
        """To be called when the reader is gone: the last one here takes the inbox off the record."""
        if self._hub.listeners(self._response_id) == 0:
            try:
                await self._responses.leave(self._response_id, self._hub.process)
                self._hub.miss(self._response_id)  # a reader that came meanwhile may have lost its inbox
            except StoreUnavailable:
                log.info("redis.unavailable", response_id=self._response_id)


class EventStream:
    """An SSE answer. A write that makes no progress for *timeout_s* cuts the client."""

    def __init__(self, request: web.Request, timeout_s: float) -> None:
        self._request = request
        self._timeout_s = timeout_s
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )

    async def open(self, headers: dict[str, str]) -> None:
        self._response.headers.update(headers)
        await self._response.prepare(self._request)

    async def write(self, frames: bytes) -> None:
        """Whole events. A lot of them goes out in pieces, so that the timeout is one without progress."""
        at = 0
        while len(frames) - at > PIECE_BYTES:
            end = frames.rfind(b"\n\n", at, at + PIECE_BYTES)
            end = (end if end > at else frames.index(b"\n\n", at)) + 2
            await self._write(frames[at:end])
            at = end
        if at < len(frames):
            await self._write(frames[at:] if at else frames)

    async def _write(self, frames: bytes) -> None:
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size() + len(frames) < AT_ONCE_BYTES:
            await self._response.write(frames)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._response.write(frames)
        except TimeoutError:
            self.cut()
            raise ConnectionResetError("the client takes nothing") from None

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self) -> web.StreamResponse:
        await self.write(DONE)
        await self._response.write_eof()
        return self._response
