"""The outbox on a real Valkey: what travels together, what is repeated, refilled, held and dropped."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from shared.errors import StoreUnavailable
from shared.store.responses import Responses
from support.valkey import PARTITION, TENANT, WORKER, due, key, log_of, rid, started
from worker import outbox
from worker.outbox import MAX_FLUSH_BYTES, MAX_LINE_BYTES, MAX_PART_BYTES, MAX_PARTS, Line, Outbox

WAIT_S = 5.0
BODY = {"body": b'{"status":"x","output":[]}', "output_bytes": 2}


class Wire:
    """Passes flushes on to the real store, one by one when it is ``closed``, and can lose what comes back."""

    def __init__(self, responses: Responses) -> None:
        self.sent: list[list[str]] = []
        """The headers of each flush."""
        self.sizes: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.lose_replies = 0
        self.refuse: list[Exception] = []
        self._responses = responses
        self._sending = asyncio.Condition()

    async def flush(self, partition: str, who: str, parts: Sequence[str | bytes], *, budget_s: float) -> list[str]:
        async with self._sending:
            self.sent.append([str(header) for header in parts[::2]])
            self.sizes.append(sum(len(blob) for blob in parts[1::2]))
            self._sending.notify_all()
        await self.open.wait()
        if self.refuse:
            raise self.refuse.pop(0)
        words = await self._responses.flush(partition, who, parts, budget_s=budget_s)
        if self.lose_replies:
            self.lose_replies -= 1
            raise StoreUnavailable("the reply was lost")
        return words

    async def sending(self, count: int) -> None:
        """That many flushes have been sent (though perhaps not answered)."""
        async with asyncio.timeout(WAIT_S), self._sending:
            await self._sending.wait_for(lambda: len(self.sent) >= count)


class Bench:
    """An outbox with the lines of responses 1 to *count*, which are running and have events 0 and 1."""

    def __init__(self, wire: Wire, outbox: Outbox, count: int) -> None:
        self.wire, self.outbox = wire, outbox
        self.refusals: list[tuple[int, str]] = []
        self._refused = asyncio.Condition()
        self.lines = [self.line(number) for number in range(1, count + 1)]

    def line(self, number: int, attempt: int = 1) -> Line:
        return self.outbox.line(rid(number), attempt, 2, lambda word: self.refusals.append((number, word)))

    async def settle(self, line: Line, status: str = "completed", frames: bytes = b"<end>") -> str:
        async with asyncio.timeout(WAIT_S):
            return await line.settle(status, frames, 1, **BODY)  # type: ignore[arg-type]

    async def sent(self, line: Line) -> None:
        """All that the line has is in the log."""
        async with asyncio.timeout(WAIT_S):
            while line.size:
                await self.outbox.flushed()

    async def refused(self, count: int = 1) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.refusals) < count:
                await self.outbox.flushed()


@asynccontextmanager
async def bench(responses: Responses, count: int = 1) -> AsyncIterator[Bench]:
    for number in range(1, count + 1):
        await started(responses, number)
    wire = Wire(responses)
    async with Outbox(wire, PARTITION, WORKER) as outbox:  # type: ignore[arg-type]
        yield Bench(wire, outbox, count)


async def cancel(responses: Responses, number: int = 1) -> None:
    word = await responses.cancel(rid(number), TENANT, "f-2", seq=0, frames=b"", body=b"", status="cancelled")
    assert word[0] == "noted"


async def lose_last(redis: Redis, number: int, seq: int) -> None:
    """What a Redis that lost its last second looks like: the log and the record end before event *seq*."""
    entries = await redis.xrange(key("e", number))
    await redis.delete(key("e", number))
    for entry, fields in entries:
        if int(fields["f"]) < seq:
            await redis.xadd(key("e", number), fields, entry)
    await redis.hset(key("r", number), "seq", seq)


async def test_what_gathers_during_a_flush_travels_in_the_next(responses: Responses, redis: Redis) -> None:
    async with bench(responses, 3) as b:
        one, two, three = b.lines
        b.wire.open.clear()
        one.append(b"<2>", 1)
        await b.wire.sending(1)
        one.append(b"<3><4>", 2)
        two.append(b"<2>", 1)
        one.append(b"<5>", 1)
        three.append(b"<2>", 1)
        b.wire.open.set()
        await b.sent(three)
        assert b.wire.sent == [
            [f"a {rid(1)} 1 2 1"],
            [f"a {rid(1)} 1 3 3", f"a {rid(2)} 1 2 1", f"a {rid(3)} 1 2 1"],
        ]
        assert one.size == two.size == b.outbox.size == 0
    assert await log_of(redis, 1) == b"<0><begin><2><3><4><5>"


async def test_the_last_events_travel_with_the_status(responses: Responses, redis: Redis) -> None:
    async with bench(responses) as b:
        (line,) = b.lines
        b.wire.open.clear()
        line.append(b"<2>", 1)
        await b.wire.sending(1)
        line.append(b"<3>", 1)
        settling = asyncio.create_task(b.settle(line))
        b.wire.open.set()
        assert await settling == "ok"
        assert [each.split()[0] for headers in b.wire.sent for each in headers] == ["a", "s"]
    assert await log_of(redis, 1) == b"<0><begin><2><3><end>"
    snapshot = await responses.read(rid(1), TENANT)
    assert snapshot is not None
    assert (snapshot.status, snapshot.seq, snapshot.object) == ("completed", 5, BODY["body"])


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_flush_whose_reply_was_lost_is_repeated(
    responses: Responses, redis: Redis, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr("worker.outbox.RETRY_S", 0)
    async with bench(responses, 2) as b:
        one, two = b.lines
        b.wire.lose_replies = lost
        one.append(b"<2>", 1)
        two.append(b"<2>", 1)
        await b.sent(two)
        assert len(b.wire.sent) == lost + 1
        b.wire.lose_replies = lost
        one.append(b"<3>", 1)
        assert await b.settle(one) == "ok"
        assert await b.settle(two) == "ok"
    assert await log_of(redis, 1) == b"<0><begin><2><3><end>"
    assert await log_of(redis, 2) == b"<0><begin><2><end>"
    assert b.refusals == []


async def test_while_redis_is_away_all_is_kept_in_order(
    responses: Responses, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.outbox.RETRY_S", 0)
    async with bench(responses) as b:
        (line,) = b.lines
        b.wire.refuse = [StoreUnavailable("away") for _ in range(5)]
        for number in range(2, 10):
            line.append(b"<%d>" % number, 1)
        assert await b.settle(line) == "ok"
    assert await log_of(redis, 1) == b"<0><begin>" + b"".join(b"<%d>" % n for n in range(2, 10)) + b"<end>"


async def test_a_log_that_lost_its_end_is_refilled(responses: Responses, redis: Redis) -> None:
    async with bench(responses) as b:
        (line,) = b.lines
        for number in range(2, 6):
            line.append(b"<%d>" % number, 1)
            await b.sent(line)
        await lose_last(redis, 1, 3)
        line.append(b"<6>", 1)
        await b.sent(line)
        assert await log_of(redis, 1) == b"<0><begin><2><3><4><5><6>"
        await lose_last(redis, 1, 3)  # what was refilled travelled as one part
        assert await b.settle(line) == "ok"
        assert b.outbox.size == 0
    assert await log_of(redis, 1) == b"<0><begin><2><3><4><5><6><end>"
    assert b.refusals == []


async def test_settling_what_was_settled_and_lost_again(responses: Responses, redis: Redis) -> None:
    """Redis lost events while nothing more was to be sent but the end, and that is refused once."""
    async with bench(responses) as b:
        (line,) = b.lines
        line.append(b"<2>", 1)
        await b.sent(line)
        await lose_last(redis, 1, 2)
        assert await b.settle(line) == "ok"
    assert await log_of(redis, 1) == b"<0><begin><2><end>"


async def test_what_is_no_longer_kept_cannot_be_refilled(
    responses: Responses, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.outbox.KEEP_S", 0)
    async with bench(responses) as b:
        (line,) = b.lines
        for number in range(2, 6):
            line.append(b"<%d>" % number, 1)
            await b.sent(line)
        await lose_last(redis, 1, 3)
        line.append(b"<6>", 1)
        await b.refused()
        assert b.refusals == [(1, "lost")]
        assert b.outbox.size == 0


async def test_what_was_dropped_is_not_refilled(responses: Responses, redis: Redis) -> None:
    """Its run has ended while a part was in flight: what the same attempt writes now is another run's."""
    async with bench(responses) as b:
        (line,) = b.lines
        line.append(b"<2>", 1)
        await b.sent(line)
        await lose_last(redis, 1, 2)
        b.wire.open.clear()
        line.append(b"<3>", 1)
        await b.wire.sending(2)
        line.drop()
        b.wire.open.set()
        await b.refused()
        other = b.line(1)
        other.append(b"<y>", 1)
        await b.sent(other)
        assert b.outbox.size == 0
    assert await log_of(redis, 1) == b"<0><begin><y>"


