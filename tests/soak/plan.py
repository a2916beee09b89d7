"""What a soak does, made from its seed alone: which fault comes when, and what each client does. No clock, no I/O."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

GAP_S = (0.8, 3.2)
"""Seconds between the beginnings of two faults; they may overlap."""
FAULTS: Mapping[str, tuple[float, float]] = {
    # kind -> how long it lasts, in seconds (least, most)
    "worker killed": (0.0, 0.0),
    "worker frozen": (1.0, 9.0),
    "worker told to stop": (0.0, 0.0),
    "front end killed": (0.0, 0.0),
    "front end frozen": (0.5, 4.0),
    "front end told to stop": (0.0, 0.0),
    "Redis killed": (0.0, 1.5),
    "Redis frozen": (0.5, 3.0),
    "clients cut": (0.0, 0.0),
    "subscribers cut": (0.0, 0.0),
    "scripts forgotten": (0.0, 0.0),
    "memory full": (0.5, 3.0),
    "commands paused": (0.3, 2.5),
    "Redis blackholed": (1.0, 7.0),
    "Redis slow": (1.0, 4.0),
    "Redis refusing": (0.5, 4.0),
    "publications lost": (0.0, 0.0),
    "backend failing": (0.5, 2.0),
}
STORIES: Mapping[str, int] = {
    # what a client does -> how often, relatively
    "foreground": 12,
    "foreground stream": 12,
    "unstored stream": 3,
    "background": 14,
    "background stream": 16,
    "resumed often": 8,
    "cancelled": 10,
    "cancelled late": 6,
    "cancelled stream": 6,
    "deleted": 5,
    "chain": 4,
    "conversation": 4,
    "repeated": 8,
    "hung up": 6,
    "slow reader": 2,
    "failing backend": 8,
}
BACKEND_FAILURES = (
    "status=500", "status=400", "status=401", "status=429 retry_after=1", "status=503", "cut=0", "cut=3", "eof=0", "eof=4",
    "hold", "finish=length", "nousage",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    kind: str  # a key of FAULTS
    lasts_s: float
    pick: float
    """From 0 to 1: which one of several."""


@dataclass(frozen=True, slots=True)
class Story:
    """What one client does; *seed* decides its moments."""

    name: str
    kind: str  # a key of STORIES
    words: int
    delay_ms: int
    seed: int


def plan_faults(seed: int, seconds: float) -> list[Fault]:
    """All kinds in turn, each round in another order. The last quarter second is left alone."""
    chance, at_s, plan, deck = random.Random(f"faults {seed}"), 1.0, [], []
    while at_s < seconds - 0.25:
        deck = deck or chance.sample(sorted(FAULTS), len(FAULTS))
        kind = deck.pop()
        plan.append(Fault(at_s, kind, chance.uniform(*FAULTS[kind]), chance.random()))
        at_s += chance.uniform(*GAP_S)
    return plan


def plan_stories(seed: int, rate: float) -> Iterator[tuple[float, Story]]:
    """Without end: the time between two clients in seconds, and what the next one does."""
    chance, number = random.Random(f"stories {seed}"), 0
    kinds, weights = list(STORIES), list(STORIES.values())
    while True:
        kind = chance.choices(kinds, weights)[0]
        words = chance.choice((1, 4, 12, 30, 60, 120))
        longest_ms = 6000 / words if chance.random() < 0.9 else 15_000 / words
        yield (
            chance.expovariate(rate),
            Story(f"s{number}", kind, words, int(chance.uniform(0, min(longest_ms, 400))), chance.getrandbits(32)),
        )
        number += 1
