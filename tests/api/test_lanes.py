"""Lanes: the order in which the turns of a connection start."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.lanes import MAX_IN_FLIGHT, MAX_NAMES, MAX_WAITING, Lanes
from api.messages import Create
from shared.errors import InvalidRequest, RateLimited


def create(stream_id: str = "", size_bytes: int = 1) -> Create:
    return Create(stream_id, "", bytes(size_bytes))


def test_a_lane_is_first_come_first_served() -> None:
    lanes, (a, b, c) = Lanes(100), [create(size_bytes=size) for size in (1, 2, 3)]
    assert lanes.is_idle
    assert lanes.offer(a) == [a]
    assert [lanes.offer(b), lanes.offer(c)] == [[], []]
    assert not lanes.is_idle
    assert lanes.end("") == [b]
    assert lanes.end("") == [c]
    assert lanes.end("") == []
    assert lanes.is_idle


def test_lanes_run_side_by_side() -> None:
    lanes = Lanes(100)
    assert all(lanes.offer(create(name)) for name in ("", "a", "b"))
    assert lanes.offer(create("a")) == []
    assert lanes.end("b") == []
    assert lanes.end("a") == [create("a")]


def test_what_is_more_than_may_be_in_flight_waits() -> None:
    lanes = Lanes(100)
    for number in range(MAX_IN_FLIGHT):
        assert lanes.offer(create(f"s{number}"))
    assert lanes.offer(create("s0")) == []
    assert lanes.offer(create("new")) == []
    assert lanes.end("s3") == [create("new")]  # the older one's lane is taken
    assert lanes.end("s0") == [create("s0")]


def test_so_much_waits_and_no_more() -> None:
    lanes = Lanes(MAX_WAITING)
    lanes.offer(create())
    for _ in range(MAX_WAITING):
        assert lanes.offer(create()) == []
    with pytest.raises(RateLimited):
        lanes.offer(create())
    lanes.end("")
    assert lanes.offer(create()) == []


def test_bytes_that_wait_are_bounded() -> None:
    lanes = Lanes(100)
    lanes.offer(create(size_bytes=500))
    assert lanes.offer(create(size_bytes=500)) == []  # alone
    with pytest.raises(RateLimited):
        lanes.offer(create(size_bytes=1))
    lanes.end("")
    assert lanes.offer(create(size_bytes=60)) == []
    assert lanes.offer(create(size_bytes=40)) == []
    with pytest.raises(RateLimited):
        lanes.offer(create(size_bytes=1))


def test_a_connection_has_so_many_names() -> None:
    lanes = Lanes(100)
    for number in range(MAX_NAMES):
        lanes.name(f"s{number}")
    lanes.name("s0")
    lanes.name("")
    with pytest.raises(InvalidRequest) as caught:
        lanes.name("one more")
    assert caught.value.code == "websocket_stream_limit_reached"


@given(st.lists(st.one_of(st.sampled_from(["", *(f"s{i}" for i in range(20))]), st.none()), max_size=150))
def test_every_lane_keeps_its_order_and_nothing_is_lost(steps: list[str | None]) -> None:
    """A name offers a create, ``None`` ends the response that has run for the longest."""
    lanes = Lanes(1 << 30)
    running: list[Create] = []
    started: list[Create] = []
    offered: list[Create] = []

    def note(some: list[Create]) -> None:
        running.extend(some)
        started.extend(some)
        assert len(running) <= MAX_IN_FLIGHT
        assert max(Counter(each.stream_id for each in running).values(), default=1) == 1

    for number, step in enumerate(steps):
        if step is not None:
            try:
                note(lanes.offer(create(step, number)))
                offered.append(create(step, number))
            except RateLimited:
                pass
        elif running:
            note(lanes.end(running.pop(0).stream_id))
    while running:
        note(lanes.end(running.pop(0).stream_id))
    assert lanes.is_idle
    assert sorted(started, key=lambda each: len(each.text)) == offered
    for lane in {each.stream_id for each in started}:
        numbers = [len(each.text) for each in started if each.stream_id == lane]
        assert numbers == sorted(numbers)
