"""The append-only file of the embedded Valkey is made small when it has doubled, by a process of the lowest priority.

Valkey would start that by itself, but at its own priority: with two processors and 500 streams, words came 50 to 80 ms late
for a second. What it does by itself stays as a fallback: for larger files, and behind a rewrite that failed, as it knows how
to wait then. (Where the kernel groups processes by session and no cgroup counts, the child gives way to Valkey alone.)
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.store.redis import LOST

LOOK_S = 1.0
LEAST_BYTES = 192 << 20
FALLBACK = {"auto-aof-rewrite-min-size": "256mb", "auto-aof-rewrite-percentage": "200"}
"""When Valkey does it by itself."""
LOWEST_PRIORITY = 19

log = structlog.get_logger()


async def rewrite_gently(url: str, valkey: Callable[[], int | None], least_bytes: int = LEAST_BYTES) -> None:
    """For ever. *valkey* tells its process id, while it runs."""
    async with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=1) as client:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if is_due(await client.info("persistence"), least_bytes):
                    await client.bgrewriteaof()  # its process is there when it has answered
                for child in children_of(valkey()):
                    os.setpriority(os.PRIO_PROCESS, child, LOWEST_PRIORITY)
            except (RedisError, *LOST):  # Valkey or the child has ended; who needs it will say so
                pass
            except Exception:  # whatever Redis answered: the next look may fare better
                log.exception("rewriting.failed")


def is_due(persistence: Mapping[str, Any], least_bytes: int) -> bool:
    """*persistence* is that part of ``INFO``."""
    size_bytes, base_bytes = persistence.get("aof_current_size", 0), persistence.get("aof_base_size", 0)
    rests = not persistence["aof_rewrite_in_progress"] and persistence["aof_last_bgrewrite_status"] == "ok"
    return bool(rests and size_bytes >= max(least_bytes, 2 * base_bytes))


def children_of(parent: int | None) -> Iterator[int]:
    """None where there is no /proc."""
    for thread in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            yield from map(int, thread.read_text().split())
