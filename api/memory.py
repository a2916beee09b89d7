"""What a WebSocket remembers: the latest response of each lane that is not stored, so that the next turn can continue it."""

from collections.abc import Sequence
from typing import NamedTuple

MEMORY_BYTES = 8 << 20
"""Of one connection."""


class Remembered(NamedTuple):
    """JSON arrays of items, oldest first: all that the response was told, and what it has said."""

    response_id: str
    batches: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.batches))


class Memory:
    """At most *limit_bytes*: what does not fit is forgotten, the oldest first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._latest: dict[str, Remembered] = {}  # by lane, the oldest first

    def find(self, response_id: str) -> tuple[bytes, ...] | None:
        """Its items, whichever lane it came from."""
        return next((each.batches for each in self._latest.values() if each.response_id == response_id), None)

    def keep(self, lane: str, response_id: str, batches: Sequence[bytes]) -> None:
        """It is the latest of *lane* from now on."""
        self.drop(lane)
        new = Remembered(response_id, tuple(batches))
        if new.size_bytes > self._limit_bytes:
            return
        self._latest[lane] = new
        while sum(each.size_bytes for each in self._latest.values()) > self._limit_bytes:
            del self._latest[next(iter(self._latest))]

    def drop(self, lane: str) -> None:
        """The latest of *lane* is another one, which need not be remembered."""
        self._latest.pop(lane, None)

    def evict(self, response_id: str) -> None:
        """A turn that continued it has failed."""
        for lane in [lane for lane, each in self._latest.items() if each.response_id == response_id]:
            del self._latest[lane]
