"""One inbox subscription per process, handed out to the readers of each response.

One task owns the subscription: it always drains, never awaits a reader, and makes a fresh one when the connection is
lost. Pub/sub is only speed: whatever may have been missed (a lost connection, a full reader, a batch too large to be
sent) tells the reader to look at the log.

A message is lines ``<kind> <id> <a> <b> <size>``, an empty line, then the blobs in order (``lua/common.lua``):
``e`` events, ``z`` the last events (a: first number, b: count), ``s`` settled (a: status, b: calls to backends or ``-``; the blob is
the Response);
``p`` it runs now (only told of a response without a log, to those who asked: ``lua/attend.lua``);
``a``, ``y``, ``r`` the same three without their blob; ``c`` cancel (a: attempt); ``d`` drain (of no response).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Self

import structlog
from redis.exceptions import RedisError

from shared.deadline import Deadline
from shared.loans import Loans
from shared.store.inbox import subscribe
from shared.store.redis import LOST, connect, inbox_channel
from shared.tasks import end

READER_BYTES = 1 << 20
"""What one reader may leave lying. Readers of one response share the bytes."""
SILENCE_S = 5.0
ANSWER_S = 2.0
FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0
MAX_LOOKS = 8
MAX_LARGE_BYTES = 128 << 20

log = structlog.get_logger()
OnCancel = Callable[[str, int], None]


class Heard(NamedTuple):
    """One thing heard about a response. ``a`` and ``b`` as in the module's table."""

    kind: bytes
    a: bytes
    b: bytes
    blob: bytes


Take = Callable[[Heard], bool]


class Reader:
    """What one reader of one response has yet to take."""

    def __init__(self) -> None:
        self._heard: deque[Heard] = deque()
        self._size = 0
        self._missed = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = Deadline(self._wake)
        self._silence_s = 0.0
        self.take: Take | None = None
        """Is shown what comes while the reader waits in ``next``; true when it has taken it, and the reader waits on."""

    def put(self, heard: Heard) -> bool:
        """False when there was no room: the reader is sent back to the log."""
        if self.take is not None and self._waiter is not None and not self._waiter.done() and self.take(heard):
            self._deadline.within(self._silence_s)
            return True
        if not heard.blob and heard.kind in b"ayr":
            self.miss()
            return True
        self._heard.append(heard)
        self._size += len(heard.blob)
        if self._size > READER_BYTES:
            self.miss()
            return False
        self._wake()
        return True

    def miss(self) -> None:
        self._heard.clear()
        self._size = 0
        self._missed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._deadline.close()

    async def next(self, timeout_s: float) -> Heard | None:
        """What was heard next; ``None`` when the log must be looked at (something was missed, or all was silent)."""
        if not self._heard and not self._missed:
            self._waiter = asyncio.get_running_loop().create_future()
            self._silence_s = timeout_s
            self._deadline.within(timeout_s)
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._deadline.pause()
        if self._missed or not self._heard:
            self._missed = False
            return None
        heard = self._heard.popleft()
        self._size -= len(heard.blob)
        return heard


class Listening:
    """``with`` makes a reader, and takes it away again."""

    __slots__ = ("_key", "_reader", "_readers")

    def __init__(self, readers: dict[bytes, set[Reader]], key: bytes) -> None:
        self._readers = readers
        self._key = key

    def __enter__(self) -> Reader:
        self._reader = Reader()
        self._readers.setdefault(self._key, set()).add(self._reader)
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        readers = self._readers[self._key]
        readers.discard(self._reader)
        if not readers:
            del self._readers[self._key]


class Hub:
    """The inbox of *process*. ``async with`` starts and ends it; ``connected`` is set while it is subscribed."""

    def __init__(self, url: str, process: str, on_cancel: OnCancel | None = None) -> None:
        self.process = process
        self.on_drain: Callable[[], None] | None = None
        """Told when an operator asks this process to drain, perhaps again and again."""
        self.connected = asyncio.Event()
        self.looks = asyncio.Semaphore(MAX_LOOKS)
        """For reading pages of logs: whatever sends all readers there at once, Redis is asked for a few at a time."""
        self.large = Loans(MAX_LARGE_BYTES)
        """Pages that are larger than they should be: one event of a large output, or a packed log."""
        self._url = url
        self._on_cancel = on_cancel
        self._readers: dict[bytes, set[Reader]] = {}

    async def __aenter__(self) -> Self:
        self._client = connect(self._url)
        self._task = asyncio.create_task(self._run(), name="hub")
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._task)
        await self._client.aclose()

    def listen(self, response_id: str) -> "Listening":
        """A reader of *response_id*; to be opened before the call that makes messages come."""
        return Listening(self._readers, response_id.encode())

    def listeners(self, response_id: str) -> int:
        return len(self._readers.get(response_id.encode(), ()))

    def miss(self, response_id: str) -> None:
        """Send the readers of *response_id* back to the log."""
        for reader in self._readers.get(response_id.encode(), ()):
            reader.miss()

    async def _run(self) -> None:
        wait_s = FIRST_RETRY_S
        while True:
            try:
                inbox = await subscribe(self._client.connection_pool, inbox_channel(self.process), self._receive)
                try:
                    self.connected.set()
                    log.info("hub.connected", readers=len(self._readers))
                    self._miss_all()
                    wait_s = FIRST_RETRY_S
                    await inbox.watch(SILENCE_S, ANSWER_S)
                finally:
                    inbox.abort()
            except (RedisError, *LOST) as lost:
                log.warning("hub.lost", error=type(lost).__name__)
            except Exception:  # whatever it was: without an inbox every stream would wait for its recheck
                log.exception("hub.failed")
            finally:
                self.connected.clear()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LAST_RETRY_S)

    def _receive(self, message: bytes) -> None:
        try:
            self._hand_out(message)
        except Exception:  # a message that cannot be read, perhaps of another version, must not end the hub
            log.exception("hub.failed")
            self._miss_all()

    def _miss_all(self) -> None:
        for readers in self._readers.values():
            for reader in readers:
                reader.miss()

    def _hand_out(self, data: bytes) -> None:
        heads, _, blobs = data.partition(b"\n\n")
        at = 0
        for head in heads.split(b"\n"):
            kind, response_id, a, b, size = head.split(b" ")
            end = at + int(size)
            if kind == b"c":
                if self._on_cancel is not None:
                    self._on_cancel(response_id.decode(), int(a))
                continue
            if kind == b"d":
                if self.on_drain is not None:
                    self.on_drain()
                continue
            heard = Heard(kind, a, b, blobs[at:end])
            for reader in self._readers.get(response_id, ()):
                if not reader.put(heard):
                    log.warning("hub.overflowed", response_id=response_id.decode())
            at = end
