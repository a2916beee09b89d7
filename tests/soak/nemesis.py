"""Does what the plan of faults says, mends it after its time, and counts a fault only when it has hit."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from soak.plan import Fault
from soak.world import World
from support.cluster import FrontEnd, Process
from support.faults import PREFIX

DRAIN_S = 40.0
"""How long a process that was told to stop may take; the drain and the last words are within it."""
OWN_TIMEOUT_S = 2.0
Strike = Callable[["Nemesis", Fault], Awaitable[bool]]


class Nemesis:
    """Strikes *world*. A fault whose object is not there any more (another one took it) has not hit."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._redis_lock = asyncio.Lock()  # one fault of the whole server at a time
        self._frozen: set[Process] = set()

    async def run(self, plan: list[Fault], started: float) -> None:
        """Until all of *plan* is over and mended. *started*: the loop's time to which the plan's times are relative."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                await asyncio.sleep(max(0.0, started + fault.at_s - loop.time()))
                group.create_task(self._strike(fault, started))

    async def _strike(self, fault: Fault, started: float) -> None:
        try:
            hit = await STRIKES[fault.kind](self, fault)
        except (RedisError, OSError, TimeoutError):  # another fault was in its way
            hit = False
        self._world.faults[fault.kind] += hit
        over_s = asyncio.get_running_loop().time() - started
        self._world.struck.append(f"{fault.at_s:7.2f} to {over_s:7.2f} s  {fault.kind}{'' if hit else ' (missed)'}")

    def _choose(self, processes: list[Any], fault: Fault) -> Any:
        """One that lives and is left alone, or ``None``."""
        alive = [each for each in processes if each.child.returncode is None and each not in self._frozen]
        return alive[int(fault.pick * len(alive))] if alive else None

    @contextlib.asynccontextmanager
    async def _own(self) -> AsyncIterator[Redis]:
        client = Redis.from_url(self._world.cluster.redis_url, socket_timeout=OWN_TIMEOUT_S)
        try:
            yield client
        finally:
            await client.aclose()

    async def _replace(self, process: Process) -> None:
        if isinstance(process, FrontEnd):
            await self._world.start_front_end(proxied=process.proxied)
        else:
            await self._world.start_worker(proxied=process.proxied)

    # processes

    async def kill(self, processes: list[Any], fault: Fault) -> bool:
        process = self._choose(processes, fault)
        if process is None:
            return False
        await process.kill()
        await self._replace(process)
        return process.child.returncode == -signal.SIGKILL

    async def freeze(self, processes: list[Any], fault: Fault) -> bool:
        process = self._choose(processes, fault)
        if process is None:
            return False
        self._frozen.add(process)
        process.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.lasts_s)
            stat = await asyncio.to_thread(Path(f"/proc/{process.pid}/stat").read_text)
            return stat.rpartition(")")[2].split()[0] == "T"
        finally:
            process.send(signal.SIGCONT)
            self._frozen.discard(process)

    async def stop(self, processes: list[Any], fault: Fault) -> bool:
        """Told to stop, and replaced at once, as in a deploy."""
        process = self._choose(processes, fault)
        if process is None:
            return False
        self._frozen.add(process)
        process.send(signal.SIGTERM)
        _, code = await asyncio.gather(self._replace(process), process.ended(DRAIN_S))
        return code == 0

    # Redis

    async def redis_killed(self, fault: Fault) -> bool:
        async with self._redis_lock:
            valkey = self._world.cluster.valkey
            await self._world.cluster.kill_valkey()
            await asyncio.sleep(fault.lasts_s)
            await self._world.cluster.start_valkey()
            return valkey.child.returncode == -signal.SIGKILL

    async def redis_frozen(self, fault: Fault) -> bool:
        async with self._redis_lock:
            return await self.freeze([self._world.cluster.valkey], fault)

    async def clients_cut(self, _: Fault) -> bool:
        async with self._own() as redis:
            return int(await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")) > 0

    async def subscribers_cut(self, _: Fault) -> bool:
        async with self._own() as redis:
            return int(await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")) > 0

    async def scripts_forgotten(self, _: Fault) -> bool:
        async with self._own() as redis:
            known = (await redis.info("memory"))["number_of_cached_scripts"]
            await redis.script_flush()
            return known > 0

    async def memory_full(self, fault: Fault) -> bool:
        async with self._redis_lock, self._own() as redis:
            before = await _refused(redis)
            await redis.config_set("maxmemory", 1)
            try:
                await asyncio.sleep(fault.lasts_s)
                return await _refused(redis) > before
            finally:
                await redis.config_set("maxmemory", 0)

    async def commands_paused(self, fault: Fault) -> bool:
        async with self._redis_lock, self._own() as redis:
            started = time.monotonic()
            await redis.execute_command("CLIENT", "PAUSE", int(fault.lasts_s * 1000), "ALL")
            async with Redis.from_url(
                self._world.cluster.redis_url, socket_timeout=fault.lasts_s + OWN_TIMEOUT_S
            ) as other:
                await other.ping()
            return time.monotonic() - started >= fault.lasts_s * 0.8

    async def publications_lost(self, _: Fault) -> bool:
        """What is published about running responses goes nowhere: nobody's inbox is on their records."""
        async with self._own() as redis:
            hits = 0
            for member in (await redis.zrange(f"{PREFIX}live", 0, -1))[:20]:
                key = f"{PREFIX}r:{member.decode()}"
                if await redis.hget(key, "inboxes") and await redis.hget(key, "status") == b"in_progress":
                    hits += await redis.eval(FORGET_INBOXES, 1, key)
            return hits > 0

    # the way to Redis, for one front end and one worker

    async def redis_blackholed(self, fault: Fault) -> bool:
        before = self._world.proxy.held
        return await self._through_proxy(self._world.proxy.hold, fault) and self._world.proxy.held > before

    async def redis_slow(self, fault: Fault) -> bool:
        before = self._world.proxy.delayed
        slow = random.Random(fault.pick).uniform(0.02, 0.3)
        return (
            await self._through_proxy(lambda: self._world.proxy.delay(slow), fault)
            and self._world.proxy.delayed > before
        )

    async def redis_refusing(self, fault: Fault) -> bool:
        before = self._world.proxy.refused
        return await self._through_proxy(self._world.proxy.refuse, fault) and self._world.proxy.refused > before

    async def _through_proxy(self, begin: Callable[[], None], fault: Fault) -> bool:
        begin()
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            self._world.proxy.heal()
        return True

    # the backend

    async def backend_failing(self, fault: Fault) -> bool:
        upstream = self._world.upstream
        before, upstream.failing = upstream.failed, random.Random(fault.pick)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            upstream.failing = None
        return upstream.failed > before


