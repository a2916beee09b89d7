"""A deadline that moves with everything that comes: cheaper than a timer for each."""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls *over* once the deadline has passed. Its timer is left alone when the deadline moves away, and looks again when
    it runs out. Times are those of the loop; whoever made it closes it."""

    __slots__ = ("_loop", "_over", "_timer", "_when")

    def __init__(self, over: Callable[[], object]) -> None:
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._when: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> None:
        """It is so far from now."""
        self._when = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._when:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._when, self._look)

    def pause(self) -> None:
        """There is none, until the next ``within``."""
        self._when = None

    def _look(self) -> None:
        self._timer = None
        if self._when is None:
            return
        if self._loop.time() < self._when:
            self._timer = self._loop.call_at(self._when, self._look)
        else:
            self._when = None
            self._over()

    def close(self) -> None:
        """For good: whoever made it is held no more, and is freed without the garbage collector."""
        self._over = _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing() -> None:
    pass
