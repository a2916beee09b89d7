"""New work is refused when the queue, a tenant or Redis is full; what was accepted goes on to its end."""

import asyncio
from collections.abc import Callable

from fakes.upstream import hang
from shared.core.admission import FULL_SHARE
from support.clients import Answer, RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import NamedUpstream, all_ended, check_left, create, ended, read_until, streaming, then, words

RawMaker = Callable[[str], RawClient]
SOON_S = 15.0
PREFIX = "rs:{00}:"


def is_refused(answer: Answer, status: int, kind: str, code: str) -> None:
    assert answer.status == status, answer.body
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (kind, code)
    assert 1 <= int(answer.headers["retry-after"]) <= 120


async def ask(raw: RawClient, text: str = "x", **fields: object) -> Answer:
    return await raw.post("/v1/responses", json={"model": "tiny", "input": text, "background": True, **fields})


async def ask_until(raw: RawClient, status: int) -> Answer:
    """What a front end knows of Redis is a second old at most: ask until it knows."""
    async with asyncio.timeout(SOON_S):
        while True:
            answer = await ask(raw)
            if answer.status == status:
                return answer
            await asyncio.sleep(0.05)  # between two tries


async def test_new_work_is_refused_at_85_percent_of_maxmemory(
    cluster: Cluster, raw: RawClient, upstream: NamedUpstream
) -> None:
    gate = asyncio.Event()
    upstream.plan("runs", [*words("one "), *then(gate, "two")])
    async with streaming(raw, "runs") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        used = int((await cluster.redis.info("memory"))["used_memory"])
        await cluster.redis.config_set("maxmemory", int(used / (FULL_SHARE + 0.05)))  # Redis itself would still take it
        is_refused(await ask_until(raw, 503), 503, "service_unavailable_error", "server_is_overloaded")
        before = set(await cluster.redis.keys(f"{PREFIX}r:*"))
        for kind in ({}, {"background": False}, {"stream": True}):
            is_refused(await ask(raw, **kind), 503, "service_unavailable_error", "server_is_overloaded")
        assert set(await cluster.redis.keys(f"{PREFIX}r:*")) == before  # nothing was stored
        gate.set()
        seen += [event async for event in stream.events()]
    assert seen[-1]["type"] == "response.completed"
    refusals = cluster.front_ends[0].find("response.refused", reason="memory")
    assert len(refusals) >= 4
    await cluster.redis.config_set("maxmemory", 0)
    await ask_until(raw, 200)
    await all_ended(cluster.redis)
    await check_left(cluster.redis)


async def test_a_full_queue_says_when_to_come_again(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    env = {"RESPOOL_MAX_QUEUE": "3"}
    async with running(env=env, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        made = [await create(raw, "x") for _ in range(3)]
        keys = set(await cluster.redis.keys(f"{PREFIX}[rqobe]:*"))
        is_refused(await ask(raw), 503, "service_unavailable_error", "server_is_overloaded")
        assert set(await cluster.redis.keys(f"{PREFIX}[rqobe]:*")) == keys
        await cluster.start_worker()
        for response in made:
            await ended(raw, response["id"])
        assert (await ask(raw)).status == 200
        await all_ended(cluster.redis)
        assert await check_left(cluster.redis) == 4


async def test_the_measured_rate_plans_the_wait(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Nothing ends: come in two minutes. Much ends: come in a second."""
    upstream.plan("holds", [hang()])
    env = {"RESPOOL_TENANT_MAX_UNFINISHED": "1"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        held = await create(raw, "holds")

        async def waits_for(seconds: int) -> None:
            async with asyncio.timeout(SOON_S):
                while (answer := await ask(raw)).headers["retry-after"] != str(seconds):
                    assert answer.status == 429
                    await asyncio.sleep(0.05)  # between two tries

        await waits_for(120)
        await cluster.redis.hincrby(f"{PREFIX}ends", "completed", 10_000)  # as if so many had ended meanwhile
        await waits_for(1)
        assert (await raw.post(f"/v1/responses/{held['id']}/cancel")).status == 200
        await all_ended(cluster.redis)
        await check_left(cluster.redis)


async def test_a_tenant_does_not_wait_for_the_flood_of_another(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """One has thirty waiting, and there is one place to run them: the other's two are the second and the fourth."""
    gate = asyncio.Event()
    upstream.plan("f0", [*words(), *then(gate, "done")])
    env = {"RESPOOL_TRUSTED_PROXIES": "127.0.0.0/8", "RESPOOL_WORKER_SLOTS": "1"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)

        async def offer(tenant: str, name: str) -> None:
            body = {"model": "tiny", "input": f"{name} words=1", "background": True}
            assert (await raw.post("/v1/responses", json=body, headers={"X-Tenant-Id": tenant})).status == 200

        for number in range(31):
            await offer("flood", f"f{number}")
        await upstream.arrived("f0")
        for number in range(2):
            await offer("other", f"o{number}")
        gate.set()
        await all_ended(cluster.redis)
        served = [call.last_user_text.partition(" ")[0] for call in upstream.calls]
        assert served[0] == "f0"
        assert set(served[1:3]) == {"f1", "o0"}  # who is first in a round is left open
        assert set(served[3:5]) == {"f2", "o1"}
        assert served[5:] == [f"f{number}" for number in range(3, 31)]
        assert await check_left(cluster.redis) == 33


async def test_a_tenant_over_its_cap_is_refused_alone(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """One tenant floods; the other's work is taken and done."""
    floods, other = "X-Tenant-Id", {"X-Tenant-Id": "other"}
    gate = asyncio.Event()
    for number in range(4):
        upstream.plan(f"f{number}", [*words(), *then(gate, "done")])
    env = {"RESPOOL_TRUSTED_PROXIES": "127.0.0.0/8", "RESPOOL_TENANT_MAX_UNFINISHED": "4"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)

        async def flood(number: int) -> Answer:
            body = {"model": "tiny", "input": f"f{number}", "background": True}
            return await raw.post("/v1/responses", json=body, headers={floods: "flood"})

        assert [(await flood(number)).status for number in range(4)] == [200] * 4
        for answer in await asyncio.gather(*(flood(number) for number in range(4, 24))):
            is_refused(answer, 429, "rate_limit_error", "rate_limit_exceeded")
        body = {"model": "tiny", "input": "o words=3"}
        done = await raw.post("/v1/responses", json=body, headers=other)
        assert (done.status, done.json()["status"]) == (200, "completed")
        assert upstream.calls_of("f4") == []
        gate.set()
        await all_ended(cluster.redis)
        assert (await flood(5)).status == 200
        await all_ended(cluster.redis)
        assert await check_left(cluster.redis) == 6
        assert await cluster.redis.keys(f"{PREFIX}t:*") == []
