"""Service tiers: what each is called in the answer, and where it stands in the queue."""

from collections.abc import Mapping
from typing import Literal

from shared.wire.responses import ServiceTier

HOUR_MS = 3_600_000
ASKED: Mapping[str, ServiceTier] = {
    "auto": "default",
    "default": "default",
    "scale": "default",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
    "ultrafast": "priority",
}
HEAD_START_MS: Mapping[ServiceTier, int] = {"priority": HOUR_MS, "default": 0, "flex": -HOUR_MS}
"""A response queues as if it had come so much earlier: what waits longer than that is passed by nobody."""


def tier_of(asked: str | None) -> ServiceTier:
    """The tier that is used, and shown."""
    return ASKED[asked or "auto"]


def lane_of(*, background: bool) -> Literal["foreground", "background"]:
    """The queue that a response waits in; within it, its tier decides."""
    return "background" if background else "foreground"
