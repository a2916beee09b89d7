"""Processes that are killed, frozen or told to stop, at every moment of a response's life.

Rounds that need many kills run in lanes, each with its own cluster. Leases are short where the promise does not depend
on their length.
"""

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from fakes.upstream import chunk, hang, send, wait
from support.clients import RawClient
from support.cluster import Cluster, Process, chat_model, running
from support.faults import (
    SHORT_LEASE,
    NamedUpstream,
    Watch,
    check_left,
    create,
    ended,
    get,
    maxmemory,
    numbers_of,
    random_moment,
    read_on,
    read_until,
    resume,
    streaming,
    text_of,
    then,
    words,
)
from support.schemas import Json

RawMaker = Callable[[str], RawClient]
ROUNDS, LANES = 20, 4
LEASE_S, TAKEOVER_S = 5.0, 6.0
SLACK_S = 1.5
"""What a loaded machine may add to a promise in seconds."""

OPEN = asyncio.Event()
OPEN.set()
both_ways = pytest.mark.parametrize("full", [False, True], ids=["normal", "at maxmemory"])


def events_text(events: list[Json]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def said(count: int) -> str:
    return "".join(f"word{place} " for place in range(count))


# kill -9, often


@pytest.mark.timeout(120)
@both_ways
async def test_kill_the_only_worker_20_times(upstream: NamedUpstream, raw_client: RawMaker, full: bool) -> None:
    """A background response survives the death of its worker in mid-generation: the next worker completes it."""
    async with asyncio.TaskGroup() as lanes:  # one that fails ends the others, and their processes
        tasks = [lanes.create_task(_kill_workers(upstream, raw_client, lane, full)) for lane in range(LANES)]
    assert sum(task.result() for task in tasks) >= ROUNDS * 3 // 4  # the kills really hit what was running


async def _kill_workers(upstream: NamedUpstream, raw_client: RawMaker, lane: int, full: bool) -> int:
    chance, hits, rounds = random.Random(lane), 0, ROUNDS // LANES
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        for number in range(rounds):
            name = f"l{lane}r{number}"
            response = await create(raw, f"{name} words=30 delay_ms=7")
            async with maxmemory(cluster.redis, used=full):
                await upstream.arrived(name)
                await random_moment(chance, 0.25)
                await cluster.workers[-1].kill()
                await cluster.start_worker()
                response = await ended(raw, response["id"])
            assert response["status"] == "completed"
            assert text_of(response) == said(30)
            calls = upstream.calls_of(name)
            assert len(calls) == 2 or (len(calls) == 1 and calls[0].outcome == "ended")
            hits += len(calls) == 2
        assert await check_left(cluster.redis) == rounds
    return hits


@pytest.mark.timeout(120)
@both_ways
async def test_kill_the_front_end_20_times(upstream: NamedUpstream, raw_client: RawMaker, full: bool) -> None:
    """Streams of a front end that dies are resumed on another one, without a gap and without a duplicate."""
    async with asyncio.TaskGroup() as lanes:
        tasks = [lanes.create_task(_kill_front_ends(upstream, raw_client, lane, full)) for lane in range(LANES // 2)]
    assert sum(task.result() for task in tasks) >= ROUNDS * 3 // 4


async def _kill_front_ends(upstream: NamedUpstream, raw_client: RawMaker, lane: int, full: bool) -> int:
    chance, hits, rounds = random.Random(lane), 0, ROUNDS // (LANES // 2)
    async with running(config=chat_model(upstream.base_url), front_ends=2) as cluster:
        victim, other = cluster.front_ends
        for number in range(rounds):
            starting = asyncio.create_task(cluster.start_front_end())
            names = [f"l{lane}r{number}s{stream}" for stream in range(3)]
            going = [
                asyncio.create_task(_read_stream(raw_client(victim.origin), f"{name} words=30 delay_ms=7", name))
                for name in names
            ]
            await asyncio.gather(*(upstream.arrived(name) for name in names))
            async with maxmemory(cluster.redis, used=full):
                await random_moment(chance, 0.25)
                await victim.kill()
                seen = await asyncio.gather(*going)
                raw = raw_client(other.origin)
                for events in seen:
                    rest = []
                    if events[-1]["type"] != "response.completed":
                        rest = await resume(raw, events[0]["response"]["id"], events[-1]["sequence_number"])
                        hits += 1
                    whole = [*events, *rest]
                    assert numbers_of(whole) == list(range(len(whole)))
                    assert events_text(whole) == said(30)
                    assert whole[-1]["type"] == "response.completed"
                    # From the start, and byte by byte the same: the recorder compares.
                    assert numbers_of(await resume(raw, events[0]["response"]["id"], None)) == numbers_of(whole)
            assert all(len(upstream.calls_of(name)) == 1 for name in names)
            victim, other = other, await starting
        assert await check_left(cluster.redis) == rounds * 3
    return hits // 3


async def _read_stream(raw: RawClient, text: str, name: str) -> list[Json]:
    """Every third one is a foreground stream: its run goes on all the same when its front end dies."""
    async with streaming(raw, text, background=not name.endswith("s0")) as stream:
        return await read_on(stream)


# kill -9, at a certain moment


async def test_a_worker_killed_in_mid_stream(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """What was seen cannot be run again: failed within a lease and a second, what there is is kept, with default leases."""
    upstream.plan("x", [*words("one ", "two ", "three"), hang()])
    async with running(config=chat_model(upstream.base_url), workers=2) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "x") as stream:
            seen = await read_until(stream, "response.output_text.delta", 3)
            await (await _runner(cluster)).kill()
            watch = Watch()
            rest = [event async for event in stream.events()]
        assert watch.seconds < TAKEOVER_S + SLACK_S
        last = rest[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["code"] == "server_error"
        assert text_of(last["response"]) == "one two three"
        assert last["response"]["output"][0]["status"] == "incomplete"
        assert numbers_of([*seen, *rest]) == list(range(len(seen) + len(rest)))
        assert len(upstream.calls_of("x")) == 1
        assert await check_left(cluster.redis) == 1


async def _runner(cluster: Cluster) -> Process:
    """The worker that runs the only response there is."""
    (key,) = await cluster.redis.keys("rs:{00}:r:*")
    owner = (await cluster.redis.hget(key, "owner")).decode()
    return next(worker for worker in cluster.workers if worker.find("process.started", process=owner))


async def test_a_worker_killed_before_the_first_byte(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Nobody has seen anything: it runs again, and the client sees one clean stream."""
    upstream.plan("x", [hang()])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=2) as cluster:
        async with streaming(raw_client(cluster.front_ends[0].origin), "x words=5") as stream:
            seen = await read_until(stream, "response.in_progress")
            await upstream.arrived("x")
            await (await _runner(cluster)).kill()
            seen += [event async for event in stream.events()]
        assert events_text(seen) == said(5)
        assert numbers_of(seen) == list(range(len(seen)))
        assert seen[-1]["type"] == "response.completed"
        assert len(upstream.calls_of("x")) == 2
        assert await check_left(cluster.redis) == 1


async def test_a_response_that_kills_every_worker(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """After two executions that were lost it is failed, and others are not held up."""
    upstream.plan("poison", [hang()], [hang()])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        poison = await create(raw, "poison")
        for count in (1, 2):
            await upstream.arrived("poison", count)
            await cluster.workers[-1].kill()
            await cluster.start_worker()
        failed = await ended(raw, poison["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
        assert len(upstream.calls_of("poison")) == 2
        assert await check_left(cluster.redis) == 2


async def test_much_work_of_a_dead_worker_is_taken_over(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Half of it was seen and ends as failed, half of it runs again."""
    count = 60
    seen, unseen = [f"s{number}" for number in range(count)], [f"u{number}" for number in range(count)]
    for name in seen:
        upstream.plan(name, [*words("some"), hang()])
    for name in unseen:
        upstream.plan(name, [*words("some"), hang()], [*words(), *then(OPEN, "all")])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), front_ends=2) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        quiet = await asyncio.gather(*(create(raw, name) for name in unseen))
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(streaming(raw, name)) for name in seen]
            await asyncio.gather(*(read_until(stream, "response.output_text.delta") for stream in streams))
            await asyncio.gather(*(upstream.arrived(name) for name in unseen))
            await cluster.workers[0].kill()
            watch = Watch()
            await cluster.start_worker()
            rests = await asyncio.gather(*(read_on(stream) for stream in streams))
        done = await asyncio.gather(*(ended(raw, response["id"]) for response in quiet))
        assert watch.seconds < 1 + 2 * SLACK_S + 2
        assert {rest[-1]["type"] for rest in rests} == {"response.failed"}
        assert {(response["status"], text_of(response)) for response in done} == {("completed", "all")}
        assert await check_left(cluster.redis) == 2 * count


# frozen


async def test_a_worker_that_was_frozen_is_refused(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Taken for dead, it comes back: its writes are refused, and it gives its upstream calls up."""
    gates = {name: asyncio.Event() for name in ("shown", "unseen", "quiet")}
    upstream.plan("shown", [*words("one "), *then(gates["shown"], "two")])
    upstream.plan("unseen", [*words(), wait(gates["unseen"]), send(chunk("never")), hang()])
    upstream.plan("quiet", [*words("never"), *then(gates["quiet"])])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        (zombie,) = cluster.workers
        async with streaming(raw, "shown") as shown, streaming(raw, "unseen words=3") as unseen:
            seen = await read_until(shown, "response.output_text.delta")
            quiet = await create(raw, "quiet words=4")
            await asyncio.gather(*(upstream.arrived(name) for name in gates))
            zombie.send(signal.SIGSTOP)
            for gate in gates.values():  # this waits in its sockets, to be read when it comes back
                gate.set()
            await cluster.start_worker()
            seen += [event async for event in shown.events()]
            again = [event async for event in unseen.events()]
            done = await ended(raw, quiet["id"])
            zombie.send(signal.SIGCONT)
            lost = {(await zombie.logged("response.dropped", count=n))["response_id"] for n in (1, 2, 3)}
            await upstream.given_up("unseen")
        assert seen[-1]["type"] == "response.failed"
        assert text_of(seen[-1]["response"]) == "one "
        assert (events_text(again), again[-1]["type"]) == (said(3), "response.completed")
        assert (text_of(done), done["status"]) == (said(4), "completed")
        assert lost == {events[0]["response"]["id"] for events in (seen, again)} | {quiet["id"]}
        assert [len(upstream.calls_of(name)) for name in gates] == [1, 2, 2]
        assert await check_left(cluster.redis) == 3
        # It lives on, and takes work.
        await cluster.workers[1].kill()
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"


# SIGTERM


async def test_a_stopping_worker_finishes_what_is_short(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with running(config=chat_model(upstream.base_url)) as cluster:
        (worker,) = cluster.workers
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "x") as stream:
            await read_until(stream, "response.output_text.delta")
            worker.send(signal.SIGTERM)
            await worker.logged("process.draining")
            waiting = await create(raw, "y")
            gate.set()
            rest = [event async for event in stream.events()]
        assert rest[-1]["type"] == "response.completed"
        assert await worker.ended() == 0
        assert (await get(raw, waiting["id"]))["status"] == "queued"
        assert upstream.calls_of("y") == []
        await cluster.start_worker()
        assert (await ended(raw, waiting["id"]))["status"] == "completed"
        assert await check_left(cluster.redis) == 2


async def test_a_stopping_worker_gives_back_what_nobody_has_seen(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Three times over, as deploys do: that counts neither as a crash nor as a try. The fourth drain waits for the end."""
    deploys, gate = 3, asyncio.Event()
    upstream.plan("stream", *[[hang()]] * deploys, then(gate, "late"))
    upstream.plan("quiet", *[[*words("never"), hang()]] * deploys, then(gate, "late"))
    async with running(env={"RESPOOL_DRAIN_S": "0"}, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "stream") as stream:
            quiet = await create(raw, "quiet")
            for count in range(1, deploys + 1):
                await upstream.arrived("stream", count)
                await upstream.arrived("quiet", count)
                assert await cluster.workers[-1].terminate() == 0
                assert len(cluster.workers[-1].find("response.released")) == 2
                await cluster.start_worker()
            await upstream.arrived("stream", deploys + 1)
            await upstream.arrived("quiet", deploys + 1)
            cluster.workers[-1].send(signal.SIGTERM)
            await cluster.workers[-1].logged("process.draining")
            gate.set()
            events = [event async for event in stream.events()]
            assert await cluster.workers[-1].ended() == 0
        assert (events_text(events), events[-1]["type"]) == ("late", "response.completed")
        assert numbers_of(events) == list(range(len(events)))
        done = await get(raw, quiet["id"])
        assert (text_of(done), done["status"]) == ("late", "completed")
        record = await cluster.redis.hgetall(f"rs:{{00}}:r:{quiet['id']}")
        assert (record[b"crashes"], record[b"tries"], record[b"releases"]) == (b"0", b"0", b"3")
        assert await check_left(cluster.redis) == 2


async def test_a_stopping_worker_fails_what_was_seen(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    upstream.plan("x", [*words("one ", "two"), hang()])
    async with running(env={"RESPOOL_DRAIN_S": "0.5"}, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "x") as stream:
            await read_until(stream, "response.output_text.delta", 2)
            watch = Watch()
            cluster.workers[0].send(signal.SIGTERM)
            rest = [event async for event in stream.events()]
        assert 0.5 <= watch.seconds < 0.5 + SLACK_S
        assert rest[-1]["type"] == "response.failed"
        assert rest[-1]["response"]["error"]["code"] == "server_error"
        assert text_of(rest[-1]["response"]) == "one two"
        assert await cluster.workers[0].ended() == 0
        await upstream.given_up("x")
        assert await check_left(cluster.redis) == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(
    upstream: NamedUpstream, raw_client: RawMaker, second: signal.Signals
) -> None:
    upstream.plan("seen", [*words("one"), hang()])
    upstream.plan("unseen", [hang()])
    async with running(config=chat_model(upstream.base_url)) as cluster:
        (worker,) = cluster.workers
        raw = raw_client(cluster.front_ends[0].origin)
        unseen = await create(raw, "unseen words=2")
        async with streaming(raw, "seen") as stream:
            await read_until(stream, "response.output_text.delta")
            await upstream.arrived("unseen")
            worker.send(signal.SIGTERM)
            await worker.logged("process.draining")
            watch = Watch()
            worker.send(second)
            rest = [event async for event in stream.events()]
            assert await worker.ended() == 0
            assert watch.seconds < SLACK_S
        assert rest[-1]["type"] == "response.failed"
        await cluster.start_worker()
        assert (await ended(raw, unseen["id"]))["status"] == "completed"
        assert await check_left(cluster.redis) == 2


async def test_a_stopping_front_end_sends_new_work_away(
    upstream: NamedUpstream, cluster: Cluster, raw_client: RawMaker
) -> None:
    """It says so at once, to balancers and to clients that ask for more, and what it streams comes to its end. It listens
    for as long as it was told to, but a second signal ends that, too."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    stopping = await cluster.start_front_end(RESPOOL_DRAIN_NOTICE_S="60")
    raw = raw_client(stopping.origin)
    async with streaming(raw, "x") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        assert (await raw.get("/ready")).status == 200
        stopping.send(signal.SIGTERM)
        await stopping.logged("process.draining")
        ready = await raw.get("/ready")
        refused = await raw.post("/v1/responses", json={"model": "tiny", "input": "more"})
        gate.set()
        seen += [event async for event in stream.events()]
    assert (ready.status, ready.json()) == (503, {"status": "draining"})
    assert (refused.status, refused.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
    assert numbers_of(seen) == list(range(len(seen)))
    assert seen[-1]["type"] == "response.completed"
    assert (await raw_client(stopping.origin).get("/ready")).status == 503  # a new connection is still taken
    stopping.send(signal.SIGTERM)
    assert await stopping.ended() == 0
    assert upstream.calls_of("more") == []
    assert await check_left(cluster.redis) == 1


async def test_a_second_signal_cuts_the_streams_of_a_front_end(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient, raw_client: RawMaker
) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    stopping, other = cluster.front_ends[0], await cluster.start_front_end()
    async with streaming(raw, "x") as stream:
        seen = await read_until(stream, "response.output_text.delta")
        for _ in range(2):
            stopping.send(signal.SIGTERM)
            await stopping.logged("process.draining")
        watch = Watch()
        seen += await read_on(stream)
        assert await stopping.ended() == 0
    assert watch.seconds < 10  # not the 30 s of drain_s
    gate.set()
    response = await ended(raw_client(other.origin), seen[0]["response"]["id"])
    assert text_of(response) == "one two"


async def test_a_stopping_front_end_is_no_hang_up(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Its foreground streams are cut, and go on elsewhere."""
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    env = {"RESPOOL_DRAIN_S": "0.3"}
    async with running(env=env, config=chat_model(upstream.base_url), front_ends=2) as cluster:
        stopping, other = cluster.front_ends
        async with streaming(raw_client(stopping.origin), "x") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            stopping.send(signal.SIGTERM)
            seen += await read_on(stream)
            assert await stopping.ended() == 0
        assert seen[-1]["type"] == "response.output_text.delta"
        gate.set()
        raw = raw_client(other.origin)
        rest = await resume(raw, seen[0]["response"]["id"], seen[-1]["sequence_number"])
        assert numbers_of([*seen, *rest]) == list(range(len(seen) + len(rest)))
        assert rest[-1]["type"] == "response.completed"
        assert upstream.calls_of("x")[0].outcome == "ended"
        assert await check_left(cluster.redis) == 1
