"""`respool doctor`, `requeue` and `drain`, as an operator runs them, on real processes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.upstream import wait
from support.clients import RawClient
from support.cluster import ROOT, Cluster, chat_model, running
from support.faults import NamedUpstream, check_left, create, ended, read_until, streaming, text_of, then, words

RawMaker = Callable[[str], RawClient]
PREFIX = "rs:{00}:"
QUEUE = "arq:queue:{00}:background"
SOON_S = 20.0
OPEN = asyncio.Event()
OPEN.set()
STOPPED_LEASE = {"RESPOOL_LEASE_S": "2", "RESPOOL_RENEW_S": "0.5"}


async def start(redis_url: str, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
    url = {"REDIS_URL": redis_url} if redis_url else {}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.cli", *arguments,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **url, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def finish(child: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Exit code and what was said on both outputs."""
    async with asyncio.timeout(SOON_S):
        out, err = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


async def respool(redis_url: str, *arguments: str, **environ: str) -> tuple[int, str, str]:
    return await finish(await start(redis_url, *arguments, **environ))


async def troubles(cluster: Cluster, **environ: str) -> dict[str, dict[str, Any]]:
    """What the doctor says, by kind; its exit code fits."""
    code, out, err = await respool(cluster.redis_url, "doctor", "--json", **environ)
    found = json.loads(out)
    assert code == min(len(found), 1), err
    return {row["what"]: row for row in found}


async def until(
    true: Callable[[dict[str, dict[str, Any]]], bool], cluster: Cluster, **environ: str
) -> dict[str, dict[str, Any]]:
    async with asyncio.timeout(SOON_S):
        while True:
            found = await troubles(cluster, **environ)
            if true(found):
                return found


async def test_the_doctor_finds_a_healthy_service_well(raw_client: RawMaker) -> None:
    async with running() as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        await ended(raw, (await create(raw, "hello", model="echo"))["id"])
        assert await until(lambda found: not found, cluster) == {}
        code, out, _ = await respool(cluster.redis_url, "doctor")
        assert (code, out) == (0, "all is well\n")


async def test_the_doctor_finds_what_is_stuck(raw_client: RawMaker, upstream: NamedUpstream) -> None:
    async with running(workers=0, config=chat_model(upstream.base_url), env=STOPPED_LEASE) as cluster:
        raw, redis = raw_client(cluster.front_ends[0].origin), cluster.redis
        lost_id, old_id = [(await create(raw, text))["id"] for text in ("lost", "old")]
        gone = "resp_00gone"
        await redis.zrem(QUEUE, f"{{00}}:{lost_id}")  # in neither queue nor lease
        await redis.zadd(QUEUE, {f"{{00}}:{gone}": 1})  # an entry without a record
        await redis.hincrbyfloat(f"{PREFIX}r:{old_id}", "waits", -70_000)
        found = await troubles(cluster)
        assert {"no_workers", "unqueued", "stray_entry", "queued_long"} <= set(found)
        assert found["unqueued"]["about"] == lost_id
        assert "as soon as a worker runs" in found["unqueued"]["message"]
        assert found["stray_entry"]["about"] == gone
        assert found["queued_long"]["about"] == old_id
        assert (await troubles(cluster, RESPOOL_MAX_QUEUE_S="60"))["queued_too_long"]["about"] == old_id
        assert "queue_full" in await troubles(cluster, RESPOOL_MAX_QUEUE="2")
        used = int((await redis.info("memory"))["used_memory"])
        await redis.config_set("maxmemory", int(used / 0.8))
        assert "of its maxmemory" in (await troubles(cluster))["memory"]["message"]
        await redis.config_set("maxmemory", 0)
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        assert "noeviction" in (await troubles(cluster))["redis"]["message"]


async def test_the_doctor_finds_a_frozen_worker(raw_client: RawMaker, upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("runs", [*words("one "), *then(gate, "two")])
    async with running(config=chat_model(upstream.base_url), env=STOPPED_LEASE) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "runs") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            response_id = seen[0]["response"]["id"]
            cluster.workers[0].send(signal.SIGSTOP)
            found = await until(lambda found: "lease_over" in found, cluster)
            assert found["lease_over"]["about"] == response_id
            assert "partial output" in found["lease_over"]["message"]
            await cluster.workers[0].kill()
            found = await troubles(cluster)
            assert {"no_workers", "lease_over"} == set(found)
            await cluster.start_worker()
            rest = [event async for event in stream.events()]
            assert rest[-1]["type"] == "response.failed"  # as was foretold
        await until(lambda found: not found, cluster)
        assert await check_left(cluster.redis) == 1


