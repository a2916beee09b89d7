"""One flush for all responses of this worker: what gathers while a flush is in flight travels in the next, no timer.

Each run has a ``Line``. Frames are appended without waiting; ``room`` makes a run pause its upstream when too much is
unflushed. A flush whose reply was lost is repeated unchanged, and the script recognises what it has.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Self

import msgspec
import structlog

from shared.errors import StoreUnavailable
from shared.store.parts import SLOWEST_BYTES_PER_S, append_header, settle_part
from shared.store.responses import Responses
from shared.tasks import die_starved, end
from shared.wire.responses import Status

MAX_PARTS = 256
MAX_FLUSH_BYTES = 1 << 20
MAX_PART_BYTES = 64 << 10
"""Larger parts, of one event, are only announced to readers (`lua/parts/messages.lua`), who must then read the log."""
MAX_LINE_BYTES = 1 << 20
MAX_BYTES = 8 << 20
MAX_KEPT_BYTES = 1 << 20
KEEP_S = 3.0
"""How long flushed parts are kept, to refill a log that lost its last second with Redis."""
BUDGET_S = 3.0
RETRY_S = 0.2

log = structlog.get_logger()
Refusal = Literal["cancelled", "lost"]
OnRefused = Callable[[Refusal], None]


class Part(msgspec.Struct, frozen=True, gc=False):
    first: int
    count: int
    frames: bytes
    at: float
    """Monotonic seconds when it was made."""


class Final(msgspec.Struct, frozen=True):
    """The last events (if there is a log) and what is stored."""

    status: Status
    count: int
    frames: bytes
    body: bytes
    output_bytes: int
    attempts: str
    done: "asyncio.Future[Literal['ok', 'cancelled', 'lost']]"


class Line:
    """The way of one run's events into its log. Numbers are counted here; they go on from *seq*."""

    def __init__(self, outbox: "Outbox", response_id: str, attempt: int, seq: int, on_refused: OnRefused) -> None:
        self.response_id = response_id
        self.attempt = attempt
        self.pending: deque[Part] = deque()
        self.kept: deque[Part] = deque()
        self._kept_size = 0
        self.final: Final | None = None
        self._settling: Final | None = None
        self.held = False
        """No more appends: a cancel is noted. What is pending goes with the settling."""
        self.size = 0
        self._over = False
        """Dropped: what is in flight is neither repeated nor refilled."""
        self._outbox = outbox
        self._next = seq
        self._on_refused = on_refused

    def append(self, frames: bytes, count: int) -> None:
        self.pending.append(Part(self._next, count, frames, time.monotonic()))
        self._next += count
        self._count(len(frames))
        self._outbox.push(self)

    @property
    def full(self) -> bool:
        """Whether this line may make no more for now."""
        return self.size > MAX_LINE_BYTES or self._outbox.size > MAX_BYTES

    async def room(self) -> None:
        """Wait until this line may make more."""
        while self.full:
            await self._outbox.flushed()

    async def settle(
        self, status: Status, frames: bytes, count: int, *, body: bytes, output_bytes: int, attempts: str = ""
    ) -> Literal["ok", "cancelled", "lost"]:
        """Log what is left together with the status. ``cancelled``: only that status is taken now; ``lost``: another
        worker owns the response, or it is gone. Waits for as long as Redis is away."""
        done = asyncio.get_running_loop().create_future()
        self.final = Final(status, count, frames, body, output_bytes, attempts, done)
        self._outbox.push(self)
        return await self.final.done

    def take(self, room_bytes: int) -> tuple[str, bytes, Part | None] | None:
        """The next part to send, of about *room_bytes* at most: header, blob, and the events in it."""
        if self.held and self.final is None:
            return None
        taken: list[Part] = []
        size, most = 0, min(room_bytes, MAX_PART_BYTES)
        while self.pending and (self.held or not taken or size + len(self.pending[0].frames) <= most):
            taken.append(self.pending.popleft())
            size += len(taken[-1].frames)
        part = _merge(taken) if taken else None
        final = self.final
        if final and not self.pending and (self.held or not part or size + len(final.frames) <= most):
            return self._take_final(final, part)
        if part is None:
            return None
        return (
            append_header(self.response_id, self.attempt, part.first, part.count),
            part.frames,
            part,
        )

    @property
    def ready(self) -> bool:
        """Whether there is something to send now."""
        return self.final is not None or (bool(self.pending) and not self.held)

    def _take_final(self, final: Final, part: Part | None) -> tuple[str, bytes, Part | None]:
        self._settling, self.final = final, None
        first, count, frames = (part.first, part.count, part.frames) if part else (self._next, 0, b"")
        header, blob = settle_part(
            self.response_id, self.attempt, first, count + final.count, final.status,
            frames=frames + final.frames, body=final.body, output_bytes=final.output_bytes, attempts=final.attempts,
        )  # fmt: skip
        return header, blob, part

    def answered(self, header: str, part: Part | None, answer: str) -> None:
        """Take the script's word for a part."""
        settling = header.startswith("s")
        if answer == "ok":
            self._sent(part)
            if settling:
                self._finish("ok")
        elif answer == "cancelled" and not self._over:
            self._put_back(part)
            self.held = True
            if settling:
                self._finish("cancelled")
            elif self.final is not None:
                self._outbox.push(self)
            self._on_refused("cancelled")
        elif answer.startswith("behind ") and not self._over and self._refill(int(answer[7:]), part):
            log.warning("log.refilled", response_id=self.response_id, seq=int(answer[7:]))
        else:
            log.warning("response.fenced", response_id=self.response_id, attempt=self.attempt, answer=answer)
            self._put_back(part)
            self.drop()
            self._settling = self._settling or self.final
            self.final = None
            self._finish("lost")
            self._on_refused("lost")

    async def drained(self) -> None:
        """Wait until nothing is left that could be logged."""
        while self.size and not self.held:
            await self._outbox.flushed()

    def drop(self) -> None:
        """Nothing is sent any more."""
        self._over = True
        while self.pending:
            self._count(-len(self.pending.popleft().frames))

    def close(self) -> None:
        """Its run has ended: it is told nothing more, held no more, and so freed without the garbage collector."""
        self.drop()
        self._on_refused = _tell_nobody

    def _count(self, size: int) -> None:
        self.size += size
        self._outbox.size += size

    def _finish(self, word: Literal["ok", "cancelled", "lost"]) -> None:
        final, self._settling = self._settling, None
        if final is not None and not final.done.done():
            final.done.set_result(word)

    def _put_back(self, part: Part | None) -> None:
        if part:
            self.pending.appendleft(part)

    def _sent(self, part: Part | None) -> None:
        if part:
            self._count(-len(part.frames))
            self.kept.append(part)
            self._kept_size += len(part.frames)
            while self.kept and (self.kept[0].at < part.at - KEEP_S or self._kept_size > MAX_KEPT_BYTES):
                self._kept_size -= len(self.kept.popleft().frames)

    def _refill(self, seq: int, part: Part | None) -> bool:
        """Redis lost its last second: send again what it lost. False when that is no longer here."""
        lost = [each for each in self.kept if each.first >= seq]
        if not lost or lost[0].first != seq:
            return False
        self._put_back(part)
        self.final, self._settling = self.final or self._settling, None
        for each in reversed(lost):
            self.pending.appendleft(each)
            self.kept.remove(each)
            self._kept_size -= len(each.frames)
            self._count(len(each.frames))
        self._outbox.push(self)
        return True


