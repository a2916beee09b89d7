"""A lean way to Redis: all callers share one connection, and replies come in order.

redis-py packs commands in Python, and takes a connection out of a pool and arms two timers for each; that was a third of
the processor time of a request. Here hiredis packs and parses, and what is ready together is sent together. Errors are
redis-py's, so that callers need not know which of the two was used. A command that blocks needs a connection that nobody
else uses, and so does a subscription (``inbox.py``); administration stays with redis-py.

    no connection --send--> connecting --AUTH, SELECT--> open --lost, or silent for answer_s--> no connection
                                                                (calls in flight fail: nobody knows whether they ran)
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.credentials import UsernamePasswordCredentialProvider
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    DataError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

ANSWER_S = 2.0
"""Where the pool has no timeout of its own."""
MAX_CALLS = 4096
MAX_BYTES = 64 << 20
"""In flight: more callers wait. A single larger command is sent when nothing else is in flight."""
ERRORS: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "WRONGPASS": AuthenticationError,
}
LOOK_S = 0.25
"""How late it may be noticed that a call has taken too long: one timer looks after all of them."""
FULL = "ERR max number of clients"
"""What a server at its ``maxclients`` says to a new connection before it closes it."""
_MORE = object()

Word = str | bytes | int | float


def pack(*words: Word) -> bytes:
    """A command as bytes."""
    try:
        packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its annotation knows one word only
    except TypeError as error:
        raise DataError(f"no word of a command: {error}") from None
    except RuntimeError as error:  # hiredis' only one: it could not get the memory
        raise MemoryError from error
    return packed


def _error(text: str) -> RedisError:
    if text.startswith(FULL):
        return RedisConnectionError(text)
    return ERRORS.get(text.partition(" ")[0], ResponseError)(text)


class Line(asyncio.Protocol):
    """One connection. A caller that goes away leaves its place in the queue, so the order of replies stands."""

    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s
        self._loop = asyncio.get_running_loop()
        self._replies = hiredis.Reader(protocolError=RedisConnectionError, replyError=_error, notEnoughData=_MORE)
        self._calls: deque[tuple[asyncio.Future[Any], int, float]] = deque()
        self._bytes = 0
        self._unsent: list[bytes] = []
        self._crowd: list[asyncio.Future[None]] = []
        self._transport: asyncio.Transport | None = None
        self._heard = 0.0
        """When something came last, or when something was sent while nothing was in flight."""
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = math.inf
        self._fault: RedisError | None = None

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def takes(self, size: int) -> bool:
        """Whether a command of *size* bytes may be sent now."""
        return self.open and (not self._calls or (len(self._calls) < MAX_CALLS and self._bytes + size <= MAX_BYTES))

    async def room(self) -> None:
        """Wait until something was answered."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._crowd.append(waiter)
        await waiter

    def send(self, command: bytes, budget_s: float = math.inf) -> "asyncio.Future[Any]":
        """The future of its reply, which times out after *budget_s*. To be called only while the line is open."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        now = self._loop.time()
        if not self._calls:
            self._heard = now
        look_at = now + (LOOK_S if budget_s < math.inf else self._answer_s)
        if look_at < self._look_at:
            self._look_again(look_at)
        if not self._unsent:
            self._loop.call_soon(self._write)  # uvloop would make a system call of each
        self._unsent.append(command)
        self._calls.append((reply, len(command), now + budget_s))
        self._bytes += len(command)
        return reply

    def _write(self) -> None:
        commands, self._unsent = self._unsent, []
        if self._transport is not None and self.open:
            self._transport.write(commands[0] if len(commands) == 1 else b"".join(commands))

    def _look(self) -> None:
        """Is there an answer? One timer for all calls, which is not moved with each."""
        self._look_at = math.inf
        if not self._calls:
            return
        now, again = self._loop.time(), self._heard + self._answer_s
        if now >= again:
            self.abort(RedisTimeoutError("Redis is silent"))
            return
        for reply, _size, due in self._calls:
            if due <= now and not reply.done():
                reply.set_exception(RedisTimeoutError("Redis takes too long"))
            elif due < math.inf:
                again = min(again, now + LOOK_S)
        self._look_again(again)

    def _look_again(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._look_at = self._loop.call_at(at, self._look), at

    def abort(self, fault: RedisError | None = None) -> None:
        """Close at once; ``connection_lost`` follows."""
        if self._transport is not None:
            self._fault = self._fault or fault
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            self._replies.feed(data)
            while (answer := self._replies.gets()) is not _MORE:
                self._take(answer)
        except (RedisConnectionError, IndexError):  # no RESP, or a reply that nobody asked for
            self.abort(RedisConnectionError("Redis sent what is no reply"))
        self._admit()

    def _take(self, answer: Any) -> None:
        """The next of what came is the reply to the first call."""
        reply, size, _due = self._calls.popleft()
        self._bytes -= size
        if reply.done():
            return  # its caller went away
        if isinstance(answer, RedisError):
            reply.set_exception(answer)
        else:
            reply.set_result(answer)

    def _admit(self) -> None:
        crowd, self._crowd = self._crowd, []
        for waiter in crowd:
            if not waiter.done():
                waiter.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for reply, _size, _due in self._calls:
            if not reply.done():
                reply.set_exception(self._fault or RedisConnectionError("The connection to Redis was lost"))
        self._calls.clear()
        self._admit()


AnyLine = TypeVar("AnyLine", bound=Line)


class Commands:
    """Commands to the server of *pool*, with its address, credentials and timeouts. Connects when it is first used, and
    again after a loss; a call is never repeated here."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._line: Line | None = None
        self._connecting = asyncio.Lock()

    async def send(self, command: bytes, budget_s: float = math.inf) -> Any:
        """The reply to a packed command, texts as bytes. Raises redis-py's errors, or ``OSError``; both have a timeout, for
        more than *budget_s*."""
        line = self._line
        if line is not None and line.takes(len(command)):
            return await line.send(command, budget_s)
        async with asyncio.timeout(budget_s if budget_s < math.inf else None):
            while True:
                line = self._line
                if line is None or not line.open:
                    await self._connect()
                elif line.takes(len(command)):
                    return await line.send(command)
                else:
                    await line.room()

    async def _connect(self) -> None:
        async with self._connecting:
            if self._line is not None and self._line.open:
                return  # by another caller, meanwhile
            self._line = await dial(self._pool, Line)

    async def aclose(self) -> None:
        if self._line is not None:
            self._line.abort()
            self._line = None
            await asyncio.sleep(0)  # the transport closes in the loop's next turn