async def test_the_doctor_says_when_redis_is_away(tmp_path: Path) -> None:
    code, _, err = await respool(f"unix://{tmp_path}/none.sock", "doctor")
    assert code == 69
    assert "Redis" in err
    code, _, err = await respool("", "doctor", "--data", str(tmp_path))
    assert code == 78
    assert "respool up" in err


async def test_a_hanging_response_is_requeued(raw_client: RawMaker, upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("hangs", [wait(gate)], [*words("done"), *then(OPEN)])
    async with running(config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response = await create(raw, "hangs")
        await upstream.arrived("hangs")
        code, out, err = await respool(cluster.redis_url, "requeue", response["id"])
        assert (code, out) == (0, f"{response['id']}: it waits in its queue again\n"), err
        await upstream.given_up("hangs")  # the old run was stopped, although the same worker runs it again
        await cluster.workers[0].logged("response.dropped", response_id=response["id"])
        assert text_of(await ended(raw, response["id"])).startswith("done")
        code, _, err = await respool(cluster.redis_url, "requeue", response["id"])
        assert code == 1
        assert "it has ended (completed)" in err
        assert "no id" in (await respool(cluster.redis_url, "requeue", "resp_x"))[2]
        assert await check_left(cluster.redis) == 1


async def test_what_was_seen_is_not_requeued(raw_client: RawMaker, upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("runs", [*words("one "), *then(gate, "two")])
    async with running(config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "runs") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            code, _, err = await respool(cluster.redis_url, "requeue", seen[0]["response"]["id"])
            assert code == 1
            assert "seen its output" in err
            gate.set()
            rest = [event async for event in stream.events()]
        assert rest[-1]["type"] == "response.completed"  # nothing has changed


async def test_workers_drain_when_they_are_asked(raw_client: RawMaker, upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("runs", [*words("one "), *then(gate, "two")])
    async with running(workers=1, config=chat_model(upstream.base_url)) as cluster:
        raw, url = raw_client(cluster.front_ends[0].origin), cluster.redis_url
        async with streaming(raw, "runs") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            first, second = cluster.workers[0], await cluster.start_worker()
            name = (await first.logged("process.started"))["process"]
            code, out, err = await respool(url, "drain", name)
            assert (code, out) == (0, f"{name} drains\n"), err
            later = [await create(raw, "echo", model="echo") for _ in range(3)]
            for response in later:
                await second.logged("response.settled", response_id=response["id"])  # the first one takes nothing new
            waiting = await start(url, "drain", name, "--wait")
            assert waiting.stdout is not None
            assert await waiting.stdout.readline() == f"{name} drains\n".encode()
            gate.set()
            seen += [event async for event in stream.events()]
        assert seen[-1]["type"] == "response.completed"
        code, out, err = await finish(waiting)
        assert (code, out) == (0, f"{name} has exited\n"), err
        assert await first.ended() == 0
        assert len(first.find("process.draining")) == 1  # asked again and again, it is no second signal
        code, _, err = await respool(url, "drain", "w-none")
        assert code == 1
        assert "no worker is called w-none; there are: w-" in err
        assert (await respool(url, "drain", "--wait"))[0] == 0
        assert await second.ended() == 0
        code, _, err = await respool(url, "drain")
        assert code == 1
        assert "no worker runs" in err


async def test_what_is_new_waits_while_the_only_worker_drains(raw_client: RawMaker, upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("runs", [*words("one "), *then(gate, "two")])
    async with running(config=chat_model(upstream.base_url)) as cluster:
        raw, worker = raw_client(cluster.front_ends[0].origin), cluster.workers[0]
        runs = await create(raw, "runs")
        await upstream.arrived("runs")
        assert (await respool(cluster.redis_url, "drain"))[0] == 0
        new = await create(raw, "new", model="echo")
        gate.set()
        assert text_of(await ended(raw, runs["id"])) == "one two"
        assert await worker.ended() == 0
        assert (await raw.get("/ready")).status == 200  # nothing is refused
        assert (await raw.get(f"/v1/responses/{new['id']}")).json()["status"] == "queued"
        await cluster.start_worker()
        assert (await ended(raw, new["id"]))["status"] == "completed"
        assert await check_left(cluster.redis) == 2


async def test_a_frozen_worker_does_not_follow(raw_client: RawMaker) -> None:
    async with running(front_ends=0) as cluster:
        await cluster.workers[0].logged("hub.connected")
        cluster.workers[0].send(signal.SIGSTOP)
        code, _, err = await respool(cluster.redis_url, "drain")
        assert code == 1
        assert "has not followed" in err
