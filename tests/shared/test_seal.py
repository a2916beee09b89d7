"""What is sealed opens for its tenant and kind only, with any of the server's keys."""

import base64

import pytest

from shared.seal import PREFIX, Sealer

OLD, NEW = "o" * 32, "n" * 32


def test_it_opens_again_and_never_looks_the_same() -> None:
    seal = Sealer([NEW]).bind("acme", "state")
    first, second = seal.seal(b"secret"), seal.seal(b"secret")
    assert first
    assert second
    assert first != second
    assert "secret" not in first
    assert seal.open(first) == seal.open(second) == b"secret"


def test_another_tenant_or_kind_or_server_cannot_open_it() -> None:
    text = Sealer([NEW]).bind("acme", "state").seal(b"secret") or ""
    assert Sealer([NEW]).bind("acme", "state").open(text) == b"secret"
    assert Sealer([NEW]).bind("acme2", "state").open(text) is None
    assert Sealer([NEW]).bind("acme", "compaction").open(text) is None
    assert Sealer([OLD]).bind("acme", "state").open(text) is None


def test_old_keys_open_and_the_first_one_seals() -> None:
    text = Sealer([OLD]).bind("acme", "state").seal(b"before") or ""
    both = Sealer([NEW, OLD]).bind("acme", "state")
    assert both.open(text) == b"before"
    assert Sealer([NEW]).bind("acme", "state").open(both.seal(b"after") or "") == b"after"


def test_without_a_key_nothing_is_sealed_and_nothing_opens() -> None:
    text = Sealer([NEW]).bind("acme", "state").seal(b"secret") or ""
    keyless = Sealer([])
    assert not keyless
    assert keyless.bind("acme", "state").seal(b"x") is None
    assert keyless.bind("acme", "state").open(text) is None


def changed(text: str, place: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(text.removeprefix(PREFIX)))
    raw[place] ^= 1
    return PREFIX + base64.urlsafe_b64encode(raw).decode()


def test_a_changed_bit_is_noticed_wherever_it_is() -> None:
    seal = Sealer([NEW]).bind("acme", "state")
    text = seal.seal(b"secret") or ""
    length = len(base64.urlsafe_b64decode(text.removeprefix(PREFIX)))
    assert [seal.open(changed(text, place)) for place in range(length)] == [None] * length


@pytest.mark.parametrize("text", ["", "rsp1.", "rsp1.####", "rsp1.AAAA", "rsp1.é", "gAAAAABopaque", "rsp2.AAAA"])
def test_anything_else_does_not_open(text: str) -> None:
    assert Sealer([NEW]).bind("acme", "state").open(text) is None
