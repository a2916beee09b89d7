"""Ending tasks for good."""

import asyncio
from typing import Any

AGAIN_S = 0.1


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
