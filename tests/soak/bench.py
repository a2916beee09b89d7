"""What each figure plays on: a cluster of its own, a backend, and clients whose answers are judged."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fakes.upstream import full_text
from support.checker import Violation, check
from support.clients import RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import BROKEN, NamedUpstream, all_ended
from support.recorder import Recorder
from support.schemas import Json

Row = tuple[str, list[Violation]]
READING: set["asyncio.Task[None]"] = set()
"""Kept from being collected."""


class Bench:
    """A cluster, its backend, and clients that are recorded."""

    def __init__(self, cluster: Cluster, upstream: NamedUpstream, stack: AsyncExitStack) -> None:
        self.cluster, self.upstream, self.recorder = cluster, upstream, Recorder()
        self._stack = stack

    def client(self, front_end: int = 0, **headers: str) -> RawClient:
        headers = {"Authorization": "Bearer key", **headers}
        raw = RawClient(self.cluster.front_ends[front_end].origin, self.recorder, headers=headers)
        self._stack.push_async_callback(raw.close)
        return raw

    async def verdict(self, text: Callable[[str], str] | None = full_text) -> list[Violation]:
        """*text* as in `Rules`; without it no text is judged."""
        await all_ended(self.cluster.redis)
        return await check(self.recorder, self.cluster.redis, calls=self.upstream.calls_of, text=text)


@asynccontextmanager
async def bench(*, front_ends: int = 1, workers: int = 1, **env: str) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(NamedUpstream())
        config = chat_model(upstream.base_url)
        cluster = await stack.enter_async_context(
            running(env=env, config=config, front_ends=front_ends, workers=workers)
        )
        yield Bench(cluster, upstream, stack)


async def opened(raw: RawClient, text: str) -> "asyncio.Queue[Json | None]":
    """A new background stream; its events come into the queue, and ``None`` at its end."""
    events: asyncio.Queue[Json | None] = asyncio.Queue()

    async def read() -> None:
        body = {"model": "tiny", "input": text, "stream": True, "background": True}
        with suppress(*BROKEN):
            async with raw.stream("POST", "/v1/responses", json=body, timeout=None) as stream:
                async for event in stream.events():
                    events.put_nowait(event)
        events.put_nowait(None)

    task = asyncio.create_task(read())
    READING.add(task)
    task.add_done_callback(READING.discard)
    return events
