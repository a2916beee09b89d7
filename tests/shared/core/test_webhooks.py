import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.webhooks import EVENT_TYPES, MOST_WAIT_S, Delivery, is_public, plan_wait, rule_of

DELIVERY = Delivery("ci", "resp_1", "completed", 1_790_000_000_999, 1)


def test_the_body_is_a_thin_event() -> None:
    assert json.loads(DELIVERY.body) == {
        "id": DELIVERY.event_id,
        "object": "event",
        "created_at": 1_790_000_000,
        "type": "response.completed",
        "data": {"id": "resp_1"},
    }


def test_the_id_is_the_same_for_every_attempt_and_another_for_everything_else() -> None:
    assert re.fullmatch(r"evt_[0-9a-z]{32}", DELIVERY.event_id)
    assert Delivery("ci", "resp_1", "completed", 1_790_000_000_999, 7).body == DELIVERY.body
    others = [
        Delivery("cd", "resp_1", "completed", 0, 1),
        Delivery("ci", "resp_2", "completed", 0, 1),
        Delivery("ci", "resp_1", "failed", 0, 1),
    ]
    assert len({each.event_id for each in (DELIVERY, *others)}) == 4


def test_rules_as_the_scripts_read_them() -> None:
    assert rule_of("", EVENT_TYPES) == "* cancelled completed failed incomplete"
    assert rule_of("acme", ["response.failed", "response.failed"]) == "acme failed"


def test_waits_are_doubled_up_to_an_hour() -> None:
    assert [plan_wait(tries, 5, 0) for tries in (1, 2, 3, 10, 11, 12)] == [5, 10, 20, 2560, MOST_WAIT_S, MOST_WAIT_S]
    assert plan_wait(1, 5, 1) == 2.5


@given(st.integers(1, 10**6), st.floats(0.01, 3600), st.floats(0, 1))
def test_waits_have_bounds(tries: int, first_s: float, chance: float) -> None:
    assert first_s / 2 <= plan_wait(tries, first_s, chance) <= MOST_WAIT_S


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "fec0::1", "feff:ffff::1", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110",
    ],
)  # fmt: skip
def test_addresses_of_nobody_else(address: str) -> None:
    assert not is_public(address)
