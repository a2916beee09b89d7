"""A response's life in Redis, behind verbs. Each verb is one script, so one round trip and one atomic step."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import msgspec
import structlog
from redis.exceptions import ResponseError

from shared.core.frames import cut
from shared.core.history import without
from shared.core.packing import output_of, response_of, unpack
from shared.ids import partition_of
from shared.store.redis import HEARTBEAT_S, Store, prefix, within
from shared.wire.responses import Response, Status

Lane = Literal["foreground", "background"]
PAGE_BYTES = 256 << 10
SCAN_COUNT, SCAN_BUDGET_S = 500, 3.0
BEAT_BUDGET_S = 1.0
PURGING_S = 60
SETTLED_S = 60.0
"""What has just ended is not purged: somebody reads it now."""
PACKED_ROW, NEWER_ROW = 8, 2
MOST_NEWER = 10_000
INLINE_BYTES = 4096
"""So much of what is packed is unpacked on the event loop (a millisecond); more in a thread."""
Result = TypeVar("Result")
log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_JOB = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class NewResponse:
    """What submit writes. ``opening`` are the first frames (``opening_count`` of them), ``begin`` the later
    ``response.in_progress``; all empty when the response has no log. ``items`` is a JSON array."""

    id: str
    tenant: str
    lane: Lane
    inbox: str
    stream: bool
    background: bool
    store: bool
    keep_s: int
    parent: str
    request_id: str
    request: bytes
    object: bytes
    items: bytes
    created_ms: int
    opening: bytes = b""
    opening_count: int = 0
    begin: bytes = b""
    head_start_ms: int = 0
    """It queues as if it had come so much earlier."""
    conversation: str = ""
    read: tuple[int, int] = (0, 0)
    """How many batches and deleted items of the conversation were read, when its context was checked."""
    idempotency: tuple[str, str] = ("", "")
    """Hashes of the Idempotency-Key and of the body."""


Submitted = Literal["ok", "full", "capped", "parent", "conversation", "locked", "made", "reused"]


@dataclass(frozen=True, slots=True)
class Load:
    """What one partition has to do. ``ended`` (by final status) counts on for ever, or begins anew when Redis has lost
    it; ages are of the first in each lane."""

    ended: dict[str, int]
    unsettled: int
    to_pack: int
    waiting: dict[Lane, int]
    oldest_s: dict[Lane, float]

    @property
    def settled(self) -> int:
        return sum(self.ended.values())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A response as it stands. ``seq`` is the number of events so far; ``object`` the stored Response, whose status
    is overruled by ``status`` while it is not terminal."""

    status: Status
    seq: int
    stream: bool
    background: bool
    store: bool
    shown: bool
    attempt: int
    object: bytes
    place: int | None = None
    """In its queue, from 0; ``None`` unless it waits there for its first run."""
    attempts: str = ""
    """The calls to backends, as ``backend:outcome:seconds``, by commas."""

    @property
    def visible(self) -> bool:
        """Whether its id is known to anybody but the connection that created it."""
        return self.store or self.background


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of the events ``first`` to ``first + count - 1``."""

    first: int
    count: int
    frames: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A response's log behind some number, at most ``PAGE_BYTES`` (or one batch) of it. The log goes on when the last
    batch ends before ``seq``."""

    status: Status
    seq: int
    stream: bool
    visible: bool
    batches: list[Batch]

    @property
    def large(self) -> bool:
        """Whether it holds more than a page should: that is always a single batch."""
        return len(self.batches) == 1 and len(self.batches[0].frames) > PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Claimed:
    """A response that this worker runs now. ``request`` is JSON, ``items`` a JSON array; ``age_ms`` the time
    since it was submitted, by Redis' clock."""

    id: str
    attempt: int
    seq: int
    tries: int
    releases: int
    stream: bool
    age_ms: int
    request_id: str
    lane: Lane
    parent: str
    request: bytes
    items: bytes
    tenant: str
    attempts: str
    """The calls to backends of earlier executions: see `Snapshot`."""
    sticky: str
    """The backend that the turn before has come from; empty without one."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """What the reaper did or must do: see ``reap.lua``."""

    id: str
    what: Literal["pack", "requeued", "settle", "empty"]
    attempt: int
    reason: Literal["ended", "lost", "cancelled", "waited", "waiting"]


CancelAnswer = tuple[Literal["gone", "ended", "settled", "moved", "noted"], str]


class Responses:
    """The verbs of one Redis. All raise ``StoreUnavailable``; all may be repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.client = store.client
        self._newer: set[bytes] = set()

    async def submit(
        self, new: NewResponse, *, max_queue: int, budget_s: float, tenant_waiting: int = 0, tenant_unfinished: int = 0
    ) -> Submitted:
        """Refused when *max_queue* responses wait, or the tenant has so many that wait or are unfinished (0: no cap)."""
        partition = partition_of(new.id)
        job: dict[str, object] = {"t": None, "f": "respond", "a": [new.id], "k": {}, "et": new.created_ms}
        flags = (int(new.stream), int(new.background), int(new.store), new.keep_s, new.parent, max_queue)
        frames = (new.opening, new.opening_count, new.begin)
        answer = await self._store.call(
            "submit", partition, new.id, new.tenant, new.lane, new.inbox, *flags, new.request_id,
            new.request, new.object, new.items, _JOB.encode(job), *frames, new.conversation, *new.read, new.head_start_ms,
            *new.idempotency, tenant_waiting, tenant_unfinished, budget_s=budget_s,
        )  # fmt: skip
        return cast(Submitted, answer[0].decode())

    async def read(self, response_id: str, tenant: str, *, whole: bool = True) -> Snapshot | None:
        """With *whole* false its ``object`` is not read, and empty."""
        row = await self._store.call("read", partition_of(response_id), response_id, tenant, int(whole))
        if not row:
            return None
        status, seq, stream, background, store, shown, attempt, place, attempts, *kept = row
        flags = stream == b"1", background == b"1", store == b"1", shown == b"1"
        body = await _object(*kept) if whole else b""
        return Snapshot(_status(status), int(seq), *flags, int(attempt), body, place, attempts.decode())

    async def attend(self, response_id: str, tenant: str, inbox: str) -> None:
        """*inbox* hears when the status changes. To be called before the status is read, so that nothing is missed."""
        await self._store.call("attend", partition_of(response_id), response_id, tenant, inbox)

    async def recall(self, partition: str, tenant: str, key: str, body: str) -> str:
        """What an Idempotency-Key stands for: see ``recall.lua``."""
        return str((await self._store.call("recall", partition, tenant, key, body)).decode())

    async def watch(self, response_id: str, tenant: str, inbox: str, after: int) -> Page | None:
        """The log behind event *after* (-1: all of it). A non-empty *inbox* hears of what comes, unless it has ended."""
        args = response_id, tenant, inbox, after, PAGE_BYTES
        row = await self._store.call("watch", partition_of(response_id), *args)
        if not row:
            return None
        status, seq, stream, background, store = row[:5]
        if len(row) == PACKED_ROW and row[6] == b"-1":
            batches = [await _unpacked(row[7], after, int(seq))] if after + 1 < int(seq) else []
            return Page(_status(status), int(seq), stream == b"1", b"1" in (store, background), batches)
        batches = [Batch(int(row[i]), int(row[i + 1]), row[i + 2]) for i in range(5, len(row), 3)]
        return Page(_status(status), int(seq), stream == b"1", b"1" in (store, background), batches)

    async def pack(
        self, response_id: str, *, log: bytes = b"", output: bytes = b"", makes_object: bool = False
    ) -> None:
        """Replace what is stored of an ended response: its log, or its output, packed (else it stays as it is).
        *makes_object*: the Response is what ``response_of`` makes of the log."""
        args = response_id, log, output, int(makes_object)
        await self._store.call("pack", partition_of(response_id), *args)

    async def leave(self, response_id: str, inbox: str) -> None:
        await self._store.call("leave", partition_of(response_id), response_id, inbox)

    async def cancel(
        self, response_id: str, tenant: str, inbox: str, *, seq: int, frames: bytes, body: bytes, status: Status
    ) -> CancelAnswer:
        """What was rendered (for *seq* events, ending with *status*) is used when nobody runs the response."""
        args = response_id, tenant, inbox, seq, frames, body, status
        answer = await self._store.call("cancel", partition_of(response_id), *args)
        return answer[0].decode(), answer[1].decode() if len(answer) > 1 else ""

    async def take_over(self, response_id: str, who: str, lease_s: float) -> int | None:
        """The new attempt number, or ``None`` when there is nothing left to settle."""
        args = response_id, who, int(lease_s * 1000)
        answer = await self._store.call("takeover", partition_of(response_id), *args)
        return int(answer[0]) if answer else None

    async def delete(self, response_id: str, tenant: str) -> Literal["ok", "gone", "running"]:
        answer = await self._store.call("delete", partition_of(response_id), response_id, tenant)
        return cast(Literal["ok", "gone", "running"], answer.decode())

    async def chain(
        self, response_id: str, tenant: str, *, keep_s: int, max_links: int, max_bytes: int, starts_turn: bool = False
    ) -> list[bytes] | Literal["gone", "long"]:
        """JSON arrays of items, oldest first: what the oldest link read of a conversation, if it is in one, then input
        and output by turns, *response_id*'s own included."""
        args = response_id, tenant, keep_s, max_links, max_bytes, int(starts_turn)
        answer = await self._store.call("chain", partition_of(response_id), *args)
        if answer[0] != b"ok":
            return cast(Literal["gone", "long"], answer[0].decode())
        _, deleted, batches, *turns = answer
        turns[1::2] = await _outputs(turns[1::2])
        return [*without(batches, [each.decode() for each in deleted]), *turns]

    async def items_of(self, response_id: str, tenant: str) -> list[bytes]:
        """Input and output of one stored response, JSON arrays; empty when this tenant has no such response."""
        answer: list[bytes] = await self._store.call("block", partition_of(response_id), response_id, tenant)
        return [answer[0], *await _outputs(answer[1:])] if answer else []

    async def claim(
        self, partition: str, worker: str, call: int, *, slots: int, lease_s: float, lanes: Sequence[Lane]
    ) -> list[Claimed]:
        """At most *slots* waiting responses. *call* must be the same when a claim is repeated, and only then."""
        rows = await self._store.call("claim", partition, worker, call, slots, int(lease_s * 1000), *lanes)
        self._note_newer(row[0] for row in rows if len(row) == NEWER_ROW)
        return [_claimed(row) for row in rows if len(row) != NEWER_ROW]

    async def renew(
        self, partition: str, worker: str, held: Sequence[tuple[str, int]], lease_s: float
    ) -> list[Literal["kept", "cancel", "lost"]]:
        pairs = [part for pair in held for part in pair]
        answers = await self._store.call("renew", partition, worker, int(lease_s * 1000), *pairs)
        return [cast(Literal["kept", "cancel", "lost"], answer.decode()) for answer in answers]

    async def release(
        self,
        response_id: str,
        attempt: int,
        why: Literal["drain", "retry"],
        *,
        delay_s: float,
        tries: int,
        attempts: str = "",
    ) -> Literal["ok", "cancelled", "fenced"]:
        args = response_id, attempt, why, int(delay_s * 1000), tries, attempts
        answer = await self._store.call("release", partition_of(response_id), *args)
        return cast(Literal["ok", "cancelled", "fenced"], answer.decode())

    async def requeue(self, response_id: str) -> str:
        """An operator's wish: see ``requeue.lua``."""
        return str((await self._store.call("requeue", partition_of(response_id), response_id)).decode())

    async def reap(
        self, partition: str, who: str, *, limit: int, lease_s: float, max_queue_s: float, max_crashes: int
    ) -> list[Reaped]:
        args = who, limit, int(lease_s * 1000), int(max_queue_s * 1000), max_crashes
        rows = await self._store.call("reap", partition, *args)
        self._note_newer(row[0] for row in rows if row[1] == b"newer")
        return [
            Reaped(i.decode(), what.decode(), int(attempt or 0), why.decode())
            for i, what, attempt, why in rows
            if what != b"newer"
        ]

    def _note_newer(self, ids: Iterable[bytes]) -> None:
        """Say it once of each."""
        for response_id in ids:
            if response_id not in self._newer:
                log.warning("response.skipped", response_id=response_id.decode())
                self._newer.add(response_id)
        if len(self._newer) > MOST_NEWER:
            self._newer.clear()

    async def purge(self, partition: str, most: int, *, keep_s: int) -> tuple[int, int]:
        """Remove the oldest ended responses, at most *most*. Returns how many were removed, and how many are left."""
        args = most, PURGING_S, int(SETTLED_S * 1000), keep_s * 1000
        removed, left = await self._store.call("purge", partition, *args)
        return removed, left

    async def list_earlier(self, partition: str, *, keep_s: int) -> None:
        """List by age what ended while nobody listed it. Looks at every record, some at a time."""
        start, cursor = f"{prefix(partition)}r:", 0
        while True:
            cursor, keys = await self._store.command(
                "SCAN", cursor, "MATCH", f"{start}*", "COUNT", SCAN_COUNT, budget_s=SCAN_BUDGET_S
            )
            if keys:
                await self._store.call("age", partition, keep_s, *[key[len(start) :] for key in keys])
            if int(cursor) == 0:
                return

    async def flush(self, partition: str, who: str, parts: Sequence[str | bytes], *, budget_s: float) -> list[str]:
        """Append and settle *parts* of what *who* owns, header and blob by turns: see ``flush.lua``. One word per part."""
        return [word.decode() for word in await self._store.call("flush", partition, who, *parts, budget_s=budget_s)]

    async def tick(self, partition: str, lease_s: float) -> Load:
        """Show that Redis answers, and see what there is to do."""
        row = await self._store.call("tick", partition, int(lease_s * 1000))
        ended, unsettled, to_pack, foreground, foreground_ms, background, background_ms = row
        waiting: dict[Lane, int] = {"foreground": foreground, "background": background}
        oldest_s: dict[Lane, float] = {"foreground": foreground_ms / 1000, "background": background_ms / 1000}
        counts = {name.decode(): int(count) for name, count in zip(ended[::2], ended[1::2], strict=True)}
        return Load(counts, unsettled, to_pack, waiting, oldest_s)

    async def memory(self) -> tuple[int, int]:
        """Bytes that Redis uses, and its ``maxmemory`` (0: no limit). Both are 0 where INFO is forbidden."""
        try:
            told = await self._store.command("INFO", "memory", budget_s=BEAT_BUDGET_S)
        except ResponseError:
            return 0, 0
        rows = dict(line.split(b":", 1) for line in told.splitlines() if b":" in line)
        return int(rows.get(b"used_memory", 0)), int(rows.get(b"maxmemory", 0))

    async def beat(self, key: str, fields: Mapping[str, int | bytes]) -> None:
        """Show that a process lives, for ``HEARTBEAT_S``. At maxmemory it is not shown."""

        async def attempt() -> None:
            async with self.client.pipeline(transaction=False) as pipe:
                pipe.hset(key, mapping=dict(fields))
                pipe.expire(key, HEARTBEAT_S)
                await pipe.execute(raise_on_error=False)

        await within(attempt, BEAT_BUDGET_S)

    async def waiting(self, partition: str) -> int:
        """How many responses wait for a worker."""
        lanes = [f"arq:queue:{{{partition}}}:{lane}" for lane in ("foreground", "background")]
        return sum([await self.client.zcard(lane) for lane in lanes])


