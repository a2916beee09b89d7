"""One answer of a backend, heard as it is read: each read is decoded, fed to the dialect and flushed at once; its run is only woken at
the end, or to wait for room."""

import asyncio
import contextvars
import time
from collections.abc import Mapping

import structlog

from shared.errors import UpstreamError
from worker.backends.base import Flush, Wait
from worker.backends.connection import Connection
from worker.translate.dialect import Answer
from worker.translate.errors import upstream_error
from worker.translate.reading import Reading

MAX_ERROR_BYTES = 64 << 10
MAX_BODY_BYTES = 16 << 20
USAGE_WAIT_S = 5.0
"""How long the rest of a stream (its usage) is awaited once the answer has ended."""

log = structlog.get_logger()


class Exchange:
    """Timers: until the first byte of the body, as the connection was asked; from there on *idle_s* between reads, comments
    included, or for the whole of an error."""

    def __init__(self, connection: Connection, stream: Answer, flush: Flush, idle_s: float, model: str) -> None:
        self._connection = connection
        self._stream = stream
        self._flush = flush
        self._idle_s = idle_s
        self._model = model
        self._status = 0
        self._headers: Mapping[bytes, bytes] = {}
        self._events: Reading | None = None
        self._body = bytearray()
        self._answered = False
        """Only usage may still come: what comes does not give it more time."""
        self._room: Wait | None = None
        self._over = False
        self._error: Exception | None = None
        self._woken = asyncio.get_running_loop().create_future()
        self._context = contextvars.copy_context()
        """What is logged of the run; a connection is in the one of whoever made it."""

    async def run(self, head: bytes, body: bytes, first_byte_s: float) -> None:
        """From the request to the end of its answer. Raises what ended it early."""
        self._connection.ask(head, body, self, first_byte_s)
        try:
            while not self._over:
                await self._woken
                if self._room is not None:
                    await self._wait(self._room)
        finally:
            if not self._over:
                self._connection.drop()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or this frame and its error would hold each other
        if self._status != 200:
            retry_after = self._headers.get(b"retry-after", b"").decode("latin-1") or None
            raise upstream_error(self._status, bytes(self._body[:MAX_ERROR_BYTES]), retry_after, time.time())
        if self._events is None:
            self._stream.feed_whole(bytes(self._body))

    async def _wait(self, room: Wait) -> None:
        self._room = None
        self._woken = asyncio.get_running_loop().create_future()
        await room()
        if not self._over and self._room is None:
            self._await_more()
            self._connection.go_on()

    # What the connection calls

    def begun(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status, self._headers = status, headers
        self._context.run(self._say, status)
        compressed = headers.get(b"content-encoding", b"identity").lower() != b"identity"
        if status != 200:
            self._connection.deadline.within(self._idle_s)
            if compressed:
                self._stop()
        elif compressed:  # what a few bytes may grow to is not for the backend to choose
            raise UpstreamError("The backend compressed its answer, which it was asked not to do.")
        elif headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"text/event-stream":
            self._events = Reading(self._stream)

    def heard(self, block: bytes) -> None:
        if self._events is None:
            self._gather(block)
            return
        if self._events.feed(block):
            self._connection.leave()
            self.ended()
            return
        self._room = self._flush()
        if self._room is None:
            self._await_more()
        else:
            self._connection.hold()
            if not self._answered:
                self._connection.deadline.pause()
            self._wake()

    def ended(self) -> None:
        self._over = True
        self._wake()

    def failed(self, error: Exception) -> None:
        self._error = error
        self.ended()

    # Its own

    def _say(self, status: int) -> None:
        log.debug("upstream.called", model=self._model, status=status)

    def _gather(self, block: bytes) -> None:
        self._body += block
        if self._status != 200:
            if len(self._body) >= MAX_ERROR_BYTES:
                self._stop()
        elif len(self._body) > MAX_BODY_BYTES:
            raise UpstreamError("The backend sent an answer that is too large.")
        else:
            self._connection.deadline.within(self._idle_s)

    def _await_more(self) -> None:
        if not self._answered:
            self._answered = self._stream.ended
            self._connection.deadline.within(USAGE_WAIT_S if self._answered else self._idle_s)

    def _stop(self) -> None:
        """Enough was heard."""
        self._connection.drop()
        self.ended()

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)
