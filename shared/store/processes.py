"""The processes that live now. Their list is that of the inboxes that somebody reads: it needs no key, and no clean-up."""

import os
import secrets
import socket

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.errors import StoreUnavailable
from shared.store.redis import LOST, inbox_channel

Heartbeats = dict[str, dict[str, bytes]]
HEARTBEATS = {"w-": "rs:w:", "f-": "rs:f:"}
"""What the names of workers and front ends begin with, and where their heartbeats are."""
MARK = "RESPOOL_PROCESS_MARK"
"""The variable by which a parent tells a process with what its name is to end, so that the parent knows it by that."""


def own_name(letter: str) -> str:
    """What this process is called among all others. *letter*: ``w`` or ``f``. Host and number are for people: what tells it from
    others is the mark at the end, since the processes of two containers, say, may well have the rest in common."""
    return f"{letter}-{socket.gethostname()[:24]}-{os.getpid()}-{os.environ.get(MARK) or secrets.token_hex(8)}"


def mark_of(process: str) -> str:
    return process.rpartition("-")[2]


def heartbeat_key(process: str) -> str:
    return f"{HEARTBEATS[process[:2]]}{process}"


async def living(client: Redis) -> Heartbeats:
    """The heartbeat of each process that listens; empty for one that listens but is silent (frozen, say, or at
    maxmemory). Raises ``StoreUnavailable``."""
    try:
        channels = [channel.decode() for channel in await client.pubsub_channels(inbox_channel("*"))]
        names = sorted(channel.removeprefix(inbox_channel("")) for channel in channels)
        names = [name for name in names if name[:2] in HEARTBEATS]
        async with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(heartbeat_key(name))
            rows = await pipe.execute()
    except (RedisError, *LOST) as error:
        raise StoreUnavailable(f"Redis failed: {type(error).__name__}") from error
    return {
        name: {field.decode(): value for field, value in row.items()} for name, row in zip(names, rows, strict=True)
    }


async def ask_to_drain(client: Redis, process: str) -> None:
    """The message may be lost: ask again until its heartbeat says ``draining``. Raises ``StoreUnavailable``."""
    try:
        await client.publish(inbox_channel(process), b"d - 0 0 0\n\n")
    except (RedisError, *LOST) as error:
        raise StoreUnavailable(f"Redis failed: {type(error).__name__}") from error
