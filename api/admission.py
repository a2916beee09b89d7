"""Whether this front end takes new work now, and when those it sends away may come again.

What it must know comes with its sign of life once a second, so that asking costs a request nothing.
"""

import time
from typing import Literal

import structlog

from shared.core.admission import Rate, is_full, plan_retry_after
from shared.errors import ApiError, Overloaded, RateLimited
from shared.settings import Settings
from shared.store.rows import Load

DRAIN_RETRY_AFTER_S = 1
"""Another front end answers at once, or the next one soon."""
STORE_RETRY_AFTER_S = 2
Reason = Literal["draining", "memory", "queue", "tenant", "store"]

log = structlog.get_logger()


class Admission:
    """What one front end knows of the load."""

    def __init__(self, settings: Settings) -> None:
        self.load: Load | None = None
        self.used_bytes = self.max_bytes = 0
        self._settings = settings
        self._rate = Rate()

    def feed(self, load: Load, used_bytes: int, max_bytes: int) -> None:
        """What was measured just now."""
        self.load, self.used_bytes, self.max_bytes = load, used_bytes, max_bytes
        self._rate.feed(load.settled, time.monotonic())

    def check(self) -> None:
        """Raises ``Overloaded`` when Redis is too full for new work."""
        if is_full(self.used_bytes, self.max_bytes):
            raise self.refusal("memory")

    def refusal(self, reason: Reason) -> ApiError:
        """What somebody is told who is sent away."""
        log.info("response.refused", reason=reason)
        settings, per_s = self._settings, self._rate.per_s
        if reason == "draining":
            message = "This server is shutting down. Please retry: another one will answer."
            return Overloaded(message, retry_after_s=DRAIN_RETRY_AFTER_S)
        if reason == "tenant":
            cap = min(filter(None, (settings.tenant_max_waiting, settings.tenant_max_unfinished)))
            message = "You have too many unfinished responses. Please retry when some of them have ended."
            return RateLimited(message, retry_after_s=plan_retry_after(cap, per_s))
        if reason == "memory":
            message = "The server is overloaded: its store is almost full. Please retry later."
            return Overloaded(message, retry_after_s=plan_retry_after(self.load.unsettled if self.load else 1, per_s))
        if reason == "store":
            message = "The server cannot reach its store right now. Please retry."
            return Overloaded(message, retry_after_s=STORE_RETRY_AFTER_S)
        message = "The server is overloaded: too many responses are waiting. Please retry later."
        return Overloaded(message, retry_after_s=plan_retry_after(settings.max_queue, per_s))
