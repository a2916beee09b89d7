"""Whose turn it is on one WebSocket: in each lane one response after the other, and the lanes side by side."""

from collections import deque

from api.messages import Create
from shared.errors import InvalidRequest, RateLimited

MAX_IN_FLIGHT = 16
MAX_NAMES = 32
"""Over the life of a connection."""
MAX_WAITING = 64
RETRY_AFTER_S = 1


class Lanes:
    """First come, first served, as far as there is room in flight and a lane is free."""

    def __init__(self, max_waiting_bytes: int) -> None:
        """What waits is not larger than *max_waiting_bytes* in all, unless it is alone."""
        self._max_waiting_bytes = max_waiting_bytes
        self._names: set[str] = set()
        self._running: set[str] = set()
        self._waiting: deque[Create] = deque()
        self._waiting_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is in flight, so nothing waits either."""
        return not self._running

    def name(self, stream_id: str) -> None:
        """To be called with the ``stream_id`` of each message. Raises ``InvalidRequest`` for one name too many."""
        if stream_id and stream_id not in self._names:
            if len(self._names) >= MAX_NAMES:
                message = f"Too many streams: a connection can have {MAX_NAMES} different values of 'stream_id'."
                raise InvalidRequest(message, param="stream_id", code="websocket_stream_limit_reached")
            self._names.add(stream_id)

    def offer(self, create: Create) -> list[Create]:
        """What is to start now. Raises ``RateLimited`` when too much waits; then *create* is not kept."""
        if self._waiting:
            too_large = self._waiting_bytes + len(create.text) > self._max_waiting_bytes
            if len(self._waiting) >= MAX_WAITING or too_large:
                message = "Too much waits on this connection. Please retry when some of its responses have ended."
                raise RateLimited(message, retry_after_s=RETRY_AFTER_S)
        self._waiting.append(create)
        self._waiting_bytes += len(create.text)
        return self._started()

    def end(self, stream_id: str) -> list[Create]:
        """The response that ran in this lane has ended. Returns what is to start now."""
        self._running.remove(stream_id)
        return self._started()

    def _started(self) -> list[Create]:
        started = []
        for create in list(self._waiting):  # the oldest first, so each lane keeps its order
            if len(self._running) >= MAX_IN_FLIGHT:
                break
            if create.stream_id not in self._running:
                self._running.add(create.stream_id)
                self._waiting.remove(create)
                self._waiting_bytes -= len(create.text)
                started.append(create)
        return started
