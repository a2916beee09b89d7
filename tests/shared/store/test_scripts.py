"""Every script against a real Valkey: one test for each rule that its head promises."""

import asyncio
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from shared.errors import StoreUnavailable
from shared.store.responses import Responses
from shared.store.rows import Reaped
from support.valkey import (
    BELL,
    GRACE,
    INBOX,
    KEEP_S,
    LEASE_S,
    LIVE,
    PACK,
    PARTITION,
    PREFIX,
    TENANT,
    TICK,
    WORKER,
    Listener,
    append,
    claim,
    due,
    ended,
    flush,
    job_key,
    key,
    log_of,
    new,
    object_of,
    queue,
    rid,
    settle,
    started,
    submit,
)

TERMINAL = ("completed", "incomplete", "failed", "cancelled")
LOOK_S = 30
LOWER_MS = 3000
"""How far a time that Redis has set may lie behind when a slow machine comes to look at it."""


async def record(redis: Redis, number: int = 1) -> dict[str, str]:
    return await redis.hgetall(key("r", number))


async def waits(redis: Redis, number: int = 1, lane: Any = "foreground") -> bool:
    return await redis.zscore(queue(lane), f"{{{PARTITION}}}:{rid(number)}") is not None


async def left_s(redis: Redis, number: int = 1) -> float:
    """Seconds until somebody looks at it."""
    seconds, micros = await redis.time()
    at = await redis.zscore(LIVE, rid(number))
    assert at is not None
    return at / 1000 - seconds - micros / 1e6


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=LOWER_MS / 1000)


async def cancel(responses: Responses, number: int = 1, *, seq: int = 1, tenant: str = TENANT) -> tuple[str, str]:
    return await responses.cancel(
        rid(number), tenant, "f-2", seq=seq, frames=b"<end>", body=object_of("cancelled", "[]"), status="cancelled"
    )


async def reap(
    responses: Responses, *, limit: int = 100, max_queue_s: float = 60, max_crashes: int = 2
) -> list[Reaped]:
    return await responses.reap(
        PARTITION, "w-2", limit=limit, lease_s=LEASE_S, max_queue_s=max_queue_s, max_crashes=max_crashes
    )


# submit


async def test_submit_writes_everything_at_once(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1, background=True, lane="background"))
    kinds = {key(kind, 1) for kind in "rqbe"}
    tenant = f"{PREFIX}t:{TENANT}"
    turn = f"{PREFIX}turn:{TENANT}:background"
    assert set(await redis.keys()) == {*kinds, LIVE, BELL, job_key(1), queue("background"), tenant, turn}
    about_it = await record(redis)
    assert about_it.items() >= {
        ("status", "queued"), ("tenant", TENANT), ("lane", "background"), ("inboxes", INBOX), ("stream", "1"),
        ("background", "1"), ("store", "1"), ("attempt", "0"), ("seq", "1"), ("shown", "0"), ("v", "1"),
    }  # fmt: skip
    assert await log_of(redis, 1) == b"<0>"
    assert await redis.lrange(BELL, 0, -1) == ["1"]
    assert await left_s(redis) == about(LOOK_S)
    assert await waits(redis, 1, "background")


async def test_submit_writes_a_job_that_arq_can_read(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    raw = await redis.get(job_key(1))
    job = msgspec.msgpack.decode(raw.encode(errors="surrogateescape"))
    assert job == {"t": None, "f": "respond", "a": [rid(1)], "k": {}, "et": 1_790_000_000_000}


async def test_submit_with_a_head_start_queues_earlier_or_later(responses: Responses, redis: Redis) -> None:
    for number, head_start_ms in ((1, -60_000), (2, 0), (3, 60_000)):
        await submit(responses, new(number, head_start_ms=head_start_ms))
    assert await redis.zrange(queue("foreground"), 0, -1) == [f"{{{PARTITION}}}:{rid(number)}" for number in (3, 2, 1)]
    about_it = await record(redis, 3)
    assert float(about_it["created"]) - float(about_it["order"]) == pytest.approx(60_000, abs=1)


async def test_a_block_is_read_by_its_own_tenant_while_it_is_stored(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    await submit(responses, new(2, store=False))
    assert await responses.items_of(rid(1), TENANT) == [b'["in"]', b"[]"]
    assert await responses.items_of(rid(1), "other") == []
    assert await responses.items_of(rid(2), TENANT) == []
    assert await responses.items_of(rid(3), TENANT) == []


async def test_submit_without_a_log(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1, stream=False))
    assert not await redis.exists(key("e", 1))


async def test_submit_repeated_changes_nothing(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    before = await record(redis)
    assert await responses.submit(new(1), max_queue=0, budget_s=3.0) == "ok"
    assert await record(redis) == before
    assert not await waits(redis)


async def test_submit_to_a_full_queue_leaves_nothing(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1), new(2, lane="background"))
    before = set(await redis.keys())
    assert await responses.submit(new(3), max_queue=2, budget_s=3.0) == "full"
    assert set(await redis.keys()) == before
    await claim(responses, slots=1)
    assert await responses.submit(new(3), max_queue=2, budget_s=3.0) == "ok"


@pytest.mark.parametrize("status", TERMINAL)
async def test_submit_below_an_ended_parent_counts_a_reference(responses: Responses, redis: Redis, status: Any) -> None:
    await ended(responses, 1, status)
    await submit(responses, new(2, parent=rid(1)))
    assert await redis.hget(key("b", 1), "refs") == "1"
    assert await redis.hget(key("b", 2), "parent") == rid(1)


@pytest.mark.parametrize("why", ["unknown", "queued", "running", "other tenant", "not stored", "deleted"])
async def test_submit_refuses_a_parent(responses: Responses, redis: Redis, why: str) -> None:
    if why == "queued":
        await submit(responses, new(1))
    elif why == "running":
        await started(responses, 1)
    elif why != "unknown":
        changes = {"other tenant": {"tenant": "other"}, "not stored": {"store": False}}.get(why, {})
        await ended(responses, 1, **changes)
    if why == "deleted":
        await responses.delete(rid(1), TENANT)
    before = set(await redis.keys())
    assert await responses.submit(new(2, parent=rid(1)), max_queue=100, budget_s=3.0) == "parent"
    assert set(await redis.keys()) == before
    assert await redis.hget(key("b", 1), "refs") in (None, "0")


async def test_submit_at_maxmemory_is_refused_as_a_whole(responses: Responses, redis: Redis) -> None:
    for known in (False, True):  # also when the script is not yet, and when it is, in the server's cache
        before = set(await redis.keys())
        await redis.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable) as refused:
            await responses.submit(new(1), max_queue=100, budget_s=3.0)
        assert refused.value.full
        assert set(await redis.keys()) == before
        await redis.config_set("maxmemory", 0)
        if not known:
            await submit(responses, new(2))


