"""Redis behind a bad network, out of connections or disk, or no longer the primary; and processes out of descriptors."""

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from fakes.upstream import chunk, hang, send, wait
from support.builds import Edit, build
from support.clients import RawClient
from support.cluster import Cluster, Process, chat_model, running
from support.faults import (
    BROKEN,
    PREFIX,
    WAIT_S,
    NamedUpstream,
    Watch,
    all_ended,
    check_left,
    create,
    ended,
    numbers_of,
    read_on,
    read_until,
    streaming,
    text_of,
    then,
    until,
    words,
)
from support.proxy import Proxy
from support.schemas import Json

RawMaker = Callable[[str], RawClient]
BUDGET_S, SLACK_S = 3.0, 2.0
REFUSED = (503, "server_is_overloaded")


@contextlib.asynccontextmanager
async def proxied(upstream: NamedUpstream, **env: str) -> AsyncIterator[tuple[Cluster, Proxy]]:
    """One process of each room, whose way to Redis is the proxy."""
    async with (
        running(env=env, config=chat_model(upstream.base_url), front_ends=0, workers=0) as cluster,
        Proxy(str(cluster.socket)) as proxy,
    ):
        await asyncio.gather(
            cluster.start_front_end(REDIS_URL=proxy.redis_url), cluster.start_worker(REDIS_URL=proxy.redis_url)
        )
        yield cluster, proxy


async def refused(raw: RawClient, text: str = "refused") -> None:
    """A create call that is refused in time and with a hint."""
    watch = Watch()
    answer = await raw.post("/v1/responses", json={"model": "tiny", "input": text})
    assert (answer.status, answer.json()["error"]["code"]) == REFUSED
    assert int(answer.headers["retry-after"]) >= 1
    assert watch.seconds < BUDGET_S + SLACK_S


def whole(events: list[Json], text: str) -> None:
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert (said, events[-1]["type"]) == (text, "response.completed")
    assert numbers_of(events) == list(range(len(events)))


# the network


@pytest.mark.parametrize("fault", ["hold", "refuse"])
async def test_the_way_to_redis_is_lost(upstream: NamedUpstream, raw_client: RawMaker, fault: str) -> None:
    """Everything vanishes, or every connection is refused: noticed within seconds, and streams go on behind it."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with proxied(upstream) as (cluster, proxy):
        (front_end,), (worker,) = cluster.front_ends, cluster.workers
        raw = raw_client(front_end.origin)
        async with streaming(raw, "x") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            watch = Watch()
            getattr(proxy, fault)()
            await refused(raw)
            gate.set()  # the end cannot be stored now
            await worker.logged("redis.unavailable", parts=1)
            assert watch.seconds < 3 * BUDGET_S
            proxy.heal()
            seen += [event async for event in stream.events()]
        whole(seen, "one two")
        assert proxy.held + proxy.refused > 0
        assert not any(worker.find(event) for event in ("response.requeued", "response.reaped"))
        assert len(upstream.calls_of("x")) == 1
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"


async def test_publications_are_lost(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """The last ones: the reader looks at the log by itself, within some seconds. So does who waits for an answer."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    upstream.plan("quiet", [*words("one "), *then(gate, "two")])
    async with proxied(upstream) as (cluster, proxy):
        raw = raw_client(cluster.front_ends[0].origin)
        quiet = asyncio.create_task(raw.post("/v1/responses", json={"model": "tiny", "input": "quiet"}))
        async with streaming(raw, "x") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            await upstream.arrived("quiet")
            proxy.mute()
            watch = Watch()
            gate.set()
            seen += [event async for event in stream.events()]
        answer = (await quiet).json()
        assert watch.seconds < 7
        assert proxy.muted  # one flush may have told of both
        whole(seen, "one two")
        assert (answer["status"], text_of(answer)) == ("completed", "one two")
        assert await check_left(cluster.redis) == 2


