"""The way out of one WebSocket: whole messages in turn, and no more of them than the client takes."""

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from api.relay import AT_ONCE_BYTES
from api.texts import Texts, frame_head, message
from shared.core.frames import PING

PING_FRAME, PONG_FRAME = 0x9, 0xA
CLOSE_S = 2.0
"""For what is left to be written, and for the client's answer to a close."""


class Outgoing:
    """A write that makes no progress for *timeout_s* cuts the client, and so does ``watch``."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse, timeout_s: float) -> None:
        self.floor = asyncio.Lock()
        """Held by who writes a message that does not go out at once."""
        self.torn = False
        """Something is half out, and its rest will not follow: so nothing can."""
        self._request = request
        self._socket = socket
        self._timeout_s = timeout_s
        self._alive_at = 0.0
        """When the client has given its latest sign of life."""
        self._pong = b""
        """Is owed to the client until it has taken what is in the way."""

    async def open(self) -> None:
        """Answer the handshake."""
        self._drained = (await self._socket.prepare(self._request)).drain
        self._lives()
        self._request.protocol._data_received_cb = self._heard  # where a part of a message counts, too

    async def watch(self) -> None:
        """Returns when a client is cut because it has given no sign of life for ``2 * timeout_s``, and then no answer to
        a ping for *timeout_s*. Signs are what it sends, and a wait for it to take something that has ended."""
        now = asyncio.get_running_loop().time
        while True:
            while (left_s := self._alive_at + 2 * self._timeout_s - now()) > 0:  # noqa: ASYNC110  # no event for each byte
                await asyncio.sleep(left_s)
            asked_at = now()
            self.put([frame_head(0, opcode=PING_FRAME, final=True)])
            await asyncio.sleep(self._timeout_s)
            if self._alive_at < asked_at:
                return self.cut()

    def pong(self, payload: bytes) -> None:
        """Answer a ping, between two frames; without a wait, so only the latest one when the client takes nothing."""
        self._pong = frame_head(len(payload), opcode=PONG_FRAME, final=True) + payload
        if not self._request.protocol.writing_paused:
            self._send_pong()

    def _send_pong(self) -> None:
        pong, self._pong = self._pong, b""
        if pong:
            self.put([pong])

    def _lives(self) -> None:
        self._alive_at = asyncio.get_running_loop().time()

    def _heard(self) -> None:
        if not self._request.protocol.writing_paused:  # or one that only talks would never be cut
            self._lives()

    def has_room(self, size: int) -> bool:
        """Whether so much can be written at once, and nobody else is about to."""
        transport = self._request.transport
        if self.torn or self.floor.locked() or transport is None or transport.is_closing():
            return False
        return transport.get_write_buffer_size() + size < AT_ONCE_BYTES

    def put(self, pieces: Sequence[bytes]) -> None:
        """Write what there is room for."""
        transport = self._request.transport
        if transport is not None:
            for piece in pieces:
                transport.write(piece)

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Write whole frames, a piece at a time. To be called with the floor."""
        left = len(pieces)
        try:
            for piece in pieces:
                transport = self._request.transport
                if self.torn or transport is None or transport.is_closing():
                    raise ConnectionResetError("the client has gone")
                transport.write(piece)
                left -= 1
                await self._drain()
        finally:
            self.torn = self.torn or left > 0

    async def _drain(self) -> None:
        paused = self._request.protocol.writing_paused
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._drained()
            if paused:
                self._lives()
            return self._send_pong()
        except TimeoutError:
            self.cut()
        raise ConnectionResetError("the client takes nothing")  # out here, without the tracebacks of the time-out

    async def say(self, text: bytes) -> None:
        """Send one message that is no event of a response."""
        async with self.floor:
            await self.write(message(text))

    async def close(self, code: int) -> None:
        """Close as the protocol has it, if that is possible in ``CLOSE_S``."""
        try:
            async with asyncio.timeout(CLOSE_S):
                if not self.torn:
                    await self._socket.close(code=code)
        except (TimeoutError, ConnectionResetError):
            pass
        finally:
            self.cut()

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


class Lane:
    """The way out of one response's events."""

    def __init__(self, out: Outgoing, texts: Texts) -> None:
        self._out = out
        self._texts = texts
        self._has_floor = False

    def push(self, frames: bytes) -> bool:
        """Write whole events if the client has room for them: without a wait, and so without a time-out."""
        if not self._out.has_room(len(frames)):
            return False
        self._out.put(self._texts.feed(frames))
        return True

    async def write(self, frames: bytes, before: Callable[[], None] = lambda: None) -> None:
        """More of the log. While an event is half out the floor is kept. *before* is called before the last event is out."""
        pieces = self._texts.feed(frames) if frames != PING else ()  # the connection has pings of its own
        if self._texts.ended:
            before()
        if not pieces:
            return
        if not self._has_floor:
            await self._out.floor.acquire()
            self._has_floor = True
        await self._out.write(pieces)
        if not self._texts.open:
            self._give_floor()

    def leave(self) -> None:
        """To be called at the end. Cuts the client when an event is half out: nothing else could follow."""
        if self._texts.open:
            self._out.torn = True
            self._out.cut()
        self._give_floor()

    def _give_floor(self) -> None:
        if self._has_floor:
            self._has_floor = False
            self._out.floor.release()
