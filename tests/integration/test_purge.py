"""Workers remove what has ended long ago when Redis holds too much."""

import asyncio
from collections.abc import Awaitable, Callable

from shared.store.responses import SETTLED_S
from support.clients import RawClient
from support.cluster import running
from support.faults import check_left, create, ended

RawMaker = Callable[[str], RawClient]
AGED = "rs:{00}:aged"


async def until(look: Callable[[], Awaitable[int]], wanted: int) -> None:
    async with asyncio.timeout(20):
        while True:
            if await look() == wanted:
                return
            await asyncio.sleep(0.05)  # between two looks


async def test_what_ended_before_the_setting_was_on_counts_too(raw_client: RawMaker) -> None:
    async with running() as cluster:
        raw, redis = raw_client(cluster.front_ends[0].origin), cluster.redis
        response_id, newer_id = [(await create(raw, "hello", model="echo", stream=False))["id"] for _ in range(2)]
        await ended(raw, response_id)
        await ended(raw, newer_id)
        assert not await redis.exists(AGED)
        ended_ms = float(await redis.hget(f"rs:{{00}}:r:{response_id}", "ended"))
        await redis.hset(f"rs:{{00}}:r:{response_id}", "ended", ended_ms - SETTLED_S * 1000 - 1000)  # long ago
        await cluster.start_worker(RESPOOL_MAX_STORED_BYTES="1")
        await until(lambda: redis.exists(f"rs:{{00}}:r:{response_id}"), 0)
        assert (await raw.get(f"/v1/responses/{response_id}")).status == 404
        assert await redis.zrange(AGED, 0, -1) == [newer_id.encode()]


async def test_workers_purge_above_the_limit(raw_client: RawMaker) -> None:
    async with running(workers=2, env={"RESPOOL_MAX_STORED_BYTES": "1"}) as cluster:
        raw, redis = raw_client(cluster.front_ends[0].origin), cluster.redis
        await until(lambda: redis.exists("rs:{00}:purging"), 1)
        made = [(await create(raw, f"hello {place}", model="echo", stream=False))["id"] for place in range(5)]
        for response_id in made:
            await ended(raw, response_id)
        assert await redis.zcard(AGED) == 5
        for response_id in made[:3]:  # they ended long ago
            await redis.zincrby(AGED, -int(SETTLED_S * 1000) - 1000, response_id)
        await until(lambda: redis.zcard(AGED), 2)
        assert [(await raw.get(f"/v1/responses/{each}")).status for each in made] == [404, 404, 404, 200, 200]
        lines = [line for worker in cluster.workers for line in worker.find("response.purged")]
        assert sum(line["count"] for line in lines) == 3
        assert {line["level"] for line in lines} == {"warning"}
        assert await check_left(redis) == 2
