"""Service tiers and queues."""

from typing import get_args, get_type_hints

from shared.core.tiers import ASKED, HEAD_START_MS, lane_of, tier_of
from shared.wire.requests import CreateBody
from shared.wire.responses import ServiceTier


def test_every_tier_that_can_be_asked_for_is_in_the_table() -> None:
    (literal, _) = get_args(get_type_hints(CreateBody)["service_tier"])
    assert set(ASKED) == set(get_args(literal))
    assert set(ASKED.values()) == set(HEAD_START_MS) == set(get_args(ServiceTier))


def test_what_is_used_is_shown() -> None:
    assert [tier_of(asked) for asked in (None, "auto", "fast", "flex")] == ["default", "default", "priority", "flex"]
    assert HEAD_START_MS["priority"] > HEAD_START_MS["default"] > HEAD_START_MS["flex"]
    assert (lane_of(background=True), lane_of(background=False)) == ("background", "foreground")
