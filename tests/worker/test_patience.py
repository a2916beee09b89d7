"""When a run calls its backends again, elsewhere, or not at all."""

import pytest

from shared.errors import UpstreamError
from worker.patience import EARLY_S, KEEP_SLOT_S, LAST_WAIT_S, MAX_RETRY_AFTER_S, MAX_WAIT_S, Patience

AWAY = UpstreamError("away", retryable=True, max_tries=9)


def test_each_failed_try_counts_and_waits_no_longer_than_it_may() -> None:
    patience = Patience(2)
    pauses = [pause for _ in range(3) if (pause := patience.before_next_try(AWAY, shown=False))]
    assert patience.tries == 5
    assert len(pauses) == 3
    assert all(0 <= pause.wait_s <= LAST_WAIT_S for pause in pauses)
    assert all(pause.released == (pause.wait_s > KEEP_SLOT_S) for pause in pauses)


@pytest.mark.parametrize(
    ("asked_s", "wait_s", "released"), [(1.0, 1.0 + EARLY_S, False), (900.0, MAX_RETRY_AFTER_S, True)]
)
def test_a_backend_that_says_when_is_believed(asked_s: float, wait_s: float, *, released: bool) -> None:
    error = UpstreamError("later", retryable=True, retry_after_s=asked_s)
    assert Patience(0).before_next_try(error, shown=False) == (wait_s, released)


@pytest.mark.parametrize(
    ("error", "tries", "shown"),
    [
        (UpstreamError("no", retryable=False), 0, False),
        (UpstreamError("away", retryable=True, max_tries=2), 1, False),
        (AWAY, 0, True),
    ],
)
def test_there_is_no_next_try(error: UpstreamError, tries: int, *, shown: bool) -> None:
    assert Patience(tries).before_next_try(error, shown=shown) is None


def test_it_ends_however_often_a_backend_asks_for_a_wait() -> None:
    error, patience = UpstreamError("later", retryable=True, retry_after_s=50.0, max_tries=99), Patience(0)
    pauses = [pause for _ in range(9) if (pause := patience.before_next_try(error, shown=False))]
    assert [pause.wait_s for pause in pauses] == [50.0 + EARLY_S] * 2
    assert sum(pause.wait_s for pause in pauses) <= MAX_WAIT_S


def test_a_long_wait_for_a_place_gives_the_slot_back() -> None:
    patience = Patience(1)
    pauses = [patience.before_place() for _ in range(30)]
    kept = [pause for pause in pauses if not pause.released]
    assert 10 <= len(kept) <= 25
    assert sum(pause.wait_s for pause in kept) <= KEEP_SLOT_S
    assert pauses[len(kept) :] == [pause for pause in pauses if pause.released]
    assert patience.tries == 1