FORGET_INBOXES = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'inboxes', '')
return 1
"""


async def _refused(redis: Redis) -> int:
    """How many writes this server has refused for want of memory."""
    errors = await redis.info("errorstats")
    return int(errors.get("errorstat_OOM", {}).get("count", 0))


STRIKES: Mapping[str, Strike] = {
    "worker killed": lambda self, fault: self.kill(self._world.cluster.workers, fault),
    "worker frozen": lambda self, fault: self.freeze(self._world.cluster.workers, fault),
    "worker told to stop": lambda self, fault: self.stop(self._world.cluster.workers, fault),
    "front end killed": lambda self, fault: self.kill(self._world.cluster.front_ends, fault),
    "front end frozen": lambda self, fault: self.freeze(self._world.cluster.front_ends, fault),
    "front end told to stop": lambda self, fault: self.stop(self._world.cluster.front_ends, fault),
    "Redis killed": Nemesis.redis_killed,
    "Redis frozen": Nemesis.redis_frozen,
    "clients cut": Nemesis.clients_cut,
    "subscribers cut": Nemesis.subscribers_cut,
    "scripts forgotten": Nemesis.scripts_forgotten,
    "memory full": Nemesis.memory_full,
    "commands paused": Nemesis.commands_paused,
    "Redis blackholed": Nemesis.redis_blackholed,
    "Redis slow": Nemesis.redis_slow,
    "Redis refusing": Nemesis.redis_refusing,
    "publications lost": Nemesis.publications_lost,
    "backend failing": Nemesis.backend_failing,
}
