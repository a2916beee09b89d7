"""What a tenant has unfinished: counted from submit to the end, whichever end that is, and held against its caps."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from shared.store.responses import Responses
from support.valkey import (
    LEASE_S,
    PARTITION,
    PREFIX,
    TENANT,
    WORKER,
    append,
    claim,
    due,
    ended,
    flush,
    new,
    object_of,
    rid,
    settle,
    started,
    submit,
)

COUNTS = f"{PREFIX}t:{TENANT}"
BODY = object_of("cancelled", "[]")


async def counts(redis: Redis) -> dict[str, int]:
    kept = await redis.hgetall(COUNTS)
    return {name: int(kept[name]) for name in ("active", "running") if name in kept}


async def cancel(responses: Responses, number: int = 1, *, seq: int = 1) -> None:
    await responses.cancel(rid(number), TENANT, "f-2", seq=seq, frames=b"<end>", body=BODY, status="cancelled")


async def reap(responses: Responses, *, max_queue_s: float = 60, max_crashes: int = 2) -> None:
    await responses.reap(PARTITION, "w-2", limit=100, lease_s=LEASE_S, max_queue_s=max_queue_s, max_crashes=max_crashes)


async def completed(responses: Responses, redis: Redis) -> None:
    await started(responses)
    assert await counts(redis) == {"active": 1, "running": 1}
    assert await flush(responses, settle(1, 2)) == ["ok"]


async def completed_twice(responses: Responses, redis: Redis) -> None:
    """A repeated flush counts once."""
    await started(responses)
    await submit(responses, new(2))
    assert await flush(responses, settle(1, 2)) == ["ok"]
    assert await flush(responses, settle(1, 2)) == ["ok"]
    assert await counts(redis) == {"active": 1, "running": 0}
    await cancel(responses, 2)


async def cancelled_while_queued(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    assert await counts(redis) == {"active": 1}
    await cancel(responses)


async def cancelled_while_running(responses: Responses, redis: Redis) -> None:
    await started(responses)
    await cancel(responses)
    assert await counts(redis) == {"active": 1, "running": 1}
    assert await flush(responses, settle(1, 2, "cancelled")) == ["ok"]


async def cancelled_for_a_deaf_worker(responses: Responses, redis: Redis) -> None:
    await started(responses)
    await cancel(responses)
    assert await responses.take_over(rid(1), "f-2", LEASE_S) == 2
    assert await counts(redis) == {"active": 1, "running": 1}
    assert await flush(responses, settle(1, 2, "cancelled", attempt=2), who="f-2") == ["ok"]


async def requeued_by_the_reaper(responses: Responses, redis: Redis) -> None:
    await started(responses)
    await due(redis, 1)
    await reap(responses)
    assert await counts(redis) == {"active": 1, "running": 0}
    (again,) = await claim(responses, 2)
    assert await counts(redis) == {"active": 1, "running": 1}
    assert await flush(responses, settle(1, 2, attempt=again.attempt)) == ["ok"]


async def settled_by_the_reaper(responses: Responses, redis: Redis) -> None:
    await started(responses)
    await flush(responses, append(1, 2))
    await due(redis, 1)
    await reap(responses)
    assert await counts(redis) == {"active": 1, "running": 1}
    await due(redis, 1)  # the reaper dies, too
    await reap(responses)
    assert await counts(redis) == {"active": 1, "running": 1}
    assert await flush(responses, settle(1, 3, "failed", attempt=3), who="w-2") == ["ok"]


async def waited_too_long(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    await due(redis, 1)
    await reap(responses, max_queue_s=-1)
    assert await counts(redis) == {"active": 1, "running": 1}
    assert await flush(responses, settle(1, 1, "failed"), who="w-2") == ["ok"]


async def released_and_run_again(responses: Responses, redis: Redis) -> None:
    await started(responses)
    assert await responses.release(rid(1), WORKER, 1, "drain", delay_s=0, tries=0) == "ok"
    assert await responses.release(rid(1), WORKER, 1, "drain", delay_s=0, tries=0) == "fenced"  # repeated
    assert await counts(redis) == {"active": 1, "running": 0}
    (again,) = await claim(responses, 2)
    await responses.release(rid(1), WORKER, again.attempt, "retry", delay_s=60, tries=1)
    assert await counts(redis) == {"active": 1, "running": 0}
    await due(redis, 1)
    await reap(responses)
    (last,) = await claim(responses, 3)
    assert await flush(responses, settle(1, 2, attempt=last.attempt)) == ["ok"]


async def deleted_after_its_end(responses: Responses, redis: Redis) -> None:
    await ended(responses, 1)
    assert await responses.delete(rid(1), TENANT) == "ok"


WAYS: list[Callable[[Responses, Redis], Awaitable[None]]] = [
    completed, completed_twice, cancelled_while_queued, cancelled_while_running, cancelled_for_a_deaf_worker,
    requeued_by_the_reaper, settled_by_the_reaper, waited_too_long, released_and_run_again, deleted_after_its_end,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_nothing_is_counted_after_any_end(
    responses: Responses, redis: Redis, way: Callable[[Responses, Redis], Awaitable[None]]
) -> None:
    await way(responses, redis)
    assert not await redis.exists(COUNTS)


async def test_a_repeated_submit_and_a_repeated_claim_count_once(responses: Responses, redis: Redis) -> None:
    for _ in range(2):
        await submit(responses, new(1))
    for _ in range(2):
        await claim(responses, 1, worker=WORKER)
    assert await counts(redis) == {"active": 1, "running": 1}


async def offer(responses: Responses, number: int, tenant: str = TENANT, **caps: int) -> str:
    return await responses.submit(new(number, tenant=tenant), max_queue=100, budget_s=3, **caps)


async def test_a_tenant_over_its_cap_is_refused_and_nothing_is_stored(responses: Responses, redis: Redis) -> None:
    assert await offer(responses, 1, tenant_waiting=2) == "ok"
    assert await offer(responses, 2, tenant_waiting=2) == "ok"
    before = set(await redis.keys())
    assert await offer(responses, 3, tenant_waiting=2) == "capped"
    assert set(await redis.keys()) == before
    assert await counts(redis) == {"active": 2}
    assert await offer(responses, 4, "other", tenant_waiting=2) == "ok"  # nobody else is held up
    await claim(responses, slots=1)
    assert await offer(responses, 3, tenant_waiting=2) == "ok"  # one runs now
    assert await offer(responses, 5, tenant_waiting=5, tenant_unfinished=3) == "capped"
    assert await offer(responses, 5) == "ok"  # no cap


async def test_the_load_is_told_with_the_sign_of_life(responses: Responses, redis: Redis) -> None:
    await ended(responses, 1)
    await started(responses, 2)
    await flush(responses, settle(2, 2))
    await started(responses, 3)
    await submit(responses, new(4), new(5), new(6, lane="background"))
    await redis.hincrbyfloat(f"{PREFIX}r:{rid(4)}", "created", -7000)
    load = await responses.tick(PARTITION, LEASE_S)
    assert (load.settled, load.unsettled, load.to_pack) == (2, 4, 1)
    assert load.waiting == {"foreground": 2, "background": 1}
    assert 7 <= load.oldest_s["foreground"] < 60
    assert 0 <= load.oldest_s["background"] < 60
    assert await redis.ttl(f"{PREFIX}ends") > 0


async def test_memory_is_told(responses: Responses, redis: Redis) -> None:
    await redis.config_set("maxmemory", 123_456_789)
    used, limit = await responses.memory()
    assert limit == 123_456_789
    assert 100_000 < used < limit