def _tell_nobody(_: Refusal) -> None:
    pass


def _merge(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    frames = b"".join([part.frames for part in parts])
    return Part(parts[0].first, sum(part.count for part in parts), frames, parts[-1].at)


class Outbox:
    """The flushes of one partition. ``async with`` starts it; leaving waits for nothing (settle has its own wait)."""

    def __init__(self, responses: Responses, partition: str, worker: str) -> None:
        self.size = 0
        self.worker = worker
        self._responses = responses
        self._partition = partition
        self._lines: dict[Line, None] = {}
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="outbox")
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._task)

    def line(self, response_id: str, attempt: int, seq: int, on_refused: OnRefused) -> Line:
        return Line(self, response_id, attempt, seq, on_refused)

    def push(self, line: Line) -> None:
        self._lines[line] = None
        self._wake.set()

    async def flushed(self) -> None:
        """Wait for the end of the flush in flight, or of the next one."""
        await self._flushed.wait()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._collect():
                await self._flush(batch)

    def _collect(self) -> list[tuple[Line, str, bytes, Part | None]]:
        batch: list[tuple[Line, str, bytes, Part | None]] = []
        size = 0
        for line in list(self._lines):
            if len(batch) >= MAX_PARTS or size >= MAX_FLUSH_BYTES:
                break
            taken = line.take(MAX_FLUSH_BYTES - size)
            if taken is not None:
                batch.append((line, *taken))
                size += len(taken[1])
            del self._lines[line]
            if line.ready:
                self._lines[line] = None  # behind the others
        return batch

    async def _flush(self, batch: list[tuple[Line, str, bytes, Part | None]]) -> None:
        parts = [part for _, header, blob, _ in batch for part in (header, blob)]
        answers = await self._answers(parts)
        for (line, header, _, part), answer in zip(batch, answers, strict=True):
            line.answered(header, part, answer)
        self._flushed.set()
        self._flushed.clear()

    async def _answers(self, parts: list[str | bytes]) -> list[str]:
        size = sum(len(part) for part in parts)
        while True:
            try:
                return await self._responses.flush(
                    self._partition, self.worker, parts, budget_s=BUDGET_S + size / SLOWEST_BYTES_PER_S
                )
            except StoreUnavailable as error:
                log.warning("redis.unavailable", error=str(error), parts=len(parts) // 2)
                await asyncio.sleep(RETRY_S)
            except MemoryError:
                die_starved()
            except Exception:  # a fault of ours: these runs end, the others go on
                log.exception("outbox.failed", parts=len(parts) // 2)
                return ["failed"] * (len(parts) // 2)
