"""Redis restarts, forgets, cuts subscribers, or is full: what was accepted goes on to its end."""

import asyncio
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.upstream import chunk, send, wait
from support.clients import RawClient
from support.cluster import Cluster, Process, chat_model, running
from support.faults import (
    PREFIX,
    SHORT_LEASE,
    NamedUpstream,
    Watch,
    all_ended,
    check_left,
    create,
    ended,
    get,
    maxmemory,
    numbers_of,
    read_on,
    read_until,
    resume,
    streaming,
    text_of,
    then,
    until,
    words,
)
from support.schemas import Json

RawMaker = Callable[[str], RawClient]


def said(events: list[Json]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


# restarts


async def test_redis_is_killed_and_restarted(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """Streams go on where they were, and what waited or ran without a log is completed."""
    gate = asyncio.Event()
    upstream.plan("held", [*words("one "), *then(gate, "two")])
    upstream.plan("quiet", [*words("one "), *then(gate, "two")])
    async with streaming(raw, "held") as held, streaming(raw, "busy words=200 delay_ms=5") as busy:
        quiet = await create(raw, "quiet")
        seen = await read_until(held, "response.output_text.delta")
        going = await read_until(busy, "response.output_text.delta", 20)
        await upstream.arrived("quiet")
        await cluster.kill_valkey()
        await cluster.front_ends[0].logged("hub.lost")
        await cluster.start_valkey()
        gate.set()
        seen += [event async for event in held.events()]
        going += [event async for event in busy.events()]
    for events, text in ((seen, "one two"), (going, "".join(f"word{place} " for place in range(200)))):
        assert said(events) == text
        assert numbers_of(events) == list(range(len(events)))
        assert events[-1]["type"] == "response.completed"
    assert text_of(await ended(raw, quiet["id"])) == "one two"
    assert [len(upstream.calls_of(name)) for name in ("held", "busy", "quiet")] == [1, 1, 1]
    assert await check_left(cluster.redis) == 3


async def lose(cluster: Cluster, saved: Path) -> None:
    """Redis dies and comes back as it was when *saved* was: a machine that lost its power, with appendfsync everysec."""
    await cluster.kill_valkey()
    shutil.rmtree(cluster.folder / "appendonlydir")
    shutil.copytree(saved, cluster.folder / "appendonlydir")
    await cluster.start_valkey()


async def save(cluster: Cluster) -> Path:
    await cluster.written()
    return Path(shutil.copytree(cluster.folder / "appendonlydir", cluster.folder / "saved"))


async def test_redis_loses_its_last_second(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """The worker says again what was lost, and its reader notices nothing."""
    gates = [asyncio.Event(), asyncio.Event()]
    upstream.plan("x", [*words("one "), wait(gates[0]), send(chunk("two ")), *then(gates[1], "three")])
    async with streaming(raw, "x") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        saved = await save(cluster)
        gates[0].set()
        seen += await read_until(stream, "response.output_text.delta")
        await lose(cluster, saved)
        gates[1].set()
        seen += [event async for event in stream.events()]
    assert (said(seen), seen[-1]["type"]) == ("one two three", "response.completed")
    assert numbers_of(seen) == list(range(len(seen)))
    await cluster.workers[0].logged("log.refilled")
    assert await resume(raw, seen[0]["response"]["id"], None) == seen
    assert len(upstream.calls_of("x")) == 1
    assert await check_left(cluster.redis) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_redis_loses_that_a_worker_took_it(upstream: NamedUpstream, raw_client: RawMaker, stream: bool) -> None:
    """It gives the response to the same worker once more, which goes on with what it runs."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    env = {"RESPOOL_LEASE_S": "60", "RESPOOL_RENEW_S": "20"}
    async with running(env=env, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        if stream:
            async with streaming(raw, "x", background=True) as opened:
                (response,) = [event["response"] for event in await read_until(opened, "response.created")]
        else:
            response = await create(raw, "x")
        saved, record = await save(cluster), f"{PREFIX}r:{response['id']}"
        worker = await cluster.start_worker()
        await upstream.arrived("x")
        if stream:
            await until(lambda: _holds(cluster, record, "shown", b"1"))
        await lose(cluster, saved)
        await until(lambda: _holds(cluster, record, "status", b"in_progress"))  # for the second time
        gate.set()
        final = await ended(raw, response["id"])
        assert (final["status"], text_of(final)) == ("completed", "one two")
        if stream:
            await worker.logged("log.refilled")
        assert len(upstream.calls_of("x")) == 1
        assert await check_left(cluster.redis) == 1


async def _holds(cluster: Cluster, record: str, field: str, value: bytes) -> bool:
    return await cluster.redis.hget(record, field) == value


async def test_nothing_accepted_is_lost(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """Redis is killed right behind the answer to a create call, with nobody there to take the work."""
    await cluster.workers[0].terminate()
    made = [await create(raw, f"r{number}", stream=False) for number in range(20)]
    await cluster.kill_valkey()
    await cluster.start_valkey()
    await cluster.start_worker()
    for response in made:
        assert (await ended(raw, response["id"]))["status"] == "completed"
    assert await check_left(cluster.redis) == 20


async def test_redis_is_away(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """New work is refused within the budget and with a hint; when Redis is back, so is everything else."""
    await cluster.kill_valkey()
    watch = Watch()
    answer = await raw.post("/v1/responses", json={"model": "tiny", "input": "refused"})
    assert (answer.status, answer.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert watch.seconds < 4.5
    await cluster.start_valkey()
    assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
    assert upstream.calls_of("refused") == []


async def test_redis_is_away_for_longer_than_a_lease(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Nobody could renew, so nobody is taken for dead when it is back."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    env = {"RESPOOL_LEASE_S": "2", "RESPOOL_RENEW_S": "0.5", "RESPOOL_REAP_S": "0.1"}
    async with running(env=env, config=chat_model(upstream.base_url), workers=2) as cluster:
        for worker in cluster.workers:
            await worker.logged("hub.connected")
        async with streaming(raw_client(cluster.front_ends[0].origin), "x") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            owner, other = await _runner_first(cluster)
            await cluster.kill_valkey()
            await cluster.front_ends[0].logged("redis.unavailable")  # after its patience of three seconds
            owner.send(signal.SIGSTOP)  # so that the other one looks before it can renew
            await cluster.start_valkey()
            await other.logged("hub.connected", count=2)
            async with asyncio.timeout(5):
                while True:
                    if await cluster.redis.exists(f"{PREFIX}grace"):
                        break
                    await asyncio.sleep(0.01)  # between two looks
            owner.send(signal.SIGCONT)
            gate.set()
            seen += [event async for event in stream.events()]
        assert (said(seen), seen[-1]["type"]) == ("one two", "response.completed")
        assert numbers_of(seen) == list(range(len(seen)))
        assert not any(worker.find("lease.lost") for worker in cluster.workers)
        assert await check_left(cluster.redis) == 1


async def _runner_first(cluster: Cluster) -> list[Process]:
    """The two workers, the one that runs the only response first."""
    (key,) = await cluster.redis.keys(f"{PREFIX}r:*")
    owner = (await cluster.redis.hget(key, "owner")).decode()
    return sorted(cluster.workers, key=lambda worker: not worker.find("process.started", process=owner))


async def test_redis_hangs(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """It takes what is sent and is silent. What was refused meanwhile is not run when it wakes and reads on."""
    gate = asyncio.Event()
    upstream.plan("held", [*words("one "), *then(gate, "two")])
    async with streaming(raw, "held") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        cluster.valkey.send(signal.SIGSTOP)
        try:
            watch = Watch()
            kinds = ({}, {"stream": True}, {"background": True}, {"background": True, "stream": True})
            bodies = [{"model": "tiny", "input": "refused hold", **fields} for fields in kinds]
            answers = await asyncio.gather(*(raw.post("/v1/responses", json=body) for body in bodies))
            assert watch.seconds < 4.5
            assert {answer.status for answer in answers} == {503}
        finally:
            cluster.valkey.send(signal.SIGCONT)
        gate.set()
        seen += [event async for event in stream.events()]
    assert (said(seen), seen[-1]["type"]) == ("one two", "response.completed")
    assert numbers_of(seen) == list(range(len(seen)))
    await all_ended(cluster.redis)
    statuses = [await cluster.redis.hget(key, "status") for key in await cluster.redis.keys(f"{PREFIX}r:*")]
    assert set(statuses) <= {b"completed", b"cancelled"}
    assert statuses.count(b"completed") == 1
    for count in range(len(upstream.calls_of("refused"))):  # what ran before it could be withdrawn
        await upstream.given_up("refused", count + 1)
    await check_left(cluster.redis)


# pub/sub and scripts


async def test_subscribers_are_cut_again_and_again(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    cuts = 0
    async with streaming(raw, "x words=150 delay_ms=5") as one, streaming(raw, "y words=150 delay_ms=5") as two:
        other = asyncio.create_task(read_until(two, "response.completed"))
        events = []
        async for event in one.events():
            events.append(event)
            if len(events) % 5 == 0:
                cuts += await cluster.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        others = await other
    for seen in (events, others):
        assert numbers_of(seen) == list(range(len(seen)))
        assert said(seen) == "".join(f"word{place} " for place in range(150))
    assert cuts > 5
    assert cluster.front_ends[0].find("hub.lost")
    assert await check_left(cluster.redis) == 2


async def test_scripts_are_forgotten_in_mid_run(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    async with streaming(raw, "x words=50 delay_ms=2") as stream:
        events = []
        async for event in stream.events():
            events.append(event)
            await cluster.redis.script_flush()
    assert numbers_of(events) == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert await check_left(cluster.redis) == 1


# maxmemory


async def test_at_maxmemory_new_work_is_refused_as_a_whole(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient
) -> None:
    gate = asyncio.Event()
    upstream.plan("running", [*words("one "), *then(gate, "two")])
    parent = await ended(raw, (await create(raw, "parent"))["id"])
    async with streaming(raw, "running") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        before = await _names(cluster)
        async with maxmemory(cluster.redis):
            for fields in ({}, {"stream": True}, {"background": True}, {"previous_response_id": parent["id"]}):
                answer = await raw.post("/v1/responses", json={"model": "tiny", "input": "refused", **fields})
                assert answer.status == 503
                assert answer.json()["error"]["code"] == "server_is_overloaded"
                assert int(answer.headers["retry-after"]) >= 1
            assert await _names(cluster) == before
            assert await cluster.redis.hget(f"{PREFIX}b:{parent['id']}", "refs") == b"0"
            assert (await get(raw, parent["id"]))["status"] == "completed"
            gate.set()
            seen += [event async for event in stream.events()]
    assert (said(seen), seen[-1]["type"]) == ("one two", "response.completed")
    assert upstream.calls_of("refused") == []
    assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
    assert await check_left(cluster.redis) == 3


async def test_at_maxmemory_the_rest_of_the_api_works(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient
) -> None:
    """What waits is taken, what runs is cancelled or ends, and what has ended is deleted."""
    gates = asyncio.Event()
    upstream.plan("cancelled", [*words("one"), *then(gates)])
    upstream.plan("held", *[[*words("one"), *then(gates)]] * 2)
    cancelled, held = await create(raw, "cancelled"), await create(raw, "held")
    await upstream.arrived("cancelled")
    await upstream.arrived("held")
    await cluster.workers[0].kill()
    waiting = await create(raw, "waiting")
    async with maxmemory(cluster.redis):
        await cluster.start_worker()
        assert (await ended(raw, waiting["id"]))["status"] == "completed"
        answer = await raw.post(f"/v1/responses/{cancelled['id']}/cancel")
        assert (answer.status, answer.json()["status"]) == (200, "cancelled")
        await upstream.arrived("held", 2)  # its lease is over, and it is run again
        gates.set()
        assert (await ended(raw, held["id"]))["status"] == "completed"
        assert (await raw.delete(f"/v1/responses/{held['id']}")).status == 200
        assert (await raw.get(f"/v1/responses/{held['id']}")).status == 404
    assert await check_left(cluster.redis) == 2


async def _names(cluster: Cluster) -> set[bytes]:
    """All keys but the signs of life."""
    return {
        key
        for key in await cluster.redis.keys()
        if not key.startswith((b"rs:w:", b"rs:f:", PREFIX.encode() + b"claimed"))
    }


# keys that others have touched


async def test_arqs_own_keys_are_not_needed(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """A job that is gone, one that is garbage, and an entry that the queue has lost: all are run."""
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        gone, garbage, lost = [await create(raw, name) for name in ("gone", "garbage", "lost")]
        await cluster.redis.delete(f"arq:job:{{00}}:{gone['id']}")
        await cluster.redis.set(f"arq:job:{{00}}:{garbage['id']}", b"\xc1 no msgpack")
        await cluster.redis.zrem("arq:queue:{00}:background", f"{{00}}:{lost['id']}")
        await cluster.redis.zadd("arq:queue:{00}:background", {"no id of ours": 0, "{00}:resp_unknown": 0})
        await cluster.redis.zadd(f"{PREFIX}live", {lost["id"]: 1})  # half a minute is over
        await cluster.start_worker()
        for response in (gone, garbage, lost):
            assert (await ended(raw, response["id"]))["status"] == "completed"
        assert cluster.workers[0].find("response.reconciled", response_id=lost["id"])
        assert await check_left(cluster.redis) == 3


async def test_all_data_is_gone(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """The worker stops what it runs, streams are cut, ids are unknown, and new work is done."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with streaming(raw, "x") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        await cluster.redis.flushall()
        await cluster.workers[0].logged("lease.lost")
        await upstream.given_up("x")
        assert await read_on(stream) == []
    assert (await raw.get(f"/v1/responses/{seen[0]['response']['id']}")).status == 404
    assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
    assert await check_left(cluster.redis) == 1
