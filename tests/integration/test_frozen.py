"""`respool up` with real processes, of which one is frozen: it is killed, and what follows a death follows."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from fakes.upstream import hang
from shared.store.processes import heartbeat_key, living
from shared.watchdog import OWN_SIGN
from support.clients import RawClient
from support.cluster import ROOT, START_S, Cluster, Process, running
from support.faults import (
    SHORT_LEASE,
    WAIT_S,
    NamedUpstream,
    Watch,
    create,
    ended,
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

RawMaker = Callable[[str], RawClient]
UP = """
import asyncio, os, sys
from shared import logs
from shared.config import load_settings
from shared.supervisor import Supervisor
logs.configure("info", "json", room="up")
async def main():
    return await Supervisor(load_settings(os.environ, None), os.environ, silence_s=float(sys.argv[1]), say=print).run()
sys.exit(asyncio.run(main()))
"""


class Up(Process):
    """It logs what its children log, too."""

    origin = ""

    async def pid_of(self, name: str) -> int:
        return (await self.logged("child.started", child=name))["pid"]


@asynccontextmanager
async def up(upstream: NamedUpstream, silence_s: float) -> AsyncIterator[tuple[Cluster, Up]]:
    """On a Valkey that is not its own, so that this can be away; as far as its watchdog watches."""
    async with running(front_ends=0, workers=0) as cluster:
        environ = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "LOG_FORMAT": "json",
            "REDIS_URL": cluster.redis_url, "PORT": "0", "OPENAI_BASE_URL": upstream.base_url, **SHORT_LEASE,
        }  # fmt: skip
        process = Up(
            "up",
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", UP, str(silence_s), env=environ, cwd=cluster.folder,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 20,
            ),
        )  # fmt: skip
        cluster.processes.append(process)
        started = await process.logged("process.started", room="api", timeout_s=START_S)
        await process.logged("process.started", room="worker", timeout_s=START_S)
        process.origin = f"http://127.0.0.1:{started['address'][1]}"
        await until(lambda: all_sign(cluster))
        await cluster.redis.delete(OWN_SIGN)  # the watchdog writes it ahead of each look: now it knows them all
        await until(lambda: watched(cluster))
        yield cluster, process


async def all_sign(cluster: Cluster) -> bool:
    signs = await living(cluster.redis)
    return len(signs) == 2 and all(signs.values())


async def watched(cluster: Cluster) -> bool:
    return bool(await cluster.redis.exists(OWN_SIGN))


async def forget(cluster: Cluster, *pids: int) -> None:
    """What 10 s without a sign of life do."""
    for name in await living(cluster.redis):
        if int(name.split("-")[-2]) in pids:
            await cluster.redis.delete(heartbeat_key(name))


async def test_the_only_worker_is_frozen_in_mid_stream(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    upstream.plan("x", [*words("one ", "two "), hang()])
    async with up(upstream, silence_s=2) as (cluster, process):
        raw, pid = raw_client(process.origin), await process.pid_of("worker")
        async with streaming(raw, "x") as stream:
            await read_until(stream, "response.output_text.delta", 2)
            os.kill(pid, signal.SIGSTOP)
            await forget(cluster, pid)
            async with asyncio.timeout(WAIT_S):
                rest = [event async for event in stream.events()]
        assert (rest[-1]["type"], text_of(rest[-1]["response"])) == ("response.failed", "one two ")
        assert process.find("child.frozen", child="worker", pid=pid, level="error")
        assert process.find("child.exited", child="worker", pid=pid, exit_code=-signal.SIGKILL)
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
        assert len(process.find("child.frozen")) == 1


async def test_a_front_end_is_frozen_in_mid_stream(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with up(upstream, silence_s=2) as (cluster, process):
        raw, pid = raw_client(process.origin), await process.pid_of("api")
        async with streaming(raw, "x", background=True) as stream:
            seen = await read_until(stream, "response.output_text.delta")
            os.kill(pid, signal.SIGSTOP)
            await forget(cluster, pid)
            async with asyncio.timeout(WAIT_S):
                seen += await read_on(stream)  # it is cut
        assert process.find("child.frozen", child="api", pid=pid)
        await process.logged("hub.connected", room="api", count=2, timeout_s=START_S)
        gate.set()
        response_id = seen[0]["response"]["id"]
        seen += await resume(raw, response_id, seen[-1]["sequence_number"])
        assert numbers_of(seen) == list(range(len(seen)))
        assert (seen[-1]["type"], text_of(seen[-1]["response"])) == ("response.completed", "one two")
        assert len(process.find("child.frozen")) == 1


@pytest.mark.parametrize("way", ["frozen", "restarted"])
async def test_a_redis_that_is_away_kills_nobody(upstream: NamedUpstream, raw_client: RawMaker, way: str) -> None:
    gate, silence_s = asyncio.Event(), 5.0
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with up(upstream, silence_s) as (cluster, process):
        raw = raw_client(process.origin)
        pids = [await process.pid_of(name) for name in ("api", "worker")]
        async with streaming(raw, "x") as stream:
            await read_until(stream, "response.output_text.delta")
            away = Watch()
            if way == "frozen":
                cluster.valkey.send(signal.SIGSTOP)
            else:
                await cluster.kill_valkey()
            count = 0
            while away.seconds <= silence_s + 2:
                count += 1
                await process.logged("redis.unavailable", room="api", count=count)
            if way == "frozen":
                cluster.valkey.send(signal.SIGCONT)
            else:
                await cluster.start_valkey()
            await forget(cluster, *pids)
            await until(lambda: all_sign(cluster))
            gate.set()
            rest = [event async for event in stream.events()]
        assert (rest[-1]["type"], text_of(rest[-1]["response"])) == ("response.completed", "one two")
        assert process.find("child.frozen") == process.find("child.exited") == []