# claim


async def test_claim_in_the_order_of_submission(responses: Responses) -> None:
    for number in (3, 1, 2):
        await submit(responses, new(number))
    claimed = await claim(responses)
    assert [each.id for each in claimed] == [rid(3), rid(1), rid(2)]


async def test_claim_hands_over_what_a_run_needs(responses: Responses, redis: Redis) -> None:
    await ended(responses, 1)
    await submit(responses, new(2, parent=rid(1), background=True, lane="background"))
    (claimed,) = await claim(responses, 9)
    assert (claimed.id, claimed.attempt, claimed.seq, claimed.tries, claimed.releases) == (rid(2), 1, 2, 0, 0)
    assert (claimed.stream, claimed.request_id, claimed.lane, claimed.parent) == (True, "req_2", "background", rid(1))
    assert (claimed.request, claimed.items) == (b'{"n":1}', b'["in"]')
    assert 0 <= claimed.age_ms < LOWER_MS
    assert (await record(redis, 2)).items() >= {("status", "in_progress"), ("owner", WORKER)}
    assert await left_s(redis, 2) == about(LEASE_S)


async def test_claim_prefers_the_first_lane_and_fills_up_from_the_next(responses: Responses) -> None:
    await submit(responses, new(1, lane="background"), new(2), new(3, lane="background"))
    assert [each.id for each in await claim(responses, 1, slots=2)] == [rid(2), rid(1)]
    await submit(responses, new(4))
    claimed = await claim(responses, 2, slots=1, lanes=("background", "foreground"))
    assert [each.id for each in claimed] == [rid(3)]


async def test_claim_repeated_under_its_number_answers_the_same(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1), new(2), new(3))
    first = await claim(responses, 7, slots=2)
    again = await claim(responses, 7, slots=2)
    # The log has grown by response.in_progress meanwhile, and the repeated answer must know.
    assert [(each.id, each.attempt, each.seq) for each in again] == [
        (each.id, each.attempt, each.seq) for each in first
    ]
    assert await waits(redis, 3)
    await flush(responses, settle(1, 2))
    assert [each.id for each in await claim(responses, 7, slots=2)] == [rid(2)]
    assert [each.id for each in await claim(responses, 8, slots=2)] == [rid(3)]


@pytest.mark.parametrize("what", ["deleted", "terminal", "running", "garbage"])
async def test_claim_drops_what_cannot_run(responses: Responses, redis: Redis, what: str) -> None:
    member = f"{{{PARTITION}}}:{rid(1)}"
    if what == "terminal":
        await ended(responses, 1)
    elif what == "running":
        await started(responses, 1)
    elif what == "garbage":
        member = "\x00"
    before = await record(redis)
    await submit(responses, new(2))
    await redis.zadd(queue(), {member: 0})
    assert [each.id for each in await claim(responses, 2)] == [rid(2)]
    assert await record(redis) == before
    assert not await redis.exists(queue())


async def test_claim_logs_in_progress_once(responses: Responses, redis: Redis) -> None:
    async with Listener(redis, INBOX) as inbox:
        await started(responses, 1)
        assert await inbox.next() == f"e {rid(1)} 1 1 7\n\n<begin>"
        await due(redis, 1)
        assert [each.what for each in await reap(responses)] == ["requeued"]
        (again,) = await claim(responses, 2)
        assert (again.attempt, again.seq) == (3, 2)  # claimed, reaped, claimed
        assert await inbox.rest() == []
    assert await log_of(redis, 1) == b"<0><begin>"


async def test_claim_keeps_the_bell_for_what_is_left(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1), new(2), new(3))
    assert await redis.llen(BELL) == 1
    await redis.delete(BELL)  # somebody was woken by it
    await claim(responses, 1, slots=2)
    assert await redis.llen(BELL) == 1
    await claim(responses, 2, slots=2)
    assert await redis.llen(BELL) == 0


# renew