async def _object(body: bytes | None, at: bytes | None, output: bytes | None, log: bytes | None) -> bytes:
    """The Response, JSON, from what ``read.lua`` found of it."""
    if body is None:
        return await _off_loop(lambda: response_of(log), len(log)) if log else b""
    if at is None:
        return body
    (whole,) = await _outputs([output or b""])
    return b"".join((body[: int(at)], whole, body[int(at) :]))


async def _outputs(stored: list[bytes]) -> list[bytes]:
    """JSON arrays, from what blocks keep."""
    if all(each.startswith(b"[") for each in stored):
        return stored
    return await _off_loop(lambda: [output_of(each) for each in stored], sum(map(len, stored)))


async def _off_loop(work: Callable[[], Result], packed_bytes: int) -> Result:
    """Unpack: a lot of it off the event loop."""
    return await asyncio.to_thread(work) if packed_bytes > INLINE_BYTES else work()


async def _unpacked(packed: bytes, after: int, seq: int) -> Batch:
    """What of a packed log lies behind event *after*."""
    frames = await _off_loop(lambda: unpack(packed), len(packed))
    return Batch(after + 1, seq - after - 1, cut(frames, after + 1))


def append_header(response_id: str, attempt: int, first: int, count: int, *, shown: bool) -> str:
    return f"a {response_id} {attempt} {first} {count} {int(shown)}"


