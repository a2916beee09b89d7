"""Places at a backend, in a real Valkey: never more than its limit, and none is lost with its holder."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from redis.asyncio import Redis

from shared.store.redis import Store, connect
from shared.store.slots import Slots
from support.valkey import PREFIX

KEY = f"{PREFIX}slots:gpu"


@pytest_asyncio.fixture
async def slots(valkey: str, redis: Redis) -> AsyncIterator[Slots]:
    client = connect(valkey)
    yield Slots(Store(client))
    await client.aclose()


async def take(slots: Slots, who: str, *, limit: int = 2, lease_s: float = 60.0) -> bool:
    return await slots.take("gpu", who, limit=limit, lease_s=lease_s)


async def test_no_more_than_the_limit_at_once(slots: Slots) -> None:
    taken = await asyncio.gather(*(take(slots, f"w{number}", limit=3) for number in range(50)))
    assert sum(taken) == 3
    assert await slots.take("another", "w0", limit=1, lease_s=60.0)


async def test_a_place_is_taken_and_given_back_once(slots: Slots, redis: Redis) -> None:
    assert [await take(slots, who) for who in ("a", "a", "b", "c")] == [True, True, True, False]
    await slots.free("gpu", "a")
    await slots.free("gpu", "a")
    assert [await take(slots, who) for who in ("c", "d")] == [True, False]
    for who in ("b", "c"):
        await slots.free("gpu", who)
    assert not await redis.exists(KEY)


async def test_places_of_the_dead_come_back(slots: Slots, redis: Redis) -> None:
    assert await take(slots, "dead", limit=1, lease_s=0.3)
    assert not await take(slots, "b", limit=1)
    async with asyncio.timeout(5):
        while not await take(slots, "b", limit=1):  # noqa: ASYNC110  # Redis' clock decides
            await asyncio.sleep(0.02)
    assert await redis.zrange(KEY, 0, -1) == ["b"]


async def test_places_are_kept(slots: Slots, redis: Redis) -> None:
    assert await take(slots, "a", limit=1, lease_s=0.5)
    await slots.keep([("gpu", "a")], 60.0)
    assert await redis.pttl(KEY) > 50_000
    (_, until), *_ = await redis.zrange(KEY, 0, -1, withscores=True)
    seconds, _ = await redis.time()
    assert until / 1000 - seconds > 50
