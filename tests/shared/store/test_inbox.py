"""A subscription on a real Valkey, and how its loss is noticed."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.store.inbox import subscribe

WAIT_S = 5.0


async def test_an_inbox_that_is_lost_already_is_not_asked_in_vain(redis: Redis) -> None:
    """As after a freeze: it was silent for long, and the end of its connection was seen first."""
    inbox = await subscribe(redis.connection_pool, "here", lambda _: None)
    assert await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
    async with asyncio.timeout(WAIT_S):
        while inbox.open:  # noqa: ASYNC110 - nobody signals it
            await asyncio.sleep(0)
        with pytest.raises(RedisConnectionError):
            await inbox.watch(silence_s=0, answer_s=60)
