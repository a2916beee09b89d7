"""Which backend of a model is asked, and in what order. Pure: time and chance are arguments.

Each worker judges by what it has met itself: a backend that is down costs each worker ``BREAK_AFTER`` calls, and no
call a round trip.

    closed --BREAK_AFTER failures in a row--> open --its time is over--> half open (one call) --answered--> closed
                                               ^-------------------------- failed: twice the time -----|
A circuit only turns calls to other backends: where there is none, an open one is asked all the same. A ``Retry-After``
keeps a backend from being asked for so long, whatever its state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.errors import UpstreamError
from shared.settings import ModelRow

BREAK_AFTER = 5
FIRST_OPEN_S, LAST_OPEN_S = 5.0, 120.0


@dataclass(slots=True)
class Health:
    """Of one backend. Times are monotonic seconds."""

    failures: int = 0
    rests_until: float = 0.0
    """It has asked for time."""
    open_until: float = 0.0
    open_s: float = 0.0
    """How long it was open last; 0 when it is closed."""
    probing: bool = False

    def takes(self, now: float) -> bool:
        """Whether it is asked before others."""
        return now >= self.rests_until and now >= self.open_until and not self.probing

    def asked(self) -> None:
        self.probing = self.open_s > 0

    def answered(self) -> None:
        self.failures, self.rests_until, self.open_until, self.open_s, self.probing = 0, 0.0, 0.0, 0.0, False

    def dropped(self) -> None:
        """The call was given up by us: it says nothing about the backend."""
        self.probing = False

    def failed(self, error: UpstreamError, now: float) -> bool:
        """Note a failure. True when the circuit has opened because of it: calls that end while it is open, because they were
        under way or there was nobody else to ask, change nothing."""
        was_probe, self.probing = self.probing, False
        if error.retry_after_s is not None:
            self.rests_until = max(self.rests_until, now + error.retry_after_s)
        if error.code == "rate_limit_exceeded" or not error.elsewhere:  # it lives
            return False
        self.failures += 1
        if now < self.open_until or (not was_probe and self.failures < BREAK_AFTER):
            return False
        self.open_s = min(max(2 * self.open_s, FIRST_OPEN_S), LAST_OPEN_S)
        self.open_until = now + self.open_s
        return True


def plan_order(targets: Sequence[ModelRow], chance: Callable[[], float], *, sticky: str = "") -> list[ModelRow]:
    """All of *targets*: *sticky* (a backend's name) first, then by ``fallback``, and among equals by chance, so that the
    first ones are shared by weight."""
    if len(targets) == 1:
        return [*targets]

    def key(row: ModelRow) -> tuple[bool, int, float]:
        # Weighted order by one draw each (Efraimidis and Spirakis, 2006); a weight of 0 comes last.
        draw = chance()
        return row.backend != sticky, row.fallback, -(draw ** (1 / row.weight)) if row.weight else 1.0

    return sorted(targets, key=key)
