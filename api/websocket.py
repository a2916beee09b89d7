"""One WebSocket, from its handshake to its close: what comes is put in its lane, and turns are started and ended."""

import asyncio
import time

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from api.lanes import Lanes
from api.messages import Create, decode_message, error_event, parent_of, steer_failed, stream_id_of, type_of
from api.outgoing import CLOSE_S, Outgoing
from api.resources import ADMISSION, KEYRING, SETTINGS, STATE
from api.turns import Turns, too_old
from shared.errors import ApiError, InvalidRequest, StoreUnavailable, Unauthorized

HEARD = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG

log = structlog.get_logger()


class Connection:
    """Lives as long as its socket. ``drain`` and ``leave`` are called when the process is to stop."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse, turns: Turns, out: Outgoing) -> None:
        self._request = request
        self._socket = socket
        self._turns = turns
        self._out = out
        self._app = request.app
        self._settings = request.app[SETTINGS]
        self._lanes = Lanes(self._settings.max_body_bytes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._close_code = 0
        """What it is to be closed with when its turns have ended; 0 while it takes new ones."""
        self._over = asyncio.Event()
        """It is to be closed now."""

    async def serve(self) -> None:
        """Returns when it is closed. Raises ``CancelledError`` when the client is gone."""
        started = time.monotonic()
        await self._out.open()
        log.info("socket.opened")
        state = self._app[STATE]
        state.sockets.add(self)
        expiry = asyncio.get_running_loop().call_later(self._settings.websocket_max_s, self._expire)
        listening = asyncio.create_task(self._listen())
        over = asyncio.create_task(self._over.wait())
        watching = asyncio.create_task(self._out.watch())
        try:
            if state.draining:  # since the handshake was looked at
                self.drain()
            await asyncio.wait([listening, over], return_when=asyncio.FIRST_COMPLETED)
            self._turns.leaving = self._over.is_set()
            await self._end_turns()
            if self._over.is_set():
                listening.cancel()  # or the close would not wait for the client's
                await asyncio.wait([listening])
                await self._say_goodbye()
        finally:
            state.sockets.discard(self)
            expiry.cancel()
            for task in (listening, over, watching, *self._tasks):
                task.cancel()
            code = self._close_code if self._over.is_set() else self._socket.close_code or WSCloseCode.ABNORMAL_CLOSURE
            if code == WSCloseCode.ABNORMAL_CLOSURE:
                self._out.cut()  # it may never take what is left
            duration_ms = round((time.monotonic() - started) * 1000)
            log.info("socket.closed", code=code, turns=self._turns.count, duration_ms=duration_ms)

    def drain(self) -> None:
        self._close_when_idle(WSCloseCode.SERVICE_RESTART)

    def leave(self) -> None:
        self._close_code = self._close_code or WSCloseCode.SERVICE_RESTART
        self._over.set()

    def _expire(self) -> None:
        """Its time is over: what runs gets as long to end as when the process stops."""
        self._turns.expired = True
        self._close_when_idle(WSCloseCode.GOING_AWAY)
        asyncio.get_running_loop().call_later(self._settings.drain_s, self._over.set)

    def _close_when_idle(self, code: int) -> None:
        self._close_code = self._close_code or code
        if self._lanes.is_idle:
            self._over.set()

    async def _end_turns(self) -> None:
        """Those of a client that has gone, or that have not ended when the time is over. What waits is told so."""
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(CLOSE_S):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            self._out.cut()

    async def _say_goodbye(self) -> None:
        """Bounded in time, as is everything behind the last turn."""
        try:
            if self._turns.expired:
                async with asyncio.timeout(CLOSE_S):
                    await self._out.say(error_event(too_old()))
        except (TimeoutError, ConnectionResetError):
            pass
        await self._out.close(self._close_code)

    async def _listen(self) -> None:
        """Until the client has closed, or was closed for what it sent."""
        try:
            while (message := await self._socket.receive()).type in HEARD:
                if message.type is WSMsgType.PING:
                    self._out.pong(message.data)
                elif message.type is not WSMsgType.PONG:
                    await self._hear(message.data, is_text=message.type is WSMsgType.TEXT)
        except ConnectionResetError:
            pass
        except Exception:  # where a message enters: a fault of ours ends this connection only
            log.exception("request.failed", path="websocket")
            self._out.cut()

    async def _hear(self, data: bytes, *, is_text: bool) -> None:
        """One message. What is wrong with it is answered, and closes nothing."""
        stream_id = ""
        try:
            if not is_text:
                raise InvalidRequest("Messages are JSON in text frames, but this was a binary one.")
            fields = decode_message(data)
            stream_id = stream_id_of(fields)
            if type_of(fields) == "response.steer":
                return await self._out.say(steer_failed(fields, stream_id))
            self._lanes.name(stream_id)
            await self._app[KEYRING].holder(self._request.headers.get("Authorization"))
            self._start(self._lanes.offer(Create(stream_id, parent_of(fields), data)))
        except StoreUnavailable as away:
            log.warning("redis.unavailable", error=str(away))
            await self._out.say(error_event(self._app[ADMISSION].refusal("store"), stream_id))
        except ApiError as error:
            await self._out.say(error_event(error, stream_id))
            if isinstance(error, Unauthorized):  # its key was revoked meanwhile
                self._turns.revoked = True
                self._close_when_idle(WSCloseCode.POLICY_VIOLATION)

    def _start(self, creates: list[Create]) -> None:
        for create in creates:
            task = asyncio.create_task(self._take(create))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, create: Create) -> None:
        try:
            await self._turns.take(create)
        except ConnectionResetError:
            self._out.cut()
            return  # nothing follows in its lane
        self._start(self._lanes.end(create.stream_id))
        if self._close_code and self._lanes.is_idle:
            self._over.set()
