"""A response's events from any point to its end, and the SSE connection that they go out on.

Listen first, then read; a lost, repeated or late message costs one more read of the log. Frames are relayed as bytes.
"""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog
from aiohttp import web

from shared.core.frames import DONE, PING, cut
from shared.core.lifecycle import TERMINAL
from shared.errors import StoreUnavailable
from shared.hub import Heard, Hub, Reader
from shared.store.responses import Responses
from shared.store.rows import Batch, Page

RECHECK_S = 5.0
STORE_AWAY_S = 60.0
"""How long a stream is kept open while Redis is away; then it is cut, and the client resumes."""
STORE_RETRY_S = 0.5
LARGE_RETRY_S = 0.2
PIECE_BYTES = 64 << 10
AT_ONCE_BYTES = 64 << 10
"""Up to asyncio's high-water mark a write need not wait, so it is spared its timer."""

log = structlog.get_logger()


class Gone(Exception):
    """The response was deleted, expired or lost while it was read: the stream ends without its end mark."""


class Severed(ConnectionResetError):
    """We have cut the stream, because it cannot go on here. Its client has not hung up, and may resume."""


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
        self._begun = 0  # bytes of event self._next that are out
        self._written = time.monotonic()
        self._wanted_bytes = 0
        """What a large batch needs for which there was no room."""

    async def follow(
        self, reader: Reader, push: Callable[[bytes], bool] = lambda _: False, *, read_log: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """Frames in order (large events in pieces), and pings in silence; ends behind the last event. Raises ``Gone``.

        With *read_log* false the log is only read when something was missed. While all before them are out, events that
        come are given to *push* (false: not taken) as they come, which costs no turn of the loop.
        """
        reader.take = functools.partial(self._pass, push)
        while True:
            if self._wanted_bytes and not self._hub.large.has_room(self._wanted_bytes):
                if not self._begun and self._ping_due():
                    yield PING
                await asyncio.sleep(LARGE_RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
                continue
            if read_log:
                page, before = await self._look(), self._next
                if self._begun and not page.large:
                    raise Gone  # Redis lost the event that is half out
                large = page.large
                source = self._borrow(page.batches.pop()) if large else self._each(page.batches)
                async with contextlib.aclosing(source) as pieces:
                    async for frames in pieces:
                        yield frames
                        self._written = time.monotonic()
                if large and self._next == before:
                    continue  # no room for it, or it was called back
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
                if self._ping_due():
                    yield PING
                continue
            first, count = int(heard.a), int(heard.b)
            if first > self._next:
                log.info("reader.repaired", response_id=self._response_id, missing=first - self._next)
                read_log = True
                continue
            if frames := self._admit(first, count, heard.blob):
                yield frames
                self._written = time.monotonic()
            if heard.kind == b"z":
                return

    def _pass(self, push: Callable[[bytes], bool], heard: Heard) -> bool:
        """Whether that was a batch that *push* took, and all that there was to do."""
        first, count = (int(heard.a), int(heard.b)) if heard.kind == b"e" else (-1, 0)
        if first != self._next or not push(heard.blob):
            return False
        self._next, self._relayed, self._written = first + count, True, time.monotonic()
        return True

    def _ping_due(self) -> bool:
        """Whether it was silent for so long that a ping is to be sent now."""
        due = time.monotonic() - self._written >= self._ping_s
        if due:
            self._written = time.monotonic()
        return due

    async def _each(self, batches: list[Batch]) -> AsyncGenerator[bytes, None]:
        for batch in batches:
            if frames := self._admit(batch.first, batch.count, batch.frames):
                yield frames

    async def _borrow(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        """A large batch in pieces. What slow clients hold of such batches is bounded for all together: it may be called
        back, and then the rest is read again."""
        behind = batch.first + batch.count
        frames = cut(batch.frames, self._next - batch.first)
        self._wanted_bytes = len(frames)
        loan = self._hub.large.lend(frames)
        del batch, frames
        if loan is None:
            return
        try:
            while piece := loan.piece(self._begun, PIECE_BYTES):
                self._begun += len(piece)
                yield piece
            if loan.frames is not None:
                self._next, self._begun, self._relayed, self._wanted_bytes = behind, 0, True, 0
        finally:
            self._hub.large.end(loan)

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

    async def open(self, headers: dict[str, str]) -> web.StreamResponse:
        """Send the head; the answer to a HEAD is no more than that."""
        self._response.headers.update(headers)
        await self._response.prepare(self._request)
        self._chunked = self._response.headers.get("Transfer-Encoding") == "chunked"
        return self._response

    def push(self, frames: bytes) -> bool:
        """Write whole events if the client has room for them: without a wait, and so without a time-out."""
        transport = self._room(len(frames))
        if transport is None:
            return False
        # aiohttp would do the same by five calls and a join.
        transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if self._chunked else frames)
        return True

    def _room(self, size: int) -> asyncio.Transport | None:
        """Where to write so many bytes at once; ``None`` when that may need a wait, or the client has gone."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() + size >= AT_ONCE_BYTES:
            return None
        return transport

    async def write(self, frames: bytes) -> None:
        """Whole events. A lot of bytes goes out in pieces, so that the timeout is one without progress."""
        if len(frames) <= PIECE_BYTES:
            await self._write(frames)
            return
        for at in range(0, len(frames), PIECE_BYTES):
            await self._write(frames[at : at + PIECE_BYTES])

    async def _write(self, piece: bytes) -> None:
        if not self.push(piece):
            await self._within(self._response.write(piece))

    async def _within(self, writing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await writing
            return
        except TimeoutError:
            self.cut()
        raise ConnectionResetError("the client takes nothing")  # out here, without the tracebacks of the time-out

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self) -> web.StreamResponse:
        last = DONE
        if not self._room(len(DONE)):
            await self.write(DONE)
            last = b""
        await self._within(self._response.write_eof(last))  # waits while a lot is still to be taken
        return self._response