async def test_after_a_cancel_nothing_is_sent_but_the_end(responses: Responses, redis: Redis) -> None:
    async with bench(responses, 2) as b:
        line, other = b.lines
        line.append(b"<2>", 1)
        await b.sent(line)
        await cancel(responses)
        line.append(b"<3>", 1)
        await b.refused()
        assert b.refusals == [(1, "cancelled")]
        line.append(b"<4>", 1)
        other.append(b"<2>", 1)
        await b.sent(other)
        assert b.wire.sent[-1] == [f"a {rid(2)} 1 2 1"]
        assert await b.settle(line, "cancelled") == "ok"  # the two that were held go with the end
        assert b.wire.sent[-1][0].startswith(f"s {rid(1)} 1 3 3 cancelled")
    assert await log_of(redis, 1) == b"<0><begin><2><3><4><end>"
    snapshot = await responses.read(rid(1), TENANT)
    assert snapshot is not None
    assert (snapshot.status, snapshot.seq) == ("cancelled", 6)


async def test_an_end_that_came_too_late_for_a_cancel(responses: Responses) -> None:
    async with bench(responses) as b:
        (line,) = b.lines
        await cancel(responses)
        assert await b.settle(line) == "cancelled"
        assert await b.settle(line, "cancelled") == "ok"


