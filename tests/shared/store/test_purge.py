"""The oldest ended responses are removed first, a few at a time, and leave no key behind."""

import pytest
from redis.asyncio import Redis

from shared.core.lifecycle import SCHEMA
from shared.settings import Settings
from shared.store.responses import SETTLED_S, Responses
from support.valkey import KEEP_S, PARTITION, PREFIX, claim, ended, flush, key, new, rid, settle, started, submit
from worker.purge import STEP, step

AGED = f"{PREFIX}aged"
OLD_MS = int(SETTLED_S * 1000) + 1000


async def purge(responses: Responses, most: int = 10) -> tuple[int, int]:
    return await responses.purge(PARTITION, most, keep_s=KEEP_S)


async def age(redis: Redis, *numbers: int) -> None:
    """They ended long ago, in this order."""
    for place, number in enumerate(numbers):
        await redis.zincrby(AGED, -OLD_MS - 1000 * (len(numbers) - place), rid(number))


async def kept(redis: Redis) -> set[int]:
    records = {rid(number): number for number in range(1, 20)}
    return {records[name.rpartition(":")[2]] for name in await redis.keys(f"{PREFIX}r:*")}


async def test_nothing_is_listed_while_nobody_purges(responses: Responses, redis: Redis) -> None:
    await ended(responses, 1)
    assert not await redis.exists(AGED)


async def test_the_oldest_go_first_and_leave_nothing(responses: Responses, redis: Redis) -> None:
    await purge(responses, 0)
    for number in (1, 2, 3):
        await ended(responses, number)
    await started(responses, 4)
    assert await flush(responses, settle(4, 2)) == ["ok"]  # with a log
    await started(responses, 5)
    await submit(responses, new(6))
    await age(redis, 4, 2, 3)
    assert 0 < await redis.ttl(AGED) <= KEEP_S
    assert await purge(responses, 0) == (0, 4)
    assert await purge(responses, 2) == (2, 2)
    assert await kept(redis) == {1, 3, 5, 6}
    for number in (2, 4):
        assert [name for name in await redis.keys() if rid(number) in name] == []
    assert await redis.zscore(f"{PREFIX}pack", rid(4)) is None
    assert await purge(responses) == (1, 1)  # the first has just ended: somebody may read it
    assert await kept(redis) == {1, 5, 6}


async def test_a_deleted_one_is_listed_no_more(responses: Responses, redis: Redis) -> None:
    await purge(responses, 0)
    await ended(responses, 1)
    assert await redis.zcard(AGED) == 1
    assert await responses.delete(rid(1), "acme") == "ok"
    assert not await redis.exists(AGED)


async def test_what_younger_turns_need_stays(responses: Responses, redis: Redis) -> None:
    await purge(responses, 0)
    await ended(responses, 1)
    await ended(responses, 2, parent=rid(1))
    await age(redis, 1)
    assert await purge(responses) == (1, 1)
    assert await kept(redis) == {2}
    chain = await responses.chain(rid(2), "acme", keep_s=10, max_links=9, max_bytes=999)
    assert chain == [b'["in"]', b'["out"]'] * 2
    await age(redis, 2)
    assert await purge(responses) == (1, 0)
    assert await redis.keys(f"{PREFIX}b:*") == []


async def test_what_is_not_ours_to_remove_is_passed_over(responses: Responses, redis: Redis) -> None:
    await purge(responses, 0)
    for number in (1, 2, 3):
        await ended(responses, number)
    await age(redis, 1, 2, 3)
    await redis.delete(key("r", 1))  # it has expired
    await redis.hset(key("r", 2), "v", SCHEMA + 1)
    assert await purge(responses) == (1, 0)
    assert await kept(redis) == {2}


@pytest.mark.parametrize("excess", [True, False])
async def test_a_step_is_bounded_and_taken_above_the_limit_only(
    responses: Responses, redis: Redis, excess: bool
) -> None:
    used_bytes, _ = await responses.memory()
    settings = Settings(max_stored_bytes=used_bytes // 2 if excess else used_bytes * 100)
    assert await step(responses, PARTITION, settings) == 0
    for number in range(1, STEP + 21):
        await ended(responses, number)
        await redis.zincrby(AGED, -OLD_MS, rid(number))
    assert await step(responses, PARTITION, settings) == (STEP if excess else 0)
    assert await redis.zcard(AGED) == (20 if excess else STEP + 20)
    assert await claim(responses, 10_000) == []
