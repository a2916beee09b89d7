"""The keyring against a real Valkey: what a key costs, and how long it is believed."""

import asyncio
import hashlib

import pytest
from redis.asyncio import Redis

from api.auth import ANYBODY, Keyring
from shared.errors import StoreUnavailable, Unauthorized
from shared.settings import ApiKey
from shared.store.redis import Store, connect
from shared.store.responses import Responses
from shared.store.tenants import Holder, Tenants, hash_of, is_key, new_key


@pytest.fixture
def tenants(responses: Responses) -> Tenants:
    return Tenants(Store(responses.client))


async def calls(redis: Redis) -> int:
    """Scripts that Redis has run so far."""
    stats = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


async def test_a_key_is_looked_up_once(tenants: Tenants, redis: Redis) -> None:
    key, keyring = new_key(), Keyring((), tenants, loopback=False)
    assert await tenants.create(key, "k", "acme")
    assert await keyring.holder(f"Bearer {key}") == Holder("k", "acme")
    before = await calls(redis)
    assert {await keyring.holder(f"Bearer {key}") for _ in range(100)} == {Holder("k", "acme")}
    assert await calls(redis) == before


async def test_those_who_come_together_ask_once(tenants: Tenants, redis: Redis) -> None:
    key, keyring = new_key(), Keyring((), tenants, loopback=False)
    await tenants.create(key, "k", "acme")
    await tenants.find(hash_of(key))  # so that the script is loaded
    before = await calls(redis)
    found = await asyncio.gather(*(keyring.holder(f"Bearer {key}") for _ in range(50)))
    assert set(found) == {Holder("k", "acme")}
    assert await calls(redis) == before + 1


async def test_what_is_no_key_of_ours_is_not_looked_up(tenants: Tenants, redis: Redis) -> None:
    keyring = Keyring((), tenants, loopback=False)
    before = await calls(redis)
    for wrong in ("sk-1", "rsp_", "rsp_" + "x" * 42, "rsp_" + "x" * 44, "rsp_" + "é" * 43):
        with pytest.raises(Unauthorized):
            await keyring.holder(f"Bearer {wrong}")
    assert await calls(redis) == before


async def test_a_wrong_key_is_not_remembered(tenants: Tenants, redis: Redis) -> None:
    key, keyring = new_key(), Keyring((), tenants, loopback=False)
    with pytest.raises(Unauthorized):
        await keyring.holder(f"Bearer {key}")
    await tenants.create(key, "late", "acme")
    assert await keyring.holder(f"Bearer {key}") == Holder("late", "acme")


async def test_keys_of_the_file_need_no_redis() -> None:
    away = connect("unix:///nowhere/valkey.sock")
    row = ApiKey(name="a", tenant="acme", sha256=hashlib.sha256(b"sk-1").hexdigest())
    keyring = Keyring([row], Tenants(Store(away)), loopback=False)
    assert await keyring.holder("Bearer sk-1") == Holder("a", "acme")
    with pytest.raises(StoreUnavailable):
        await keyring.holder(f"Bearer {new_key()}")
    await away.aclose()


async def test_without_keys_only_loopback_is_open(tenants: Tenants, redis: Redis) -> None:
    inside, outside = (Keyring((), tenants, loopback=loopback) for loopback in (True, False))
    with pytest.raises(Unauthorized):
        await inside.holder(None)  # nobody has asked yet whether there are keys
    for keyring in (inside, outside):
        assert await keyring.refresh() is False
    assert await inside.holder(None) == await inside.holder("Bearer anything") == ANYBODY
    with pytest.raises(Unauthorized):
        await outside.holder(None)


async def test_names_are_unique_and_keys_are_not_kept(tenants: Tenants, redis: Redis) -> None:
    key = new_key()
    assert await tenants.any() is False
    assert await tenants.create(key, "a", "acme") is True
    assert await tenants.create(key, "a", "acme") is True  # the same call, repeated
    assert await tenants.create(new_key(), "a", "acme") is False
    assert [row[:2] for row in await tenants.rows()] == [("a", "acme")]
    for name in await redis.keys():
        assert key not in name + str(await redis.hgetall(name))
    assert await tenants.revoke("a") is True
    assert await tenants.revoke("a") is False
    assert await tenants.find(hash_of(key)) is None
    assert await redis.keys() == []


def test_the_form_of_a_key() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(is_key(key) for key in keys)