def settle_part(
    response_id: str,
    attempt: int,
    first: int,
    count: int,
    status: Status,
    *,
    frames: bytes,
    body: bytes,
    output_bytes: int,
    attempts: str = "",
) -> tuple[str, bytes]:
    """Header and blob of a settle part. *output_bytes* is how much of *body* is its output: see ``encode_ended``;
    *attempts* as in `Snapshot`."""
    header = f"s {response_id} {attempt} {first} {count} {status} {len(frames)} {output_bytes} {attempts}"
    return header, frames + body


def encode_ended(response: Response) -> tuple[bytes, int]:
    """The Response as JSON, and how many bytes of that are the array of its output items."""
    body = _encode(response)
    rest = _encode(msgspec.structs.replace(response, output=[]))
    return body, len(body) - len(rest) + len(b"[]")


def _status(word: bytes) -> Status:
    return cast(Status, word.decode())


def _claimed(row: list[bytes]) -> Claimed:
    response_id, attempt, seq, tries, releases, stream, age, request_id, lane, parent, request, items, *more = row
    tenant, attempts, before = (each.decode() for each in more)
    sticky = before.rpartition(",")[2].partition(":")[0]
    counts = int(attempt), int(seq), int(tries), int(releases)
    lane_name = cast(Lane, lane.decode())
    return Claimed(
        response_id.decode(), *counts, stream == b"1", int(age), request_id.decode(), lane_name,
        parent.decode(), request, items, tenant, attempts, sticky,
    )  # fmt: skip