async def test_a_publication_is_lost_in_the_middle(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """The next one shows the gap: the reader looks at the log at once."""
    gates = [asyncio.Event(), asyncio.Event()]
    upstream.plan("x", [*words("one "), wait(gates[0]), send(chunk("two ")), *then(gates[1], "three")])
    async with proxied(upstream) as (cluster, proxy):
        (front_end,) = cluster.front_ends
        async with streaming(raw_client(front_end.origin), "x") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            proxy.mute()
            gates[0].set()
            async with asyncio.timeout(WAIT_S):
                await proxy.was_muted.wait()
            proxy.heal()
            gates[1].set()
            seen += [event async for event in stream.events()]
        whole(seen, "one two three")
        assert proxy.muted == 1
        await front_end.logged("reader.repaired", missing=1)
        assert await check_left(cluster.redis) == 1


async def test_a_front_end_that_gives_up_on_redis_is_no_hang_up(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """It cuts its streams in the end, so that their clients can go on elsewhere. What they have begun is not cancelled."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with (
        running(config=chat_model(upstream.base_url), front_ends=0) as cluster,
        Proxy(str(cluster.socket)) as proxy,
    ):
        patience = Edit("api/relay.py", "STORE_AWAY_S = 60.0", "STORE_AWAY_S = 1.0")
        cut = await cluster.start_front_end(REDIS_URL=proxy.redis_url, **build(cluster.folder / "impatient", patience))
        raw = raw_client((await cluster.start_front_end()).origin)
        async with streaming(raw_client(cut.origin), "x") as stream:  # in the foreground
            seen = await read_until(stream, "response.output_text.delta")
            proxy.refuse()
            rest = await read_on(stream)
        assert [event["type"] for event in rest] == []
        assert proxy.refused > 0
        proxy.heal()
        await cut.logged("hub.connected", count=2)
        again = raw_client(cut.origin)
        await ended(again, (await create(again, "other words=30 delay_ms=60"))["id"])  # time enough to be cancelled in
        gate.set()
        final = await ended(raw, seen[0]["response"]["id"])
        assert (final["status"], text_of(final)) == ("completed", "one two")
        assert await check_left(cluster.redis) == 2


async def test_redis_is_slow(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Three tenths of a second to Redis and as much back: slower, and nobody is taken for dead."""
    async with proxied(upstream) as (cluster, proxy):
        raw = raw_client(cluster.front_ends[0].origin)
        proxy.delay(0.3)
        watch = Watch()
        async with streaming(raw, "x words=100 delay_ms=60") as stream:  # longer than a lease
            seen = [event async for event in stream.events()]
        whole(seen, "".join(f"word{place} " for place in range(100)))
        assert watch.seconds > 6
        assert proxy.delayed > 20
        (worker,) = cluster.workers
        assert not any(worker.find(event) for event in ("lease.lost", "response.requeued", "response.reaped"))
        assert len(upstream.calls_of("x")) == 1
        assert await check_left(cluster.redis) == 1


async def test_killed_between_submit_and_its_reply(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """The front end has accepted a response and dies before it can say so: the client's retry elsewhere finds it."""
    async with proxied(upstream) as (cluster, proxy):
        dying, other = cluster.front_ends[0], await cluster.start_front_end()
        await ended(raw_client(other.origin), (await create(raw_client(dying.origin), "first"))["id"])  # loads scripts
        known = set(await cluster.redis.keys(f"{PREFIX}r:*"))
        proxy.lose(b"unanswered", then_refuse=True)
        body, headers = {"model": "tiny", "input": "unanswered", "background": True}, {"Idempotency-Key": "k"}
        call = asyncio.create_task(raw_client(dying.origin).post("/v1/responses", json=body, headers=headers))
        async with asyncio.timeout(WAIT_S):
            await proxy.was_lost.wait()
        await dying.kill()
        with pytest.raises(BROKEN):
            await call
        proxy.heal()
        (key,) = set(await cluster.redis.keys(f"{PREFIX}r:*")) - known  # it was accepted
        raw = raw_client(other.origin)
        again = await raw.post("/v1/responses", json=body, headers=headers)
        assert again.headers["x-respool-idempotent-replay"] == "true"
        assert again.json()["id"] == key.decode().removeprefix(f"{PREFIX}r:")
        assert (await ended(raw, again.json()["id"]))["status"] == "completed"
        assert len(upstream.calls_of("unanswered")) == 1
        assert await check_left(cluster.redis) == 2


async def test_clients_hang_up_between_submit_and_its_reply(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """What was to go on without its client does, and what was not is cancelled."""
    upstream.plan("undone", [hang()])
    async with proxied(upstream) as (cluster, proxy):
        raw = raw_client(cluster.front_ends[0].origin)
        await ended(raw, (await create(raw, "first"))["id"])  # loads scripts
        for text, background, status in (("carried on", True, b"completed"), ("undone", False, b"cancelled")):
            known = set(await cluster.redis.keys(f"{PREFIX}r:*"))
            proxy.was_lost.clear()
            proxy.lose(text.encode(), then_refuse=True)
            call = asyncio.create_task(
                raw.post("/v1/responses", json={"model": "tiny", "input": text, "background": background})
            )
            async with asyncio.timeout(WAIT_S):
                await proxy.was_lost.wait()
            call.cancel()
            await asyncio.wait([call])
            proxy.heal()
            await all_ended(cluster.redis)
            (key,) = set(await cluster.redis.keys(f"{PREFIX}r:*")) - known
            assert await cluster.redis.hget(key, "status") == status
        assert await check_left(cluster.redis) == 3


async def test_told_to_stop_before_it_knows_what_it_has_taken(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """The answer to a claim is lost, and the worker is told to stop: what it took is not left to its lease."""
    async with proxied(upstream, RESPOOL_LEASE_S="60") as (cluster, proxy):
        (worker,), raw = cluster.workers, raw_client((await cluster.start_front_end()).origin)
        proxy.lose(b"stranded", then_refuse=True)
        response = await create(raw, "stranded")
        async with asyncio.timeout(WAIT_S):
            await proxy.was_lost.wait()
        assert await cluster.redis.hget(f"{PREFIX}r:{response['id']}", "owner")
        worker.send(signal.SIGTERM)
        await until(lambda: _claimed_in_vain(worker))
        proxy.heal()
        assert await worker.ended() == 0
        assert (await ended(raw, response["id"]))["status"] == "completed"
        assert await cluster.redis.hget(f"{PREFIX}r:{response['id']}", "crashes") == b"0"
        assert len(upstream.calls_of("stranded")) == 1


async def _claimed_in_vain(worker: Process) -> bool:
    return any("claim" in line for line in worker.find("redis.unavailable"))


# Redis itself


async def test_redis_takes_no_more_clients(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with streaming(raw, "x") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        before = await cluster.redis.config_get("maxclients")
        await cluster.redis.config_set("maxclients", 1)
        for kind in ("pubsub", "normal"):  # all but our own
            await cluster.redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await refused(raw)
        assert (await cluster.redis.info("stats"))["rejected_connections"] > 0
        await cluster.redis.config_set("maxclients", before["maxclients"])
        gate.set()
        seen += [event async for event in stream.events()]
    whole(seen, "one two")
    assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
    await check_left(cluster.redis)


async def test_a_replica_is_promoted(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """The old primary refuses to write, and soon everybody is led to the new one: streams go on there."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with proxied(upstream) as (cluster, proxy), Cluster() as second:
        ports = [free_port(), free_port()]
        for redis, port in zip((cluster.redis, second.redis), ports, strict=True):
            await redis.config_set("port", port)
        await second.redis.execute_command("REPLICAOF", "127.0.0.1", ports[0])
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "x") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            await until(lambda: _follows(second.redis))
            assert await cluster.redis.wait(1, 5000) == 1
            await second.redis.execute_command("REPLICAOF", "NO", "ONE")
            await cluster.redis.execute_command("REPLICAOF", "127.0.0.1", ports[1])
            await refused(raw)
            assert (await cluster.redis.info("errorstats"))["errorstat_READONLY"]["count"] > 0
            gate.set()
            await cluster.workers[0].logged("redis.unavailable", parts=1)
            proxy.switch(str(second.socket))
            seen += [event async for event in stream.events()]
        whole(seen, "one two")
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
        assert len(upstream.calls_of("x")) == 1
        assert await check_left(second.redis) == 2


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def _follows(replica: Redis) -> bool:
    return (await replica.info("replication")).get("master_link_status") == "up"


async def test_the_disk_is_full(upstream: NamedUpstream, cluster: Cluster, raw_client: RawMaker) -> None:
    """New work is refused; outcomes are kept until they can be stored. (A limit on files fails writes as a full disk.)"""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    await cluster.kill_valkey()
    valkey = await cluster.start_valkey("sh", "-c", 'trap "" XFSZ; exec "$@"', "sh")
    raw = raw_client(cluster.front_ends[0].origin)
    async with streaming(raw, "x") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        (log,) = (cluster.folder / "appendonlydir").glob("*.incr.aof")
        unlimited = resource.prlimit(valkey.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))
        await until(lambda: _cannot_write(cluster.redis))  # the next heartbeat is the first to meet it
        gate.set()
        await cluster.workers[0].logged("redis.unavailable", parts=1, error="Redis refuses to write: MISCONF")
        await refused(raw)
        resource.prlimit(valkey.pid, resource.RLIMIT_FSIZE, unlimited)
        seen += [event async for event in stream.events()]
    whole(seen, "one two")
    assert upstream.calls_of("refused") == []
    assert len(upstream.calls_of("x")) == 1
    assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
    assert await check_left(cluster.redis) == 2


async def _cannot_write(redis: Redis) -> bool:
    return (await redis.info("persistence"))["aof_last_write_status"] == "err"


async def test_redis_comes_back_with_nothing(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """No append-only file: what ran is stopped, ids are unknown, both rooms go on, and a new process warns."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    response = await create(raw, "x", stream=False)
    await upstream.arrived("x")
    await cluster.kill_valkey()
    for file in (cluster.folder / "appendonlydir").iterdir():
        file.unlink()
    await cluster.start_valkey()
    await upstream.given_up("x")
    assert (await raw.get(f"/v1/responses/{response['id']}")).status == 404
    assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
    await cluster.redis.config_set("appendonly", "no")
    await cluster.redis.config_set("maxmemory-policy", "allkeys-lru")
    worker = await cluster.start_worker()
    warned = [line["message"] for line in worker.find("redis.warned")]
    assert ["appendonly" in line for line in warned] == [True, False]
    assert ["noeviction" in line for line in warned] == [False, True]


# descriptors and versions


async def test_no_descriptors_are_left(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """Neither room can open a connection: 503, a failed try, and no crash."""
    (front_end,), (worker,) = cluster.front_ends, cluster.workers
    await ended(raw, (await create(raw, "before"))["id"])  # our own connection stays open
    limits = {process: prevent_opening(process) for process in (front_end, worker)}
    for kind in ("pubsub", "normal"):
        await cluster.redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    await refused(raw)
    await worker.logged("redis.unavailable")
    assert front_end.find("hub.lost")
    for process, limit in limits.items():
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limit)
        assert process.child.returncode is None
    await front_end.logged("hub.connected", count=2)
    assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
    assert upstream.calls_of("refused") == []


def prevent_opening(process: Process) -> tuple[int, int]:
    """From now on it can open nothing: 0 to 2 are taken. Returns the limits it had."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))


async def test_versions_are_mixed(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """A request that a newer front end has written has a field that this worker does not know, and is run."""
    async with running(config=chat_model(upstream.base_url), front_ends=0) as cluster:
        newer = Edit("shared/store/lua/submit.lua", "redis.call('SET', P .. 'q:' .. id, ARGV[12])",
                     "redis.call('SET', P .. 'q:' .. id, '{\"later\":{\"a\":[1]},' .. string.sub(ARGV[12], 2))\n"
                     "redis.call('HSET', r, 'later', 1)")  # fmt: skip
        front_end = await cluster.start_front_end(**build(cluster.folder / "newer", newer))
        raw = raw_client(front_end.origin)
        response = await ended(raw, (await create(raw, "x words=2"))["id"])
        assert (response["status"], text_of(response)) == ("completed", "word0 word1 ")
        assert await cluster.redis.hget(f"{PREFIX}r:{response['id']}", "later") == b"1"
        # And the other way round: what it has stored is served by this version.
        current = raw_client((await cluster.start_front_end()).origin)
        child = await create(current, "y words=1", previous_response_id=response["id"])
        assert (await ended(current, child["id"]))["status"] == "completed"
        assert await check_left(cluster.redis) == 2
