"""This worker's places at backends with a limit: taken before a call, kept while it runs, given back behind it."""

import asyncio
import contextlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator

import structlog

from shared.errors import StoreUnavailable
from shared.settings import ModelRow
from shared.store.slots import Slots

LOOK_AGAIN_S = 0.25
"""So long a full backend is not asked for a place again, unless one was given back here."""

log = structlog.get_logger()


class Places:
    """``keep`` is to be run as a task."""

    def __init__(self, slots: Slots, *, lease_s: float, renew_s: float) -> None:
        self._slots = slots
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._held: dict[str, str] = {}
        """Who -> backend."""
        self._full_until: dict[str, float] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Redis is asked by one at a time for each backend."""

    @contextlib.asynccontextmanager
    async def place(self, row: ModelRow) -> AsyncIterator[bool]:
        """Whether there is a place at a backend with a limit; it is held inside the block."""
        who = secrets.token_hex(8)
        try:
            taken = await self._take(row, who)
            yield taken
        finally:
            await self._free(row.backend, who)

    async def _take(self, row: ModelRow, who: str) -> bool:
        loop, name = asyncio.get_running_loop(), row.backend
        async with self._turns[name]:
            if loop.time() < self._full_until.get(name, 0.0):
                return False
            self._held[who] = name  # before the call: whatever becomes of it, the place is given back
            if await self._slots.take(name, who, limit=row.max_concurrency, lease_s=self._lease_s):
                return True
            del self._held[who]
            self._full_until[name] = loop.time() + LOOK_AGAIN_S
            return False

    async def _free(self, name: str, who: str) -> None:
        if self._held.pop(who, None) is None:
            return
        self._full_until.pop(name, None)
        try:
            await asyncio.shield(self._slots.free(name, who))
        except StoreUnavailable as error:  # its lease runs out
            log.info("redis.unavailable", error=str(error))

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            if self._held:
                try:
                    await self._slots.keep([(name, who) for who, name in self._held.items()], self._lease_s)
                except StoreUnavailable as error:
                    log.warning("redis.unavailable", error=str(error))
