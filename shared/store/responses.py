"""A response's life in Redis, behind verbs. Each verb is one script, so one round trip and one atomic step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

import msgspec
import structlog
from redis.exceptions import ResponseError

from shared.core.history import without
from shared.ids import partition_of
from shared.store.packed import object_of, outputs_of, unpacked
from shared.store.redis import HEARTBEAT_S, Store, prefix, within
from shared.store.rows import (
    PAGE_BYTES,
    Batch,
    CancelAnswer,
    Claimed,
    Lane,
    Load,
    NewResponse,
    Page,
    Reaped,
    Snapshot,
    Submitted,
    claimed_of,
    status_of,
)
from shared.wire.responses import Status

SCAN_COUNT, SCAN_BUDGET_S = 500, 3.0
BEAT_BUDGET_S = 1.0
PURGING_S = 60
SETTLED_S = 60.0
"""What has just ended is not purged: somebody reads it now."""
PACKED_ROW, NEWER_ROW = 8, 2
MOST_NEWER = 10_000
log = structlog.get_logger()
_JOB = msgspec.msgpack.Encoder()


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
        body = await object_of(*kept) if whole else b""
        return Snapshot(status_of(status), int(seq), *flags, int(attempt), body, place, attempts.decode())

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
            batches = [await unpacked(row[7], after, int(seq))] if after + 1 < int(seq) else []
            return Page(status_of(status), int(seq), stream == b"1", b"1" in (store, background), batches)
        batches = [Batch(int(row[i]), int(row[i + 1]), row[i + 2]) for i in range(5, len(row), 3)]
        return Page(status_of(status), int(seq), stream == b"1", b"1" in (store, background), batches)

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
    ) -> list[bytes] | Literal["gone", "long", "running"]:
        """JSON arrays of items, oldest first: what the oldest link read of a conversation, if it is in one, then input
        and output by turns, *response_id*'s own included."""
        args = response_id, tenant, keep_s, max_links, max_bytes, int(starts_turn)
        answer = await self._store.call("chain", partition_of(response_id), *args)
        if answer[0] != b"ok":
            return cast(Literal["gone", "long", "running"], answer[0].decode())
        _, deleted, batches, *turns = answer
        turns[1::2] = await outputs_of(turns[1::2])
        return [*without(batches, [each.decode() for each in deleted]), *turns]

    async def items_of(self, response_id: str, tenant: str) -> list[bytes]:
        """Input and output of one stored response, JSON arrays; empty when this tenant has no such response."""
        answer: list[bytes] = await self._store.call("block", partition_of(response_id), response_id, tenant)
        return [answer[0], *await outputs_of(answer[1:])] if answer else []

    async def claim(
        self, partition: str, worker: str, call: int, *, slots: int, lease_s: float, lanes: Sequence[Lane]
    ) -> list[Claimed]:
        """At most *slots* waiting responses. *call* must be the same when a claim is repeated, and only then."""
        rows = await self._store.call("claim", partition, worker, call, slots, int(lease_s * 1000), *lanes)
        self._note_newer(row[0] for row in rows if len(row) == NEWER_ROW)
        return [claimed_of(row) for row in rows if len(row) != NEWER_ROW]

    async def renew(
        self, partition: str, worker: str, held: Sequence[tuple[str, int]], lease_s: float
    ) -> list[Literal["kept", "cancel", "lost"]]:
        pairs = [part for pair in held for part in pair]
        answers = await self._store.call("renew", partition, worker, int(lease_s * 1000), *pairs)
        return [cast(Literal["kept", "cancel", "lost"], answer.decode()) for answer in answers]

    async def release(
        self,
        response_id: str,
        worker: str,
        attempt: int,
        why: Literal["drain", "retry"],
        *,
        delay_s: float,
        tries: int,
        attempts: str = "",
    ) -> Literal["ok", "cancelled", "fenced"]:
        args = response_id, attempt, why, int(delay_s * 1000), tries, attempts, worker
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
