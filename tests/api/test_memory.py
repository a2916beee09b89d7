"""What a connection remembers of responses that are not stored."""

from api.memory import Memory


def test_the_latest_of_each_lane() -> None:
    memory = Memory(100)
    memory.keep("", "resp_1", [b"[1]", b"[2]"])
    memory.keep("a", "resp_2", [b"[3]"])
    assert memory.find("resp_1") == (b"[1]", b"[2]")
    assert memory.find("resp_2") == (b"[3]",)
    memory.keep("", "resp_3", [b"[]"])
    assert memory.find("resp_1") is None
    memory.drop("a")
    assert memory.find("resp_2") is None
    assert memory.find("resp_3") == (b"[]",)


def test_an_evicted_one_is_forgotten_whichever_lane_it_came_from() -> None:
    memory = Memory(100)
    memory.keep("a", "resp_1", [b"[1]"])
    memory.keep("b", "resp_2", [b"[2]"])
    memory.evict("resp_1")
    memory.evict("resp_unknown")
    assert (memory.find("resp_1"), memory.find("resp_2")) == (None, (b"[2]",))


def test_what_does_not_fit_is_forgotten_the_oldest_first() -> None:
    memory = Memory(10)
    memory.keep("a", "resp_1", [b"1234"])
    memory.keep("b", "resp_2", [b"1234"])
    memory.keep("c", "resp_3", [b"12", b"34"])
    assert memory.find("resp_1") is None
    assert memory.find("resp_2")
    assert memory.find("resp_3")
    memory.keep("b", "resp_4", [b"x" * 11])  # too large by itself: the lane has nothing, the others keep theirs
    assert (memory.find("resp_2"), memory.find("resp_4")) == (None, None)
    assert memory.find("resp_3")
