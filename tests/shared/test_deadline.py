"""A deadline that moves: it is over once, when it has passed, and not before."""

import asyncio
from collections.abc import Iterator

import pytest

from shared.deadline import Deadline

WAIT_S = 10.0


class Over:
    """When it was over, in the loop's time."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self._event.set()

    async def happened(self) -> float:
        async with asyncio.timeout(WAIT_S):
            await self._event.wait()
        return self.times[0]


@pytest.fixture
async def over() -> Over:
    return Over()


@pytest.fixture
async def deadline(over: Over) -> Iterator[Deadline]:
    made = Deadline(over)
    yield made
    made.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_it_is_over_when_it_has_passed(deadline: Deadline, over: Over) -> None:
    began = now()
    deadline.within(0.05)
    assert await over.happened() >= began + 0.05


async def test_it_moves_away(deadline: Deadline, over: Over) -> None:
    deadline.within(0.02)
    began = now()
    deadline.within(0.1)
    assert await over.happened() >= began + 0.1


async def test_it_comes_nearer(deadline: Deadline, over: Over) -> None:
    began = now()
    deadline.within(WAIT_S * 10)
    deadline.within(0.02)
    assert await over.happened() < began + WAIT_S


async def test_a_pause_puts_it_off(deadline: Deadline, over: Over) -> None:
    other = Over()
    later = Deadline(other)
    deadline.within(0.02)
    deadline.pause()
    later.within(0.1)
    await other.happened()
    assert over.times == []
    deadline.within(0.02)
    await over.happened()
    later.close()


async def test_it_is_over_once(deadline: Deadline, over: Over) -> None:
    other = Over()
    later = Deadline(other)
    deadline.within(0.01)
    later.within(0.1)
    await other.happened()
    assert len(over.times) == 1
    later.close()
