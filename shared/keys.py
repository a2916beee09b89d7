"""What `respool keys` does: makes, lists and revokes the API keys that are kept in Redis."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from shared.errors import RespoolError
from shared.operating import open_redis, settings_of
from shared.program import program
from shared.settings import TENANT, Settings
from shared.store.redis import Store
from shared.store.tenants import KeyRow, Tenants, new_key

MAX_NAME = 64


@asynccontextmanager
async def open_tenants(settings: Settings) -> AsyncIterator[Tenants]:
    """The keys in the Redis of *settings*; without one, in the embedded Valkey that `respool up` runs now."""
    async with open_redis(settings) as client:
        yield Tenants(Store(client))


async def stored_keys(settings: Settings) -> bool:
    """Whether there are keys in Redis. Raises what `open_tenants` raises, and ``StoreUnavailable``."""
    async with open_tenants(settings) as tenants:
        return await tenants.any()


async def create(environ: Mapping[str, str], name: str, tenant: str) -> tuple[str, bool]:
    """A new key, which is only seen this time, and whether it is the first: from then on every call needs one."""
    if not (0 < len(name) <= MAX_NAME and name.isprintable()):
        raise RespoolError(f"a key's name has 1 to {MAX_NAME} printable characters")
    if not re.fullmatch(TENANT, tenant):
        raise RespoolError("a tenant has 1 to 64 letters, digits, dots, dashes or underscores")
    key = new_key()
    settings = settings_of(environ)
    async with open_tenants(settings) as tenants:
        first = not settings.keys and not await tenants.any()
        if not await tenants.create(key, name, tenant):
            raise RespoolError(f"there is a key called {name}: revoke it first, or choose another name")
    return key, first


async def rows(environ: Mapping[str, str]) -> list[KeyRow]:
    async with open_tenants(settings_of(environ)) as tenants:
        return await tenants.rows()


async def revoke(environ: Mapping[str, str], name: str) -> bool:
    """Whether it was the last: then loopback is served without keys again, unless the configuration has some."""
    settings = settings_of(environ)
    async with open_tenants(settings) as tenants:
        if not await tenants.revoke(name):
            raise RespoolError(f"there is no key called {name}; `{program()} keys list` shows them")
        return not settings.keys and not await tenants.any()
