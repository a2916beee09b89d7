"""A cluster that many tests share: it lives on an event loop of its own, in a thread, whatever loops the tests use."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from support.cluster import Cluster, Process, running

CALL_TIMEOUT_S = 40.0

T = TypeVar("T")


class ClusterThread:
    """``with ClusterThread(...)`` takes the options of ``support.cluster.running``."""

    cluster: Cluster

    def __init__(self, **options: Any) -> None:
        self._context = running(**options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.cluster = self._call(self._context.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def origin(self) -> str:
        return self.cluster.front_ends[0].origin

    async def logged(self, process: Process, event: str, **options: Any) -> dict[str, Any]:
        """``process.logged(...)``, from the loop of a test."""
        return await self._ask(process.logged(event, **options))

    async def settled(self, response_id: str) -> dict[str, Any]:
        """What the worker that settled the response says about it, as soon as one has."""
        return await self._ask(_settled(self.cluster, response_id))

    async def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)


async def _settled(cluster: Cluster, response_id: str) -> dict[str, Any]:
    waiting = [worker.logged("response.settled", response_id=response_id) for worker in cluster.workers]
    tasks = [asyncio.create_task(each) for each in waiting]
    done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return done.pop().result()
