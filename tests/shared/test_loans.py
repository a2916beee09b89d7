"""What slow readers hold of large events is bounded for all together."""

import pytest

from shared.loans import SLOW_S, Loans


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("shared.loans.time.monotonic", lambda: now[0])
    return now


def test_it_lends_up_to_its_limit_and_one_alone_whatever_its_size() -> None:
    loans = Loans(10)
    first = loans.lend(b"x" * 25)
    assert first is not None
    assert loans.lend(b"y") is None
    loans.end(first)
    assert [loans.lend(b"y" * size) is not None for size in (4, 6, 1)] == [True, True, False]


def test_who_got_rid_of_nothing_for_a_while_loses_it_to_others(clock: list[float]) -> None:
    loans = Loans(10)
    stalled, quick = loans.lend(b"s" * 5), loans.lend(b"q" * 5)
    assert stalled is not None
    assert quick is not None
    assert stalled.piece(0, 2) == b"ss"
    clock[0] += SLOW_S * 1.5
    assert quick.piece(0, 2) == b"qq"
    assert loans.lend(b"n" * 5) is not None
    assert stalled.piece(2, 2) == b""
    assert stalled.frames is None
    assert quick.piece(2, 5) == b"qqq"
    assert loans.lend(b"m") is None
    loans.end(stalled)  # a second time: nothing is freed twice
    assert loans.lend(b"m") is None


def test_nothing_is_called_back_when_that_would_not_make_room(clock: list[float]) -> None:
    loans = Loans(10)
    stalled, quick = loans.lend(b"s" * 3), loans.lend(b"q" * 7)
    assert stalled is not None
    assert quick is not None
    clock[0] += SLOW_S * 1.5
    assert quick.piece(0, 2) == b"qq"
    assert not loans.has_room(5)
    assert loans.lend(b"n" * 5) is None
    assert stalled.frames == b"sss"
    assert loans.has_room(3)
    assert stalled.frames == b"sss"
    assert loans.lend(b"n" * 3) is not None
    assert stalled.frames is None
