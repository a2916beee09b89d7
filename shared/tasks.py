"""Ending tasks, and processes, for good."""

import asyncio
import os
from typing import Any, NoReturn

import structlog

AGAIN_S = 0.1
EXIT_STARVED = 70

log = structlog.get_logger()


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel *tasks* and wait until they are over.

    A single cancel is not enough: while a connection is being made, the Redis client can lose it (seen: one in three when
    a process is stopped the moment it is up), and a loop that goes on after errors would never end.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=AGAIN_S)


def die_starved() -> NoReturn:
    """The end of a process that has no memory left: whatever it did now could be wrong, and its leases tell the others."""
    try:
        log.critical("process.starved")
    finally:  # there may be none to say it with
        os._exit(EXIT_STARVED)