async def dial(pool: ConnectionPool, make: Callable[[float], AnyLine]) -> AnyLine:
    """A line to the server of *pool*, ready for commands. *make* is told how long Redis may be silent, in seconds."""
    place = pool.make_connection()  # redis-py knows what a URL means; its connection is not opened
    async with asyncio.timeout(place.socket_connect_timeout):
        line = await _open(place, lambda: make(place.socket_timeout or ANSWER_S))
    try:
        await _introduce(line, place)
    except BaseException:
        line.abort()
        raise
    return line


async def _open(place: AbstractConnection, make: Callable[[], AnyLine]) -> AnyLine:
    loop = asyncio.get_running_loop()
    if isinstance(place, UnixDomainSocketConnection):
        _, line = await loop.create_unix_connection(make, place.path)
    else:
        tls = place.ssl_context.get() if isinstance(place, SSLConnection) else None
        address = cast(Connection, place)
        _, line = await loop.create_connection(make, address.host, address.port, ssl=tls)
    return line


async def _introduce(line: Line, place: AbstractConnection) -> None:
    """What must be said first on a new connection, in one go."""
    commands: list[bytes] = []
    if place.credential_provider or place.username or place.password:
        known = place.credential_provider or UsernamePasswordCredentialProvider(place.username, place.password)
        commands.append(pack("AUTH", *await known.get_credentials_async()))
    if place.client_name:
        commands.append(pack("CLIENT", "SETNAME", place.client_name))
    if place.db:
        commands.append(pack("SELECT", place.db))
    await asyncio.gather(*[line.send(command) for command in commands])