async def test_an_end_that_waits_behind_a_part_that_is_refused(responses: Responses, redis: Redis) -> None:
    """The cancel meets a part in flight, and the end is already waiting behind it: it goes out, and is not forgotten."""
    async with bench(responses) as b:
        (line,) = b.lines
        await cancel(responses)
        b.wire.open.clear()
        line.append(b"<2>", 1)
        await b.wire.sending(1)
        settling = asyncio.create_task(b.settle(line))
        await asyncio.sleep(0)  # it has put its end behind the part
        b.wire.open.set()
        assert await settling == "cancelled"
        assert await b.settle(line, "cancelled") == "ok"


async def test_another_owner_ends_a_line_and_no_other(responses: Responses, redis: Redis) -> None:
    async with bench(responses, 2) as b:
        one, two = b.lines
        await due(redis, 1)
        await responses.reap(PARTITION, "w-2", limit=9, lease_s=5, max_queue_s=60, max_crashes=2)
        one.append(b"<2>", 1)
        two.append(b"<2>", 1)
        await b.sent(two)
        assert b.refusals == [(1, "lost")]
        one.append(b"<3>", 1)
        assert await b.settle(one) == "lost"
        assert await b.settle(two) == "ok"
        assert b.outbox.size == 0
    assert await log_of(redis, 1) == b"<0><begin>"


async def test_a_response_that_is_gone(responses: Responses, redis: Redis) -> None:
    async with bench(responses) as b:
        await redis.delete(key("r", 1))
        assert await b.settle(b.lines[0]) == "lost"


