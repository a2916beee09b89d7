"""An operator puts a response back: what is refused, what the counts say, and that the old owner is fenced."""

from redis.asyncio import Redis

from shared.store.responses import Responses
from support.valkey import (
    LIVE,
    PARTITION,
    PREFIX,
    TENANT,
    WORKER,
    append,
    claim,
    due,
    ended,
    flush,
    key,
    new,
    queue,
    rid,
    settle,
    started,
    submit,
)


async def test_a_running_response_runs_again_and_its_old_owner_is_fenced(responses: Responses, redis: Redis) -> None:
    await started(responses)
    assert await responses.requeue(rid(1)) == "ok"
    assert await responses.requeue(rid(1)) == "queued"
    assert await redis.hmget(f"{PREFIX}t:{TENANT}", "active", "running") == ["1", "0"]
    assert await flush(responses, append(1, 2)) == ["fenced"]
    assert await responses.renew(PARTITION, "w-1", [(rid(1), 1)], 5.0) == ["lost"]
    (again,) = await claim(responses, 2, worker="w-2")
    assert (again.id, again.attempt) == (rid(1), 3)
    assert await redis.hget(key("r", 1), "crashes") == "0"
    assert await flush(responses, append(1, 2, attempt=3), settle(1, 3, attempt=3), who="w-2") == ["ok", "ok"]


async def test_a_response_in_no_queue_is_put_back(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1))
    await redis.delete(queue())
    assert await responses.requeue(rid(1)) == "ok"
    assert await redis.zcard(queue()) == 1


async def test_one_that_waits_for_its_next_try_is_put_back_at_once(responses: Responses, redis: Redis) -> None:
    claimed = await started(responses)
    assert await responses.release(rid(1), WORKER, claimed.attempt, "retry", delay_s=60, tries=1) == "ok"
    assert await claim(responses, 2) == []
    assert await responses.requeue(rid(1)) == "ok"
    assert [each.id for each in await claim(responses, 3)] == [rid(1)]


async def test_what_must_not_run_again_is_refused(responses: Responses, redis: Redis) -> None:
    assert await responses.requeue(rid(9)) == "gone"
    await ended(responses, 1)
    assert await responses.requeue(rid(1)) == "completed"
    await started(responses, 2)
    assert await flush(responses, append(2, 2)) == ["ok"]
    assert await responses.requeue(rid(2)) == "shown"
    await started(responses, 3)
    await responses.cancel(rid(3), TENANT, "f-2", seq=2, frames=b"", body=b"", status="cancelled")
    assert await responses.requeue(rid(3)) == "cancelled"
    await started(responses, 4)
    await due(redis, 4)
    await redis.delete("rs:{00}:grace")
    await responses.reap(PARTITION, "w-2", limit=9, lease_s=5, max_queue_s=99, max_crashes=1)
    assert await responses.requeue(rid(4)) == "settling"
    await started(responses, 5)
    await redis.delete(key("q", 5))
    before = await redis.zrange(LIVE, 0, -1, withscores=True)
    assert await responses.requeue(rid(5)) == "unreadable"
    assert await redis.zrange(LIVE, 0, -1, withscores=True) == before
