import pytest

from shared.core.admission import FULL_SHARE, WINDOW_S, Rate, is_full, plan_retry_after


@pytest.mark.parametrize(
    ("limit", "per_s", "seconds"),
    [
        (10_000, None, 5),  # nothing measured yet
        (10_000, 0.0, 120),  # nothing ends at all
        (10_000, 100.0, 10),
        (10_000, 1000.0, 1),
        (10_000, 5000.0, 1),  # never at once
        (10_000, 1.0, 120),  # never later
        (10_000, 9.9, 102),  # rounded up
        (1, 0.5, 2),
        (5, 2.0, 1),
        (0, 0.1, 10),
    ],
)
def test_retry_after_is_the_time_until_a_tenth_is_free(limit: int, per_s: float | None, seconds: int) -> None:
    assert plan_retry_after(limit, per_s) == seconds


def test_the_rate_is_measured_over_the_last_seconds() -> None:
    rate = Rate()
    assert rate.per_s is None
    rate.feed(100, 0.0)
    assert rate.per_s is None
    rate.feed(150, 10.0)
    assert rate.per_s == 5.0
    for second in range(11, 11 + int(WINDOW_S) + 1):
        rate.feed(150 + (second - 10) * 20, float(second))
    assert rate.per_s == 20.0


def test_the_rate_begins_anew_when_redis_has_lost_the_count() -> None:
    rate = Rate()
    rate.feed(1000, 0.0)
    rate.feed(2000, 1.0)
    rate.feed(3, 2.0)
    assert rate.per_s is None
    rate.feed(4, 3.0)
    assert rate.per_s == 1.0


@pytest.mark.parametrize(
    ("used", "limit", "full"),
    [(0, 0, False), (10**12, 0, False), (849, 1000, False), (850, 1000, True), (2000, 1000, True)],
)
def test_memory_is_full_at_85_percent(used: int, limit: int, full: bool) -> None:
    assert FULL_SHARE == 0.85
    assert is_full(used, limit) is full
