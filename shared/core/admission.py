"""When new work is refused, and when to come again: planned from how fast responses end. Pure; times are passed in."""

import math
from collections import deque

FIRST_S, LAST_S = 1, 120
UNKNOWN_S = 5
"""What is said before anything was measured."""
WINDOW_S = 30.0
FULL_SHARE = 0.85
"""Of Redis' ``maxmemory``: above it new work is refused, so that running work can go on to its end."""
ROOM_SHARE = 10
"""Who is sent away may come again when a tenth of the limit is free: else the next would be sent away at once."""


class Rate:
    """How many responses end per second, over the last ``WINDOW_S`` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def feed(self, settled: int, at_s: float) -> None:
        """*settled* counts on for ever; a smaller number than before means that it began anew."""
        if self._seen and settled < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((at_s, settled))
        while self._seen[0][0] < at_s - WINDOW_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float | None:
        """``None`` before there are two measurements."""
        (first_s, first), (last_s, last) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        return (last - first) / (last_s - first_s) if last_s > first_s else None


def plan_retry_after(limit: int, per_s: float | None) -> int:
    """Whole seconds until there is room again below *limit* responses, when *per_s* of them end each second."""
    if per_s is None:
        return UNKNOWN_S
    room = max(1, limit // ROOM_SHARE)
    return LAST_S if per_s <= 0 else min(LAST_S, max(FIRST_S, math.ceil(room / per_s)))


def is_full(used_bytes: int, max_bytes: int) -> bool:
    """Whether Redis has too little memory left for new work. *max_bytes* 0: it has no limit."""
    return max_bytes > 0 and used_bytes >= FULL_SHARE * max_bytes
