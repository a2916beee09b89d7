"""A connection to Redis that is subscribed to one channel: what is published there is handed on where it is read.

redis-py's way takes a task, several awaits and a timer for each message.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.store.commands import Line, dial, pack

OnMessage = Callable[[bytes], None]


class Inbox(Line):
    """Beside messages it takes the replies to what may still be sent: ``SUBSCRIBE`` and ``PING``."""

    def __init__(self, on_message: OnMessage, answer_s: float) -> None:
        super().__init__(answer_s)
        self._on_message = on_message
        self._lost: asyncio.Future[None] = self._loop.create_future()

    def _take(self, answer: Any) -> None:
        if isinstance(answer, list) and answer[0] == b"message":
            self._on_message(answer[2])
        else:
            super()._take(answer)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self._lost.done():
            self._lost.set_result(None)

    async def watch(self, silence_s: float, answer_s: float) -> NoReturn:
        """Until it is lost: who said nothing for *silence_s* is asked, and has *answer_s* to answer. Raises redis-py's
        ``ConnectionError``, or ``TimeoutError``."""
        while not self._lost.done():
            left_s = self._heard + silence_s - self._loop.time()
            if left_s <= 0:
                async with asyncio.timeout(answer_s):
                    await self.send(pack("PING"))
            else:
                await asyncio.wait([self._lost], timeout=left_s)
        raise self._fault or RedisConnectionError("The connection to Redis was lost")


async def subscribe(pool: ConnectionPool, channel: str, on_message: OnMessage) -> Inbox:
    """A subscription to *channel* of the server of *pool*; whoever has it aborts it."""
    inbox = await dial(pool, lambda answer_s: Inbox(on_message, answer_s))
    try:
        if not inbox.open:  # what is asked now, nobody would answer or give up
            raise RedisConnectionError("The connection to Redis was lost")
        await inbox.send(pack("SUBSCRIBE", channel))
    except BaseException:
        inbox.abort()
        raise
    return inbox