async def test_renew_says_what_became_of_each(responses: Responses, redis: Redis) -> None:
    for number in (1, 2, 3, 4, 5):
        await started(responses, number)
    await cancel(responses, 2, seq=2)
    await flush(responses, settle(3, 2))
    await due(redis, 1)
    await redis.hset(key("r", 4), "owner", "w-2")
    held = [(rid(1), 1), (rid(2), 1), (rid(3), 1), (rid(4), 1), (rid(5), 9), (rid(6), 1)]
    words = await responses.renew(PARTITION, WORKER, held, LEASE_S)
    assert words == ["kept", "cancel", "lost", "lost", "lost", "lost"]
    assert await left_s(redis, 1) == about(LEASE_S)
    assert await redis.zscore(LIVE, rid(6)) is None


# flush: append


async def test_append_logs_and_publishes(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await responses.watch(rid(1), TENANT, "f-2", -1)
    async with Listener(redis, INBOX) as first, Listener(redis, "f-2") as second:
        assert await flush(responses, append(1, 2, b"<2><3>", count=2), append(1, 4, b"<4>")) == ["ok", "ok"]
        message = f"e {rid(1)} 2 2 6\ne {rid(1)} 4 1 3\n\n<2><3><4>"
        assert await first.rest() == [message]
        assert await second.rest() == [message]
    assert await log_of(redis, 1) == b"<0><begin><2><3><4>"
    assert (await record(redis)).items() >= {("seq", "5"), ("shown", "1")}


async def test_append_is_fenced(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    assert await flush(responses, append(2, 0)) == ["gone"]
    assert await flush(responses, append(1, 2, attempt=2)) == ["fenced"]
    assert await flush(responses, append(1, 3)) == ["behind 2"]
    assert await flush(responses, append(1, 1, count=2)) == ["behind 2"]
    await flush(responses, settle(1, 2))
    assert await flush(responses, append(1, 3)) == ["fenced"]
    assert await log_of(redis, 1) == b"<0><begin><end>"


async def test_append_repeated_is_recognised(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    part = append(1, 2, b"<2><3>", count=2)
    assert await flush(responses, part) == await flush(responses, part) == ["ok"]
    assert await log_of(redis, 1) == b"<0><begin><2><3>"


async def test_append_after_a_noted_cancel_is_refused(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await flush(responses, append(1, 2))
    await cancel(responses, 1, seq=3)
    assert await flush(responses, append(1, 2), append(1, 3)) == ["ok", "cancelled"]
    assert await log_of(redis, 1) == b"<0><begin><x>"


async def test_a_refused_part_does_not_touch_its_neighbours(responses: Responses) -> None:
    await started(responses, 1)
    await started(responses, 2)
    parts = append(1, 2), append(3, 0), append(2, 7), append(2, 2), append(1, 3)
    assert await flush(responses, *parts) == ["ok", "gone", "behind 2", "ok", "ok"]


async def test_a_large_part_is_only_announced(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    large = b"x" * (64 * 1024 + 1)
    async with Listener(redis, INBOX) as inbox:
        await flush(responses, append(1, 2, large), append(1, 3, large[1:]))
        heads, _, blobs = (await inbox.next()).partition("\n\n")
    assert heads == f"a {rid(1)} 2 1 0\ne {rid(1)} 3 1 65536"
    assert len(blobs) == 65536
    page = await responses.watch(rid(1), TENANT, "", 1)
    assert page is not None
    assert page.batches[0].frames == large


async def test_one_script_publishes_only_so_much(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    async with Listener(redis, INBOX) as inbox:
        await flush(responses, *(append(1, 2 + place, b"x" * 65536) for place in range(80)))
        message = await inbox.next()
    assert len(message) < (4 << 20) + 2 * 65536
    assert message.partition("\n\n")[0].splitlines()[-1] == f"a {rid(1)} 81 1 0"


# flush: settle


async def object_in(responses: Responses, number: int) -> bytes:
    snapshot = await responses.read(rid(number), TENANT)
    assert snapshot is not None
    return snapshot.object


async def test_settle_stores_all_in_one_step(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    async with Listener(redis, INBOX) as inbox:
        assert await flush(responses, append(1, 2), settle(1, 3, count=2, frames=b"<3><4>")) == ["ok", "ok"]
        assert await inbox.rest() == [f"e {rid(1)} 2 1 3\nz {rid(1)} 3 2 6\n\n<x><3><4>"]
    assert (await record(redis)).items() >= {("status", "completed"), ("seq", "5"), ("owner", ""), ("inboxes", "")}
    assert await object_in(responses, 1) == object_of("completed")
    assert await redis.hget(key("b", 1), "output") == '["out"]'
    assert '"out"' not in await redis.hget(key("b", 1), "object")
    assert await log_of(redis, 1) == b"<0><begin><x><3><4>"
    assert not await redis.exists(key("q", 1), job_key(1), LIVE, queue())


async def test_settle_without_a_log_sends_the_object(responses: Responses, redis: Redis) -> None:
    await started(responses, 1, stream=False)
    async with Listener(redis, INBOX) as inbox:
        await flush(responses, settle(1, 0, count=0))
        assert await inbox.next() == f"s {rid(1)} completed - 51\n\n{object_of('completed').decode()}"
    assert not await redis.exists(key("e", 1))


@pytest.mark.parametrize("first", TERMINAL)
@pytest.mark.parametrize("second", TERMINAL)
async def test_a_terminal_status_never_changes(responses: Responses, redis: Redis, first: Any, second: Any) -> None:
    await started(responses, 1)
    assert await flush(responses, settle(1, 2, first)) == ["ok"]
    before, log = await record(redis), await log_of(redis, 1)
    assert await flush(responses, settle(1, 2, second)) == ["ok"]  # a repeated part, as far as the script can tell
    assert await cancel(responses, 1, seq=3) == ("ended", first)
    assert await responses.take_over(rid(1), "f-2", LEASE_S) is None
    assert await responses.release(rid(1), WORKER, 1, "drain", delay_s=0, tries=0) == "fenced"
    await due(redis, 1)
    assert await reap(responses) == []
    assert await redis.zscore(LIVE, rid(1)) is None
    assert await record(redis) == before
    assert await log_of(redis, 1) == log
    assert await object_in(responses, 1) == object_of(first)


async def test_two_owners_of_one_attempt_are_told_apart(valkey: str, responses: Responses, redis: Redis) -> None:
    """Redis has lost that the first one took it, and gave the same attempt to the second."""
    await submit(responses, new(1))
    async with Redis.from_url(valkey) as undecoded:
        before = {name: await undecoded.dump(name) for name in await redis.keys()}
        await claim(responses)
        assert await flush(responses, append(1, 2)) == ["ok"]
        await redis.flushall()
        for name, dump in before.items():
            await undecoded.restore(name, 0, dump)
    (again,) = await claim(responses, worker="w-2")
    assert again.attempt == 1
    assert await flush(responses, append(1, 2, b"<y>"), who="w-2") == ["ok"]
    assert await flush(responses, append(1, 2), append(1, 3), settle(1, 3)) == ["fenced"] * 3
    assert await flush(responses, settle(1, 3), who="w-2") == ["ok"]
    assert (await log_of(redis, 1)).endswith(b"<y><end>")


async def test_settle_is_fenced(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    assert await flush(responses, settle(1, 1, attempt=0)) == ["fenced"]  # nobody has claimed it
    await claim(responses)
    assert await flush(responses, settle(1, 2, attempt=2)) == ["fenced"]
    assert await flush(responses, settle(1, 5)) == ["behind 2"]
    assert await flush(responses, settle(2, 0)) == ["gone"]
    assert (await record(redis))["status"] == "in_progress"


async def test_after_a_noted_cancel_only_cancelled_is_taken(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await cancel(responses, 1, seq=2)
    for status in ("completed", "incomplete", "failed"):
        assert await flush(responses, settle(1, 2, status)) == ["cancelled"]
    assert await flush(responses, settle(1, 2, "cancelled", count=2)) == ["ok"]
    assert (await record(redis)).items() >= {("status", "cancelled"), ("seq", "4")}


async def test_one_flush_carries_many_responses(responses: Responses, redis: Redis) -> None:
    for number in (1, 2, 3):
        await started(responses, number, stream=number != 2)
    async with Listener(redis, INBOX) as inbox:
        assert await flush(responses, settle(1, 2), settle(2, 0, count=0), append(3, 2)) == ["ok"] * 3
        (message,) = await inbox.rest()  # one message for the inbox, however many parts
    assert [line.split(" ")[0] for line in message.partition("\n\n")[0].splitlines()] == ["z", "s", "e"]


# watch and leave


async def test_watch_reads_the_log_behind_a_number(responses: Responses) -> None:
    await started(responses, 1)
    await flush(responses, append(1, 2, b"<2><3>", count=2), append(1, 4, b"<4>"))
    expected = {-1: [0, 1, 2, 4], 0: [1, 2, 4], 1: [2, 4], 2: [2, 4], 3: [4], 4: [], 99: []}
    for after, firsts in expected.items():
        page = await responses.watch(rid(1), TENANT, "", after)
        assert page is not None
        assert [batch.first for batch in page.batches] == firsts, after
        assert (page.status, page.seq, page.stream, page.visible) == ("in_progress", 5, True, True)


async def test_watch_is_for_its_tenant_and_the_system(responses: Responses) -> None:
    await submit(responses, new(1))
    assert await responses.watch(rid(1), "other", INBOX, -1) is None
    assert await responses.watch(rid(2), TENANT, INBOX, -1) is None
    assert await responses.watch(rid(1), "", "", -1) is not None


async def test_watch_answers_in_pages(responses: Responses) -> None:
    await started(responses, 1)
    sizes = [600_000, 600_000, 2_000_000, 10, 10]
    for place, size in enumerate(sizes):
        await flush(responses, append(1, 2 + place, b"x" * size))
    await flush(responses, *(append(1, 7 + place) for place in range(200)))  # more than one read of the stream
    after, seen, pages = 1, [], []
    while after < 206:
        page = await responses.watch(rid(1), TENANT, "", after)
        assert page is not None
        pages.append(len(page.batches))
        seen += [batch.first for batch in page.batches]
        after = seen[-1]
    assert seen == list(range(2, 207))
    assert pages == [1, 1, 1, 202]


async def test_watch_registers_an_inbox_once(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    for inbox in ("f-2", "f-3", "f-2", INBOX, ""):
        await responses.watch(rid(1), TENANT, inbox, -1)
    assert (await record(redis))["inboxes"] == f"{INBOX} f-2 f-3"


async def test_watch_keeps_at_most_32_inboxes(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1, inbox=""))
    for number in range(40):
        await responses.watch(rid(1), TENANT, f"f-{number}", -1)
    assert (await record(redis))["inboxes"].split() == [f"f-{number}" for number in range(32)]


async def test_watch_of_an_ended_response_registers_nothing(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await flush(responses, settle(1, 2))
    page = await responses.watch(rid(1), TENANT, "f-2", 1)
    assert page is not None
    assert (page.status, page.batches[0].frames) == ("completed", b"<end>")
    assert (await record(redis))["inboxes"] == ""


async def test_leave_takes_one_inbox_off(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    await responses.watch(rid(1), TENANT, "f-10", -1)
    await responses.leave(rid(1), INBOX)
    await responses.leave(rid(1), "f-2")
    assert (await record(redis))["inboxes"] == "f-10"
    await responses.leave(rid(2), INBOX)
    assert not await redis.exists(key("r", 2))


# read


async def test_read(responses: Responses) -> None:
    await started(responses, 1)
    await flush(responses, append(1, 2))
    assert await responses.read(rid(1), "other") is None
    assert await responses.read(rid(2), TENANT) is None
    snapshot = await responses.read(rid(1), TENANT)
    assert snapshot is not None
    assert (snapshot.status, snapshot.seq, snapshot.attempt, snapshot.shown) == ("in_progress", 3, 1, True)
    assert (snapshot.stream, snapshot.background, snapshot.store) == (True, False, True)
    assert snapshot.object == b'{"status":"queued"}'


# cancel


async def test_cancel_of_a_queued_response_settles_it(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    async with Listener(redis, INBOX) as inbox:
        assert await cancel(responses, 1, seq=1) == ("settled", "")
        assert await inbox.next() == f"z {rid(1)} 1 1 5\n\n<end>"
    assert (await record(redis)).items() >= {("status", "cancelled"), ("seq", "2")}
    assert not await redis.exists(LIVE, queue(), job_key(1))
    assert await claim(responses) == []


async def test_cancel_of_a_requeued_response_settles_it(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await due(redis, 1)
    await reap(responses)
    assert await cancel(responses, 1, seq=2) == ("settled", "")
    assert await flush(responses, append(1, 3)) == ["fenced"]


async def test_cancel_rendered_for_another_number_of_events_is_refused(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    assert await cancel(responses, 1, seq=7) == ("moved", "")
    assert (await record(redis))["status"] == "queued"


async def test_cancel_of_a_running_response_is_noted_and_told(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    async with Listener(redis, WORKER) as owner:
        assert await cancel(responses, 1, seq=2) == ("noted", "1")
        assert await owner.next() == f"c {rid(1)} 1 0 0\n\n"
    assert (await record(redis)).items() >= {("cancel", "1"), ("status", "in_progress"), ("inboxes", f"{INBOX} f-2")}
    assert await cancel(responses, 1, seq=2) == ("noted", "1")


async def test_cancel_by_a_stranger_finds_nothing(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    assert await cancel(responses, 1, seq=2, tenant="other") == ("gone", "")
    assert await cancel(responses, 2) == ("gone", "")
    assert (await record(redis))["cancel"] == "0"


# takeover


async def test_takeover_needs_a_noted_cancel(responses: Responses) -> None:
    await started(responses, 1)
    assert await responses.take_over(rid(1), "f-2", LEASE_S) is None
    assert await responses.take_over(rid(2), "f-2", LEASE_S) is None


async def test_takeover_fences_the_owner(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await cancel(responses, 1, seq=2)
    assert await responses.take_over(rid(1), "f-2", LEASE_S) == 2
    assert await responses.renew(PARTITION, WORKER, [(rid(1), 1)], LEASE_S) == ["lost"]
    assert await flush(responses, settle(1, 2, "cancelled")) == ["fenced"]
    assert await left_s(redis) == about(LEASE_S)
    assert await flush(responses, settle(1, 2, "cancelled", attempt=2), who="f-2") == ["ok"]


# release


async def test_release_puts_it_back_at_its_old_place(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await submit(responses, new(2))
    await redis.delete(BELL)
    assert await responses.release(rid(1), WORKER, 1, "drain", delay_s=0, tries=1) == "ok"
    assert (await record(redis)).items() >= {
        ("status", "in_progress"),
        ("owner", ""),
        ("releases", "1"),
        ("tries", "1"),
    }
    assert await redis.llen(BELL) == 1
    assert await responses.release(rid(1), WORKER, 1, "drain", delay_s=0, tries=1) == "fenced"  # repeated
    claimed = await claim(responses, 2, worker="w-2")
    assert [(each.id, each.attempt, each.tries, each.releases) for each in claimed] == [
        (rid(1), 3, 1, 1),  # the attempt is raised by the release, too: what is on its way is fenced
        (rid(2), 1, 0, 0),
    ]
    assert (await record(redis))["crashes"] == "0"


async def test_release_by_another_owner_of_the_same_attempt_is_fenced(responses: Responses, redis: Redis) -> None:
    """A Redis that lost a claim may have given the same attempt to two workers."""
    await started(responses, 1)
    before = await record(redis)
    assert await responses.release(rid(1), "w-2", 1, "drain", delay_s=0, tries=0) == "fenced"
    assert await record(redis) == before


async def test_release_with_a_delay_waits_outside_of_the_queue(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    assert await responses.release(rid(1), WORKER, 1, "retry", delay_s=20, tries=2) == "ok"
    assert not await waits(redis)
    assert await left_s(redis) == about(20)
    assert (await record(redis)).items() >= {("releases", "0"), ("tries", "2")}
    assert await reap(responses) == []
    await due(redis, 1)
    assert await reap(responses) == [Reaped(rid(1), "requeued", 0, "waiting")]
    assert await waits(redis)


async def test_cancel_of_what_waits_for_its_next_try(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await responses.release(rid(1), WORKER, 1, "retry", delay_s=20, tries=2)
    assert await cancel(responses, 1, seq=2) == ("settled", "")
    assert not await redis.exists(LIVE, queue(), job_key(1))


async def test_release_is_refused(responses: Responses, redis: Redis) -> None:
    for number in (1, 2, 3):
        await started(responses, number)
    await flush(responses, append(1, 2))
    await cancel(responses, 2, seq=2)
    expected = {(1, 1): "fenced", (2, 1): "cancelled", (3, 2): "fenced", (4, 1): "fenced"}
    for (number, attempt), word in expected.items():
        assert await responses.release(rid(number), WORKER, attempt, "drain", delay_s=0, tries=0) == word
    assert not await redis.exists(queue())


# reap


async def test_reap_leaves_alone_what_is_not_due(responses: Responses) -> None:
    await started(responses, 1)
    await submit(responses, new(2))
    assert await reap(responses) == []


async def test_reap_requeues_once_what_nobody_has_seen(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await due(redis, 1)
    assert await reap(responses) == [Reaped(rid(1), "requeued", 0, "lost")]
    assert (await record(redis)).items() >= {
        ("crashes", "1"),
        ("attempt", "2"),
        ("owner", ""),
        ("status", "in_progress"),
    }
    assert await waits(redis)
    assert await flush(responses, append(1, 2)) == ["fenced"]  # of the worker that was taken for dead
    await claim(responses, 2)
    await due(redis, 1)
    assert await reap(responses) == [Reaped(rid(1), "settle", 4, "lost")]
    assert (await record(redis))["owner"] == "w-2"
    assert await left_s(redis) == about(LEASE_S)
    assert await flush(responses, settle(1, 2, "failed", attempt=4), who="w-2") == ["ok"]


async def test_reap_does_not_requeue_what_was_seen(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await flush(responses, append(1, 2))
    await due(redis, 1)
    assert await reap(responses) == [Reaped(rid(1), "settle", 2, "lost")]
    assert not await waits(redis)


async def test_reap_settles_what_was_cancelled(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await cancel(responses, 1, seq=2)
    await due(redis, 1)
    assert await reap(responses) == [Reaped(rid(1), "settle", 2, "cancelled")]
    assert await flush(responses, settle(1, 2, "failed", attempt=2), who="w-2") == ["cancelled"]


async def test_reap_gives_up_a_log_that_kills_who_reads_it(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await flush(responses, append(1, 2))
    found = []
    for _ in range(3):
        await due(redis, 1)
        found += [each.what for each in await reap(responses)]
    assert found == ["settle", "settle", "empty"]


async def test_reap_ends_what_waited_too_long(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    await due(redis, 1)
    assert await reap(responses, max_queue_s=0) == [Reaped(rid(1), "settle", 1, "waited")]
    assert not await waits(redis)
    assert await flush(responses, settle(1, 1, "failed"), who="w-2") == ["ok"]


async def test_reap_looks_again_at_what_waits(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    await due(redis, 1)
    assert await reap(responses) == []
    assert await left_s(redis) == about(LOOK_S)


async def test_reap_puts_a_lost_entry_back_at_its_old_place(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1), new(2))
    await redis.zrem(queue(), f"{{{PARTITION}}}:{rid(1)}")
    await redis.delete(BELL)
    await due(redis, 1)
    assert await reap(responses) == [Reaped(rid(1), "requeued", 0, "waiting")]
    assert await redis.llen(BELL) == 1
    assert [each.id for each in await claim(responses)] == [rid(1), rid(2)]


async def test_reap_forgets_what_is_gone(responses: Responses, redis: Redis) -> None:
    await due(redis, 1)
    assert await reap(responses) == []
    assert not await redis.exists(LIVE, key("r", 1))


async def test_reap_takes_at_most_so_many(responses: Responses, redis: Redis) -> None:
    for number in (1, 2, 3):
        await started(responses, number)
        await due(redis, number)
    assert len(await reap(responses, limit=2)) == 2
    assert len(await reap(responses, limit=2)) == 1


@pytest.mark.parametrize("first", ["reap", "tick"])
async def test_after_redis_was_away_leases_get_one_lease_more(responses: Responses, redis: Redis, first: str) -> None:
    await started(responses, 1)
    await due(redis, 1)
    seconds, _ = await redis.time()
    await redis.set(TICK, (seconds - 3) * 1000)
    if first == "tick":
        await responses.tick(PARTITION, LEASE_S)
    assert await reap(responses) == []
    assert 0 < await redis.pttl(GRACE) <= LEASE_S * 1000
    await redis.delete(GRACE)  # as it does by itself after a lease
    assert [each.what for each in await reap(responses)] == ["requeued"]


async def test_ticks_in_time_give_no_grace(responses: Responses, redis: Redis) -> None:
    seconds, _ = await redis.time()
    await redis.set(TICK, (seconds - 1) * 1000)
    await responses.tick(PARTITION, LEASE_S)
    assert not await redis.exists(GRACE)


# delete and chain


async def test_delete_of_an_ended_response_leaves_nothing(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await flush(responses, settle(1, 2))
    assert await responses.delete(rid(1), "other") == "gone"
    assert await responses.delete(rid(1), TENANT) == "ok"
    assert await responses.delete(rid(1), TENANT) == "gone"
    assert [name for name in await redis.keys() if rid(1) in name] == []


async def test_delete_of_a_running_response_changes_nothing(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    before = await record(redis)
    assert await responses.delete(rid(1), TENANT) == "running"
    await claim(responses)
    assert await responses.delete(rid(1), TENANT) == "running"
    assert set(before) == set(await record(redis))


async def links(redis: Redis) -> set[str]:
    return {name.rpartition(":")[2] for name in await redis.keys(f"rs:{{{PARTITION}}}:b:*")}


async def three_turns(responses: Responses) -> None:
    await ended(responses, 1)
    await ended(responses, 2, parent=rid(1))
    await ended(responses, 3, parent=rid(2))


async def test_a_deleted_turn_stays_in_younger_ones_and_goes_with_them(responses: Responses, redis: Redis) -> None:
    await three_turns(responses)
    await responses.delete(rid(1), TENANT)
    await responses.delete(rid(2), TENANT)
    assert await links(redis) == {rid(1), rid(2), rid(3)}
    assert await chain(responses, 3) == [b'["in"]', b'["out"]'] * 3
    await responses.delete(rid(3), TENANT)
    assert await links(redis) == set()


async def test_a_turn_that_was_not_deleted_survives_its_younger_ones(responses: Responses, redis: Redis) -> None:
    await three_turns(responses)
    await responses.delete(rid(3), TENANT)
    await responses.delete(rid(2), TENANT)
    assert await links(redis) == {rid(1)}
    assert await redis.hget(key("b", 1), "refs") == "0"


async def test_a_deleted_turn_with_two_branches_waits_for_both(responses: Responses, redis: Redis) -> None:
    await ended(responses, 1)
    await ended(responses, 2, parent=rid(1))
    await ended(responses, 3, parent=rid(1))
    for number, kept in ((1, {rid(1), rid(2), rid(3)}), (2, {rid(1), rid(3)}), (3, set())):
        await responses.delete(rid(number), TENANT)
        assert await links(redis) == kept


async def chain(
    responses: Responses, number: int, *, tenant: str = TENANT, keep_s: int = 0, links: int = 10, size: int = 1000
) -> Any:
    return await responses.chain(rid(number), tenant, keep_s=keep_s, max_links=links, max_bytes=size)


async def test_chain_is_oldest_first(responses: Responses) -> None:
    await ended(responses, 1, items=b'["a"]')
    await submit(responses, new(2, parent=rid(1), items=b'["b"]'))
    assert await chain(responses, 2) == [b'["a"]', b'["out"]', b'["b"]', b"[]"]


async def test_chain_has_limits(responses: Responses) -> None:
    await three_turns(responses)
    size = 3 * len(b'["in"]["out"]')
    assert len(await chain(responses, 3, links=3, size=size)) == 6
    assert await chain(responses, 3, links=2) == "long"
    assert await chain(responses, 3, size=size - 1) == "long"


async def test_chain_is_for_its_tenant(responses: Responses) -> None:
    await ended(responses, 1)
    await ended(responses, 2, parent=rid(1))
    assert await chain(responses, 1, tenant="other") == "gone"
    assert await chain(responses, 9) == "gone"
    await responses.delete(rid(1), TENANT)  # its block lives on in the younger turn, but under no name of its own
    assert await chain(responses, 1) == await chain(responses, 1, tenant="other") == "gone"
    assert len(await chain(responses, 2)) == 4


async def test_chain_with_a_missing_link_is_gone(responses: Responses, redis: Redis) -> None:
    await three_turns(responses)
    await redis.delete(key("b", 1))
    assert await chain(responses, 3) == "gone"


async def test_chain_lengthens_lifetimes_and_shortens_none(responses: Responses, redis: Redis) -> None:
    await three_turns(responses)
    await redis.expire(key("b", 1), 10)
    await chain(responses, 3, keep_s=500)
    assert await redis.ttl(key("b", 1)) == pytest.approx(550, abs=5)  # a little more, so that not every turn writes
    assert await redis.ttl(key("b", 3)) == pytest.approx(KEEP_S, abs=5)
    await redis.expire(key("b", 1), 520)
    await chain(responses, 3, keep_s=500)
    assert await redis.ttl(key("b", 1)) == pytest.approx(520, abs=5)


async def test_chain_gives_no_lifetime_to_what_has_not_ended(responses: Responses, redis: Redis) -> None:
    await ended(responses, 1)
    await started(responses, 2, parent=rid(1))
    await chain(responses, 2, keep_s=500)
    assert await redis.ttl(key("b", 2)) == -1


# lifetimes, maxmemory, the helper


async def without_lifetime(redis: Redis) -> set[str]:
    """Keys that live for ever, but for the one that names the logs to pack."""
    names = set(await redis.keys()) - {PACK}
    return {name for name in names if await redis.ttl(name) == -1}


async def every_life(responses: Responses, redis: Redis, numbers: range) -> None:
    """Responses that have been submitted go every way to their end."""
    by = {"lanes": ("foreground", "background")}
    one, two, three, four, five, six = numbers
    assert await cancel(responses, one, seq=1) == ("settled", "")
    assert len(await claim(responses, 1, slots=10, **by)) == 5
    assert await claim(responses, 1, slots=10, **by) != []
    assert await responses.renew(PARTITION, WORKER, [(rid(two), 1)], LEASE_S) == ["kept"]
    await responses.watch(rid(two), TENANT, "f-9", -1)
    await responses.leave(rid(two), "f-9")
    assert await flush(responses, append(two, 2), settle(two, 3)) == ["ok", "ok"]
    assert await cancel(responses, three, seq=2) == ("noted", "1")
    assert await responses.take_over(rid(three), "f-2", LEASE_S) == 2
    assert await flush(responses, settle(three, 2, "cancelled", attempt=2), who="f-2") == ["ok"]
    assert await responses.release(rid(four), WORKER, 1, "drain", delay_s=0, tries=0) == "ok"
    await due(redis, five)
    await due(redis, six)
    assert {each.what for each in await reap(responses)} == {"requeued"}
    assert len(await claim(responses, 2, slots=10, **by)) == 3
    assert await flush(responses, settle(four, 2, attempt=3), settle(five, 2, "failed", attempt=3)) == ["ok", "ok"]
    await due(redis, six)
    assert await reap(responses) == [Reaped(rid(six), "settle", 4, "lost")]
    assert await flush(responses, settle(six, 2, "failed", attempt=4), who="w-2") == ["ok"]
    assert await responses.delete(rid(two), TENANT) == "ok"
    assert await chain(responses, five) != "gone"
    await responses.tick(PARTITION, LEASE_S)


async def test_at_the_end_every_key_has_a_lifetime(responses: Responses, redis: Redis) -> None:
    await submit(responses, *(new(number, stream=True) for number in range(1, 7)))
    await every_life(responses, redis, range(1, 7))
    assert await without_lifetime(redis) == set()


@pytest.mark.parametrize("scripts", ["cached", "unknown"])
async def test_at_maxmemory_everything_but_submit_works(responses: Responses, redis: Redis, scripts: str) -> None:
    await submit(responses, *(new(number) for number in range(1, 7)))
    if scripts == "unknown":
        await redis.script_flush()
    await redis.config_set("maxmemory", 1)
    await every_life(responses, redis, range(1, 7))
    await responses.beat("rs:w:w-1", {"held": 1})
    with pytest.raises(StoreUnavailable):
        await submit(responses, new(9))
    await redis.config_set("maxmemory", 0)
    assert await without_lifetime(redis) == set()


async def test_scripts_that_the_server_forgot_are_sent_again(responses: Responses, redis: Redis) -> None:
    for number in (1, 2):
        await started(responses, number)
        assert await flush(responses, append(number, 2), settle(number, 3)) == ["ok", "ok"]
        await redis.script_flush()


async def test_calls_at_once_are_each_whole(responses: Responses, redis: Redis) -> None:
    """Two workers claim, and nothing is taken twice."""
    await submit(responses, *(new(number) for number in range(1, 41)))
    rows = await asyncio.gather(*(claim(responses, 1, worker=f"w-{place}", slots=4) for place in range(10)))
    ids = [each.id for row in rows for each in row]
    assert sorted(ids) == [rid(number) for number in range(1, 41)]
    assert not await redis.exists(BELL, queue())


async def test_an_unstored_turn_frees_its_parent_at_its_end(responses: Responses, redis: Redis) -> None:
    """It expires without a word: what it read must not be kept for it for ever."""
    await ended(responses, 1)
    await submit(responses, new(2, stream=False, parent=rid(1), store=False))
    await responses.delete(rid(1), TENANT)
    assert await chain(responses, 2, tenant="") == [b'["in"]', b'["out"]', b'["in"]', b"[]"]
    await claim(responses, 2)
    assert await flush(responses, settle(2, 0, count=0)) == ["ok"]
    assert await links(redis) == {rid(2)}
    await responses.delete(rid(2), TENANT)
    assert await links(redis) == set()


async def test_a_new_turn_starts_only_from_what_is_stored_and_has_ended(responses: Responses) -> None:
    await ended(responses, 1)
    await ended(responses, 2, store=False)
    await submit(responses, new(3))
    for number, answer in ((1, None), (2, "gone"), (3, "running")):
        found = await responses.chain(rid(number), TENANT, keep_s=KEEP_S, max_links=9, max_bytes=1000, starts_turn=True)
        assert (found if isinstance(found, str) else None) == answer


async def test_a_claim_that_comes_late_takes_nothing(responses: Responses) -> None:
    await submit(responses, new(1))
    assert len(await claim(responses, 5)) == 1
    await submit(responses, new(2))
    assert await claim(responses, 4) == []
    assert [each.id for each in await claim(responses, 6)] == [rid(2)]


async def test_the_time_in_the_queue_counts_from_where_the_wait_began(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await redis.hset(key("r", 1), "created", 1)
    assert await responses.release(rid(1), WORKER, 1, "drain", delay_s=0, tries=0) == "ok"
    await due(redis, 1)
    assert await reap(responses, max_queue_s=60) == []
    assert await waits(redis)


async def test_packing_forgets_what_has_expired(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    assert await flush(responses, settle(1, 2)) == ["ok"]
    await redis.zadd(PACK, {rid(1): 0})
    assert [each.what for each in await reap(responses)] == ["pack"]
    await redis.delete(key("r", 1), key("b", 1), key("e", 1))
    await redis.zadd(PACK, {rid(1): 0})
    assert await reap(responses) == []
    assert not await redis.exists(PACK)


async def test_a_log_that_expires_soon_is_not_packed(responses: Responses, redis: Redis) -> None:
    await started(responses, 1, keep_s=60)
    assert await flush(responses, settle(1, 2)) == ["ok"]
    assert not await redis.exists(PACK)
