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
from support.faults import NamedUpstream, check_left, create, ended, read_until, streaming, then, words

RawMaker = Callable[[str], RawClient]
PREFIX = "rs:{00}:"
QUEUE = "arq:queue:{00}:background"
SOON_S = 20.0
STOPPED_LEASE = {"RESPOOL_LEASE_S": "2", "RESPOOL_RENEW_S": "0.5"}


async def respool(redis_url: str, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code and what was said on both outputs."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        **({"REDIS_URL": redis_url} if redis_url else {}),
        **environ,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.cli", *arguments, env=env,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(SOON_S):
        out, err = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


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


def gated(upstream: NamedUpstream, name: str) -> asyncio.Event:
    """A backend's answer that waits for the gate before its first byte."""
    gate = asyncio.Event()
    upstream.plan(name, [wait(gate), *words("done")], [*words("done"), *then(gate)])
    return gate


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
