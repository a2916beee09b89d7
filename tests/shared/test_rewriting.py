"""The append-only file of a real Valkey, made small by a process that gives way."""

import asyncio
import os
import sys

import pytest
from redis.asyncio import Redis

from shared.rewriting import LOWEST_PRIORITY, children_of, is_due, rewrite_gently
from shared.tasks import end
from support.faults import until

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "base", "rewriting", "last", "due"),
    [
        (9, 0, 0, "ok", False), (10, 0, 0, "ok", True), (19, 10, 0, "ok", False), (20, 10, 0, "ok", True), (20, 10, 1, "ok", False),
        (20, 10, 0, "err", False),
    ],
)  # fmt: skip
def test_when_it_is_due(size: int, base: int, rewriting: int, last: str, *, due: bool) -> None:
    found = {
        "aof_current_size": size, "aof_base_size": base, "aof_rewrite_in_progress": rewriting, "aof_last_bgrewrite_status": last,
    }  # fmt: skip
    assert is_due(found, 10) == due


def test_a_server_without_the_file_has_nothing_to_rewrite() -> None:
    assert not is_due({"aof_rewrite_in_progress": 0, "aof_last_bgrewrite_status": "ok"}, 10)


async def rewritten(redis: Redis) -> int:
    """Wait until no rewriting goes on; how large the file was when it had just been made."""

    async def rests() -> bool:
        return not (await redis.info("persistence"))["aof_rewrite_in_progress"]

    await until(rests)
    return int((await redis.info("persistence"))["aof_base_size"])


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of children are found in /proc")
async def test_it_is_made_small_at_the_lowest_priority(redis: Redis, valkey: str) -> None:
    await redis.config_set("appendonly", "yes")
    before = await rewritten(redis)
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(3000):
            pipe.set(f"k{number}", "x" * 1000)
        await pipe.execute()
    await redis.config_set("rdb-key-save-delay", 1000)  # microseconds: so that it can be seen at work
    pid = (await redis.info("server"))["process_id"]
    task = asyncio.create_task(rewrite_gently(valkey, lambda: pid, MIB))

    async def gives_way() -> bool:
        return LOWEST_PRIORITY in [os.getpriority(os.PRIO_PROCESS, child) for child in children_of(pid)]

    try:
        await until(gives_way)
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
        await redis.config_set("rdb-key-save-delay", 0)
        assert await rewritten(redis) > before
    finally:
        await end(task)
        await redis.config_set("rdb-key-save-delay", 0)
        await redis.config_set("appendonly", "no")
