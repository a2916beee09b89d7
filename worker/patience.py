"""How long a run waits before it calls its backends again; when it gives its response back for that, and when it gives up."""

import random
from typing import NamedTuple

from shared.errors import UpstreamError

FIRST_WAIT_S, LAST_WAIT_S = 0.5, 20.0
MAX_RETRY_AFTER_S = 60.0
MAX_WAIT_S = 120.0
EARLY_S = 0.01
"""The loop's timers may end a millisecond early: who comes back then would be sent away again."""
KEEP_SLOT_S = 5.0
"""A longer wait gives the slot back."""
PLACE_WAIT_S, PLACE_DELAY_S = (0.2, 0.5), (1.0, 5.0)


class Pause(NamedTuple):
    """*wait_s* here, with the slot; or, with *released*, somewhere else: the response is given back for so long."""

    wait_s: float
    released: bool


class Patience:
    """Of one run. ``tries`` are the failed ones, of earlier runs too."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self._waited_s = 0.0
        self._places_s = 0.0

    def before_next_try(self, error: UpstreamError, *, shown: bool) -> Pause | None:
        """Behind one more failed try; ``None`` when there is no next one, as when output was *shown*."""
        self.tries += 1
        wait_s = random.uniform(0, min(LAST_WAIT_S, FIRST_WAIT_S * 2**self.tries))  # noqa: S311  # jitter
        if error.retry_after_s is not None:
            wait_s = min(error.retry_after_s + EARLY_S, MAX_RETRY_AFTER_S)
        self._waited_s += wait_s
        if shown or not error.retryable or self.tries >= error.max_tries or self._waited_s > MAX_WAIT_S:
            return None
        return Pause(wait_s, released=wait_s > KEEP_SLOT_S)

    def before_place(self) -> Pause:
        """All backends are at their limits: look again soon, and give the response back when that takes long."""
        wait_s = random.uniform(*PLACE_WAIT_S)  # noqa: S311  # jitter
        self._places_s += wait_s
        if self._places_s > KEEP_SLOT_S:
            return Pause(random.uniform(*PLACE_DELAY_S), released=True)  # noqa: S311  # jitter
        return Pause(wait_s, released=False)
