"""Cyclic garbage, collected less often: nearly all of ours is freed by counting, and each look at what lives costs time."""

import gc

NEW_OBJECTS = 20_000
"""So many more containers than were freed start a collection of the young ones (Python: 700, or 2,000)."""
YOUNG_ROUNDS, MIDDLE_ROUNDS = 20, 20


def collect_rarely() -> None:
    """To be called once a process is up: what lives by then lives for ever, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, YOUNG_ROUNDS, MIDDLE_ROUNDS)
