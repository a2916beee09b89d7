"""Tasks are ended, also those that overhear it the first time."""

import asyncio

import pytest

from shared.tasks import end


async def test_a_lost_cancellation_is_repeated() -> None:
    heard = 0

    async def deaf() -> None:
        nonlocal heard
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard += 1
                if heard == 3:
                    raise

    async def ready() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(ready())]
    await asyncio.sleep(0)  # they begin
    async with asyncio.timeout(5):
        await end(*tasks)
    assert heard == 3
    assert all(task.cancelled() for task in tasks)


async def test_what_is_over_stays_as_it_is() -> None:
    async def fail() -> None:
        raise ValueError("over")

    task = asyncio.create_task(fail())
    with pytest.raises(ValueError, match="over"):
        await task
    await end(task)
    await end()
    assert isinstance(task.exception(), ValueError)