async def test_a_fault_of_ours_ends_what_met_it_and_no_more(responses: Responses) -> None:
    async with bench(responses, 2) as b:
        one, two = b.lines
        b.wire.refuse = [RuntimeError("a fault")]
        one.append(b"<2>", 1)
        assert await b.settle(one) == "lost"
        assert await b.settle(two) == "ok"


async def test_too_much_unflushed_makes_a_run_wait(responses: Responses) -> None:
    async with bench(responses, 2) as b:
        one, two = b.lines
        b.wire.open.clear()
        one.append(b"x" * MAX_LINE_BYTES, 1)
        await one.room()  # at the limit there is room
        one.append(b"x", 1)
        waiting = asyncio.create_task(one.room())
        await b.wire.sending(1)
        assert not waiting.done()
        await two.room()
        b.wire.open.set()
        async with asyncio.timeout(WAIT_S):
            await waiting


async def test_the_worker_as_a_whole_has_a_limit(responses: Responses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.outbox.MAX_BYTES", 1000)
    async with bench(responses, 3) as b:
        b.wire.open.clear()
        b.lines[0].append(b"x" * 600, 1)
        b.lines[1].append(b"x" * 600, 1)
        waiting = asyncio.create_task(b.lines[2].room())
        await b.wire.sending(1)
        assert not waiting.done()
        b.wire.open.set()
        async with asyncio.timeout(WAIT_S):
            await waiting


async def test_one_flush_carries_only_so_many_bytes(responses: Responses, redis: Redis) -> None:
    async with bench(responses, 3) as b:
        size = MAX_FLUSH_BYTES * 2 // 5
        b.wire.open.clear()
        for line in b.lines:
            for _ in range(2):
                line.append(b"x" * size, 1)
        b.wire.open.set()
        for line in b.lines:
            await b.sent(line)
        assert max(b.wire.sizes) <= MAX_FLUSH_BYTES + size
        assert sum(b.wire.sizes) == 6 * size
    for number in (1, 2, 3):
        assert await redis.hget(key("r", number), "seq") == "4"


async def test_parts_are_small_enough_to_be_sent_to_readers(responses: Responses, redis: Redis) -> None:
    async with bench(responses) as b:
        (line,) = b.lines
        half = b"x" * (MAX_PART_BYTES // 2)
        b.wire.open.clear()
        for _ in range(4):
            line.append(half, 1)
        settling = asyncio.create_task(b.settle(line, frames=half + b"<end>"))
        await b.wire.sending(1)
        b.wire.open.set()
        assert await settling == "ok"
        assert [headers[0].split()[:5:2] for headers in b.wire.sent] == [
            ["a", "1", "2"],
            ["a", "1", "2"],
            ["s", "1", "1"],
        ]
        assert await log_of(redis, 1) == b"<0><begin>" + half * 5 + b"<end>"


async def test_who_has_much_to_send_takes_turns_with_others(
    responses: Responses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_FLUSH_BYTES", MAX_PART_BYTES)
    async with bench(responses, 2) as b:
        busy, quiet = b.lines
        b.wire.open.clear()
        for _ in range(4):
            busy.append(b"x" * MAX_PART_BYTES, 1)
        quiet.append(b"<2>", 1)
        b.wire.open.set()
        await b.sent(busy)
        assert [headers[0].split()[1] for headers in b.wire.sent].index(rid(2)) == 1


async def test_one_flush_carries_only_so_many_parts(responses: Responses) -> None:
    async with bench(responses, MAX_PARTS + 10) as b:
        for line in b.lines:
            line.append(b"<2>", 1)
        for line in b.lines:
            await b.sent(line)
        assert [len(headers) for headers in b.wire.sent] == [MAX_PARTS, 10]


async def test_a_dropped_line_leaves_nothing_behind(responses: Responses) -> None:
    async with bench(responses) as b:
        (line,) = b.lines
        b.wire.open.clear()
        line.append(b"<2>", 1)
        await b.wire.sending(1)
        line.append(b"<3>", 1)
        line.drop()
        assert line.size == 3  # what is in flight
        b.wire.open.set()
        await b.sent(line)
        assert b.outbox.size == 0
