"""Order by weight and fallback; when a backend is asked, and when it is left alone."""

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UpstreamError
from shared.settings import ModelRow
from worker.backends.health import BREAK_AFTER, FIRST_OPEN_S, LAST_OPEN_S, Health, plan_order

DOWN = UpstreamError("down", retryable=True)


def row(backend: str, weight: int = 1, fallback: int = 0) -> ModelRow:
    return ModelRow(dialect="chat", base_url="http://x/v1", backend=backend, weight=weight, fallback=fallback)


ROWS = st.lists(
    st.builds(row, st.sampled_from("abcdef"), st.integers(0, 5), st.integers(0, 3)),
    max_size=8,
    unique_by=lambda r: r.backend,
)


@given(ROWS, st.randoms(use_true_random=False), st.sampled_from(["", "a", "z"]))
def test_everybody_is_in_it_once_and_fallbacks_come_later(
    rows: list[ModelRow], chance: random.Random, sticky: str
) -> None:
    order = plan_order(rows, chance.random, sticky=sticky)
    assert sorted(each.backend for each in order) == sorted(each.backend for each in rows)
    if sticky in {each.backend for each in rows}:
        assert order.pop(0).backend == sticky
    for one, other in pairwise(order):
        assert one.fallback <= other.fallback
        if one.fallback == other.fallback:
            assert (one.weight > 0) >= (other.weight > 0)  # no weight: last among equals


def test_the_first_one_is_shared_by_weight() -> None:
    chance = random.Random(1)
    rows = [row("heavy", 3), row("light", 1), row("never", 0), row("fallback", 100, fallback=1)]
    first = Counter(plan_order(rows, chance.random)[0].backend for _ in range(4000))
    assert set(first) == {"heavy", "light"}
    assert 2850 < first["heavy"] < 3150


def test_a_circuit_opens_is_probed_and_closes() -> None:
    health, now = Health(), 100.0
    for number in range(1, BREAK_AFTER + 1):
        assert health.takes(now)
        health.asked()
        assert health.failed(DOWN, now) == (number == BREAK_AFTER)
    assert not health.takes(now + FIRST_OPEN_S - 0.1)
    assert health.takes(now + FIRST_OPEN_S)
    health.asked()
    assert not health.takes(now + FIRST_OPEN_S)  # one call at a time
    health.answered()
    assert health.takes(now + FIRST_OPEN_S)
    health.asked()
    assert health.takes(now + FIRST_OPEN_S)
    assert not health.failed(DOWN, now)  # closed again: one failure is none


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    health, now, opened = Health(failures=BREAK_AFTER, open_s=FIRST_OPEN_S), 0.0, []
    for _ in range(8):
        health.asked()
        assert health.failed(DOWN, now)
        opened.append(health.open_s)
        now = health.open_until
    assert opened[:3] == [2 * FIRST_OPEN_S, 4 * FIRST_OPEN_S, 8 * FIRST_OPEN_S]
    assert opened[-1] == LAST_OPEN_S


def test_it_opens_once_however_many_calls_fail_meanwhile() -> None:
    health, now = Health(), 100.0
    for _ in range(4 * BREAK_AFTER):
        health.asked()
    assert [health.failed(DOWN, now) for _ in range(4 * BREAK_AFTER)].count(True) == 1
    health.asked()  # for want of another
    assert not health.failed(DOWN, now + FIRST_OPEN_S - 0.1)
    assert (health.open_s, health.open_until) == (FIRST_OPEN_S, now + FIRST_OPEN_S)
    health.asked()
    assert health.failed(DOWN, now + FIRST_OPEN_S)
    assert health.open_s == 2 * FIRST_OPEN_S


def test_a_probe_that_was_given_up_makes_way_for_another() -> None:
    health = Health(failures=BREAK_AFTER, open_s=FIRST_OPEN_S)
    health.asked()
    assert not health.takes(0.0)
    health.dropped()
    assert health.takes(0.0)


def test_who_asks_for_time_gets_it() -> None:
    health = Health()
    limited = UpstreamError("slow down", code="rate_limit_exceeded", retryable=True, retry_after_s=7.0)
    assert not health.failed(limited, 10.0)
    assert not health.takes(16.9)
    assert health.takes(17.0)


def test_bad_requests_say_nothing_about_the_backend() -> None:
    health = Health()
    for _ in range(3 * BREAK_AFTER):
        assert not health.failed(UpstreamError("your fault", code="invalid_prompt"), 0.0)
        assert not health.failed(UpstreamError("slow down", code="rate_limit_exceeded", retryable=True), 0.0)
    assert health.takes(0.0)
