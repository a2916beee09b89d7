"""The watchdog on real workers, look by look, so that nothing waits for its limit."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.children import Child
from shared.store.processes import HEARTBEATS, heartbeat_key, living, mark_of
from shared.store.redis import inbox_channel
from shared.watchdog import Watchdog

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0
LIMIT = 4  # looks
WORKER = (sys.executable, "-m", "worker")
SILENT = (sys.executable, "-c", "import signal; signal.pause()")


class Kept:
    """A child that is kept alive, and how it ended each time."""

    def __init__(self, url: str, command: tuple[str, ...]) -> None:
        self.ends: asyncio.Queue[int] = asyncio.Queue()
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "REDIS_URL": url, "LOG_LEVEL": "error"}
        self.child = Child("worker", command, environ, lambda _, code: self.ends.put_nowait(code))

    async def signed(self, redis: Redis) -> str:
        """Wait for its sign of life; the key of it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for name, fields in (await living(redis)).items():
                    if fields and mark_of(name) == self.child.mark:
                        return heartbeat_key(name)
                await asyncio.sleep(0.02)  # between two looks


@asynccontextmanager
async def kept(url: str, *commands: tuple[str, ...]) -> AsyncIterator[list[Kept]]:
    children = [Kept(url, command) for command in commands]
    try:
        yield children
    finally:
        hurry = asyncio.Event()
        hurry.set()
        for each in children:
            if each.child.pid is not None:
                os.kill(each.child.pid, signal.SIGCONT)
        await asyncio.gather(*(each.child.stop(WAIT_S, hurry) for each in children))


@pytest.fixture
async def plain(valkey: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey) as client:
        yield client


async def freeze(kept: Kept, redis: Redis) -> int:
    """Stop it, and let its sign of life run out at once; its process id."""
    key, pid = await kept.signed(redis), kept.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await redis.delete(key)
    return pid


async def looks(watchdog: Watchdog, count: int) -> list[Child]:
    """So many; who was killed."""
    return [child for _ in range(count) for child in await watchdog.look()]


async def killed(kept: Kept) -> int:
    async with asyncio.timeout(WAIT_S):
        return await kept.ends.get()


async def test_who_is_silent_for_too_long_is_killed_and_nobody_else(valkey: str, plain: Redis) -> None:
    async with kept(valkey, WORKER, WORKER, SILENT) as (frozen, fine, starting):
        watchdog = Watchdog(valkey, [frozen.child, fine.child, starting.child], LIMIT)
        await asyncio.gather(frozen.signed(plain), fine.signed(plain))
        assert await looks(watchdog, 2 * LIMIT) == []
        await freeze(frozen, plain)
        assert await looks(watchdog, LIMIT - 1) == []
        assert await looks(watchdog, 3) == [frozen.child]
        assert await killed(frozen) == -signal.SIGKILL
        await frozen.signed(plain)  # it is started again
        assert await looks(watchdog, 2 * LIMIT) == []
        assert (frozen.child.runs, fine.child.runs, starting.child.runs) == (2, 1, 1)


async def test_who_signs_again_begins_anew(valkey: str, plain: Redis) -> None:
    async with kept(valkey, WORKER) as (worker,):
        watchdog = Watchdog(valkey, [worker.child], LIMIT)
        await worker.signed(plain)
        for _ in range(3):
            await watchdog.look()
            pid = await freeze(worker, plain)
            assert await looks(watchdog, LIMIT - 1) == []
            os.kill(pid, signal.SIGCONT)
            await worker.signed(plain)
        assert await looks(watchdog, LIMIT) == []


@asynccontextmanager
async def silent(redis: Redis) -> AsyncIterator[None]:
    pid = (await redis.info("server"))["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def limited(setting: str) -> Callable[[Redis], Awaitable[None]]:
    @asynccontextmanager
    async def limit(redis: Redis) -> AsyncIterator[None]:
        before = (await redis.config_get(setting))[setting]
        await redis.config_set(setting, 1)
        try:
            yield
        finally:
            await redis.config_set(setting, before)

    return limit


@pytest.mark.parametrize(
    "unwell", [silent, limited("maxmemory"), limited("maxclients")], ids=["silent", "full", "takes no more clients"]
)
async def test_while_nobody_can_sign_nobody_is_silent(valkey: str, plain: Redis, unwell: Callable) -> None:
    """One look without a Redis that is well is enough to begin anew."""
    async with kept(valkey, WORKER) as (worker,):
        watchdog = Watchdog(valkey, [worker.child], LIMIT)
        await worker.signed(plain)
        await watchdog.look()
        await freeze(worker, plain)
        assert await looks(watchdog, LIMIT - 1) == []
        async with unwell(plain):
            assert await watchdog.look() == []
        assert await looks(watchdog, LIMIT - 1) == []
        assert await watchdog.look() == [worker.child]
        assert await killed(worker) == -signal.SIGKILL


async def test_a_stranger_of_the_same_host_name_and_number_is_not_taken_for_a_child(valkey: str, plain: Redis) -> None:
    """Two containers may have both in common: whose name sorts where, and when the stranger goes, must not matter."""
    async with kept(valkey, WORKER) as (worker,), plain.pubsub() as strangers:
        key = await worker.signed(plain)
        before, _, _ = key.removeprefix(HEARTBEATS["w-"]).rpartition("-")
        names = [f"{before}-{digit * 16}" for digit in "0f"]
        for name in names:
            await strangers.subscribe(inbox_channel(name))
            await strangers.get_message(timeout=WAIT_S)  # it listens
            await plain.hset(heartbeat_key(name), "held", "0")
        watchdog = Watchdog(valkey, [worker.child], LIMIT)
        assert await looks(watchdog, LIMIT) == []
        await strangers.unsubscribe()
        await plain.delete(*map(heartbeat_key, names))
        assert await looks(watchdog, 2 * LIMIT) == []
        assert worker.child.runs == 1
        await freeze(worker, plain)
        assert await looks(watchdog, LIMIT) == [worker.child]


async def test_a_child_is_known_by_its_mark_which_each_start_has_anew(valkey: str, plain: Redis) -> None:
    async with kept(valkey, WORKER) as (worker,):
        first = await worker.signed(plain)
        assert mark_of(first) == worker.child.mark
        worker.child.kill()
        await killed(worker)
        again = await worker.signed(plain)
        assert mark_of(again) == worker.child.mark != mark_of(first)
