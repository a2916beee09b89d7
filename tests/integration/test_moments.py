"""Deaths at one certain line, blocked loops, wrong clocks, lost calls: faults that take another build of the product."""

import asyncio
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.upstream import chunk, hang, send, wait
from support import builds
from support.builds import Edit, build
from support.clients import RawClient
from support.cluster import Process, chat_model, running
from support.faults import (
    PREFIX,
    SHORT_LEASE,
    NamedUpstream,
    Watch,
    check_left,
    create,
    ended,
    get,
    numbers_of,
    read_on,
    read_until,
    streaming,
    text_of,
    then,
    words,
)

RawMaker = Callable[[str], RawClient]
SKEW_S = 60.0
MIB = 1 << 20


async def test_killed_between_the_last_token_and_the_end(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """What was shown ends as failed with all its text; what was not is made again. Never a second terminal event."""
    gate = asyncio.Event()
    upstream.plan("shown", [*words("one ", "two"), *then(gate)])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        dying = await cluster.start_worker(**build(cluster.folder / "dying", prelude=builds.DIE_BEFORE_SETTLE))
        async with streaming(raw, "shown") as stream:
            quiet = await create(raw, "quiet words=3")
            seen = await read_until(stream, "response.output_text.delta", 2)
            gate.set()
            await dying.logged("fault.hit", fault="before settle", count=2)
            await dying.kill()
            await cluster.start_worker()
            seen += [event async for event in stream.events()]
        assert [event["type"] for event in seen if "response" in event][-1] == "response.failed"
        assert numbers_of(seen) == list(range(len(seen)))
        assert text_of(seen[-1]["response"]) == "one two"
        done = await ended(raw, quiet["id"])
        assert (done["status"], text_of(done)) == ("completed", "word0 word1 word2 ")
        assert [len(upstream.calls_of(name)) for name in ("shown", "quiet")] == [1, 2]
        assert await check_left(cluster.redis) == 2


async def test_killed_right_behind_the_end(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """It has ended, whether or not its worker came to hear of it: the reaper finds nothing."""
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        dying = await cluster.start_worker(**build(cluster.folder / "dying", prelude=builds.DIE_AFTER_SETTLE))
        async with streaming(raw, "shown words=3") as stream:
            quiet = await create(raw, "quiet words=3")
            seen = [event async for event in stream.events()]
        await dying.logged("fault.hit", fault="after settle", count=2)
        before = await ended(raw, quiet["id"])
        await dying.kill()
        other = await cluster.start_worker()
        # Behind a lease and the looks that found nothing, the next one is served as ever.
        last = await create(raw, "last words=40 delay_ms=40")
        assert (await ended(raw, last["id"]))["status"] == "completed"
        assert seen[-1]["type"] == "response.completed"
        assert await get(raw, quiet["id"]) == before
        assert before["status"] == "completed"
        assert not other.find("response.reaped")
        assert not other.find("response.requeued")
        assert [len(upstream.calls_of(name)) for name in ("shown", "quiet")] == [1, 1]
        assert await check_left(cluster.redis) == 3


async def test_a_worker_whose_loop_is_blocked(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """For longer than a lease nothing moves in it: it is taken for dead, and refused when it goes on."""
    upstream.plan("shown", [*words("one "), hang()])
    upstream.plan("unseen", [hang()])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        slow_renewals = {"RESPOOL_RENEW_S": "1", "RESPOOL_LEASE_S": "3"}  # time for both to begin
        blocked = await cluster.start_worker(
            **build(cluster.folder / "blocked", prelude=builds.block(8)), **slow_renewals
        )
        async with streaming(raw, "shown") as shown, streaming(raw, "unseen words=3") as unseen:
            seen = await read_until(shown, "response.output_text.delta")
            await upstream.arrived("unseen")
            await blocked.logged("fault.hit", fault="blocked")
            await cluster.start_worker()
            seen += [event async for event in shown.events()]
            again = [event async for event in unseen.events()]
            assert not blocked.find("fault.hit", fault="unblocked")  # all of that happened meanwhile
            await blocked.logged("response.dropped", count=2)
            await upstream.given_up("unseen")
        assert (seen[-1]["type"], text_of(seen[-1]["response"])) == ("response.failed", "one ")
        assert (again[-1]["type"], text_of(again[-1]["response"])) == ("response.completed", "word0 word1 word2 ")
        assert numbers_of(again) == list(range(len(again)))
        await blocked.logged("loop.lagged")
        assert await check_left(cluster.redis) == 2


async def test_a_response_that_crashes_its_worker_from_within(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """It takes two workers with it and no third one; what comes after it is completed."""
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        fragile = build(cluster.folder / "fragile", prelude=builds.POISON)
        poison = await create(raw, "poison")
        for _ in range(2):
            worker = await cluster.start_worker(**fragile)
            assert await worker.ended() == 1
            assert worker.find("fault.hit", fault="poison")
        third = await cluster.start_worker(**fragile)
        failed = await ended(raw, poison["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
        assert not third.find("fault.hit")
        assert upstream.calls_of("poison") == []
        assert await check_left(cluster.redis) == 2


@pytest.mark.parametrize(("front_end_s", "worker_s"), [(SKEW_S, -SKEW_S), (-SKEW_S, SKEW_S)])
async def test_clocks_that_are_wrong(
    upstream: NamedUpstream, raw_client: RawMaker, front_end_s: float, worker_s: float
) -> None:
    """Order, start and leases go by Redis' clock: two minutes between two processes change none of them."""
    gate = asyncio.Event()
    upstream.plan("held", [*words("one "), *then(gate, "two")])
    env = {**SHORT_LEASE, "RESPOOL_WORKER_SLOTS": "1"}
    async with running(env=env, config=chat_model(upstream.base_url), workers=0) as cluster:
        wrong = build(cluster.folder / "front_end", prelude=builds.clock(front_end_s))
        skewed = raw_client((await cluster.start_front_end(**wrong)).origin)
        right = raw_client(cluster.front_ends[0].origin)
        made = [await create((right, skewed)[number % 2], f"r{number}") for number in range(6)]
        assert made[1]["created_at"] - made[0]["created_at"] == pytest.approx(front_end_s, abs=15)  # the fault
        worker_env = build(cluster.folder / "worker", prelude=builds.clock(worker_s))
        watch = Watch()
        workers = [await cluster.start_worker(**worker_env)]
        done = [await ended(right, response["id"]) for response in made]
        assert watch.seconds < 15
        assert [response["status"] for response in done] == ["completed"] * 6
        assert [call.last_user_text for call in upstream.calls] == [f"r{number}" for number in range(6)]
        assert (await workers[0].logged("fault.hit"))["fault"] == f"clock {worker_s:+g}"
        if worker_s > 0:
            assert done[0]["completed_at"] - time.time() == pytest.approx(worker_s, abs=25)
        else:
            assert done[0]["completed_at"] == done[0]["created_at"]  # never before
        # A run that is longer than its lease is left alone by a worker whose clock is right, and by one whose is not.
        held = await create(skewed, "held")
        await upstream.arrived("held")
        workers += [await cluster.start_worker(), await cluster.start_worker(**worker_env)]
        longer = await create(right, "longer words=30 delay_ms=60")
        assert (await ended(right, longer["id"]))["status"] == "completed"
        gate.set()
        assert text_of(await ended(right, held["id"])) == "one two"
        for event in ("lease.lost", "response.requeued", "response.reaped"):
            assert not any(worker.find(event) for worker in workers)
        assert await check_left(cluster.redis) == 8


async def test_a_cancel_call_that_is_lost(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """The worker finds the note with its next renewal; the front end need not settle in its place."""
    upstream.plan("x", [*words("one"), hang()])
    env = {**SHORT_LEASE, "RESPOOL_RENEW_S": "0.1"}
    async with running(env=env, config=chat_model(upstream.base_url), front_ends=0) as cluster:
        call = Edit("shared/store/lua/cancel.lua", "tell(v[3], 'c ' .. id .. ' ' .. v[5] .. ' 0', '')\n", "")
        front_end = await cluster.start_front_end(**build(cluster.folder / "silent", call))
        raw = raw_client(front_end.origin)
        response = await create(raw, "x")
        await upstream.arrived("x")
        owner = (await cluster.redis.hget(f"{PREFIX}r:{response['id']}", "owner")).decode()
        async with cluster.redis.pubsub() as inbox:
            await inbox.subscribe(f"rs:in:{owner}")
            assert (await inbox.get_message(timeout=5))["type"] == "subscribe"
            answer = await raw.post(f"/v1/responses/{response['id']}/cancel")
            await inbox.ping()
            message = await inbox.get_message(timeout=5)
            assert message["type"] == "pong"  # and nothing before it: the call was lost
        assert (answer.status, answer.json()["status"]) == (200, "cancelled")
        await upstream.given_up("x")
        await cluster.workers[0].logged("response.settled", status="cancelled")
        assert await check_left(cluster.redis) == 1


async def test_five_deploys_in_a_row(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Every worker is replaced under load, five times: nobody notices."""
    env = {"RESPOOL_WORKER_SLOTS": "2"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)

        async def read(name: str) -> list[str]:
            async with streaming(raw, f"{name} words=20 delay_ms=10") as stream:
                return [event["type"] for event in await read_on(stream)]

        for deploy in range(5):
            reading = [asyncio.create_task(read(f"d{deploy}s{number}")) for number in range(6)]
            await upstream.arrived(f"d{deploy}s0")
            old = cluster.workers[-1]
            await cluster.start_worker()
            assert await old.terminate() == 0
            assert old.find("process.draining")
            assert {kinds[-1] for kinds in await asyncio.gather(*reading)} == {"response.completed"}
        assert {call.outcome for call in upstream.calls} == {"ended"}
        assert await check_left(cluster.redis) == 30


@pytest.mark.parametrize("growth_bytes", [0, MIB])  # it fails where bytes are read, or where they are kept
async def test_a_worker_that_may_have_no_more_memory(
    upstream: NamedUpstream, raw_client: RawMaker, growth_bytes: int
) -> None:
    """Whether it dies of it or goes on: what it runs fails with what was shown. Once it is replaced, all is as ever."""
    gate = asyncio.Event()
    upstream.plan("large", [*words("one "), wait(gate), *[send(chunk("x" * 100_000))] * 150, hang()])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        worker = await cluster.start_worker()
        async with streaming(raw, "large", background=True) as stream:
            seen = await read_until(stream, "response.output_text.delta")
        prevent_growth(worker, growth_bytes)
        await cluster.start_worker()
        gate.set()
        failed = await ended(raw, seen[0]["response"]["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert text_of(failed).startswith("one ")
        died = worker.child.returncode is not None
        assert died or "MemoryError" in str([worker.lines, worker.text])  # the fault
        await worker.kill()
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
        assert len(upstream.calls_of("large")) == 1
        assert await check_left(cluster.redis) == 2


def prevent_growth(process: Process, growth_bytes: int) -> None:
    """From now on it gets so much more address space and no more."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
    most_bytes = pages * resource.getpagesize() + growth_bytes
    resource.prlimit(process.pid, resource.RLIMIT_AS, (most_bytes, most_bytes))
