"""API keys in Redis: the hash of each leads to its name and tenant. A key itself is seen once, by who makes it."""

import hashlib
import re
import secrets
from typing import NamedTuple

from shared.ids import HOME_PARTITION, base32
from shared.store.redis import Store, prefix

OPEN_TENANT = "default"
"""Everybody, where there are no keys; and the tenant of a key that is made without naming one."""
PARTITION = base32(HOME_PARTITION, 2)
BUDGET_S = 2.0
RANDOM_BYTES = 32
_FORM = re.compile(r"rsp_[A-Za-z0-9_-]{43}")


class KeyRow(NamedTuple):
    """One key, without the key. Times are Unix seconds; ``used`` is exact to a minute, 0 for never."""

    name: str
    tenant: str
    created: int
    used: int


class Holder(NamedTuple):
    """Who a key belongs to."""

    name: str
    tenant: str


def new_key() -> str:
    return f"rsp_{secrets.token_urlsafe(RANDOM_BYTES)}"


def is_key(text: str) -> bool:
    """Whether *text* has the form of a key that `new_key` makes; others are not worth a look into Redis."""
    return _FORM.fullmatch(text) is not None


def hash_of(key: str) -> str:
    """SHA-256 in hexadecimal digits: keys are random enough for a fast hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Tenants:
    """The verbs of one Redis. All raise ``StoreUnavailable``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def any(self) -> bool:
        """Whether there are keys at all."""
        names = f"{prefix(PARTITION)}keys"
        return bool(await self._store.command("HLEN", names, budget_s=BUDGET_S))

    async def create(self, key: str, name: str, tenant: str) -> bool:
        """False when the name is taken."""
        answer = await self._store.call("key_create", PARTITION, hash_of(key), name, tenant, budget_s=BUDGET_S)
        return bool(answer)

    async def find(self, sha256: str) -> Holder | None:
        answer = await self._store.call("key_find", PARTITION, sha256, budget_s=BUDGET_S)
        return Holder(*(each.decode() for each in answer)) if answer else None

    async def rows(self) -> list[KeyRow]:
        """By name."""
        answer = await self._store.call("key_list", PARTITION, budget_s=BUDGET_S)
        return sorted(
            KeyRow(name.decode(), tenant.decode(), int(created) // 1000, int(used) // 1000)
            for name, tenant, created, used in answer
        )

    async def revoke(self, name: str) -> bool:
        """False when there is no such key. Front ends notice within ``api.auth.KNOWN_S``."""
        return bool(await self._store.call("key_revoke", PARTITION, name, budget_s=BUDGET_S))
