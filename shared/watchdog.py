"""A front end or worker of `respool up` that gives no sign of life any more is killed, so that it is started again.

    first sign of life -> signs -> none in one look after the other, for as long as the limit -> SIGKILL

Frozen or blocked for good, it would hold its clients' connections, and the only worker its responses, for ever. Only what
is certain counts: each is known by the mark that its name has from us, and by nothing that others may share; a look begins the count anew when Redis did not answer at once over a new connection, or refused to be
written to, as then nobody can sign. Looks are counted, not seconds, so a machine that was suspended kills nobody.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.children import Child
from shared.errors import StoreUnavailable
from shared.store.processes import heartbeat_key, living, mark_of
from shared.store.redis import HEARTBEAT_S, LOST

LOOK_S = 1.0
ANSWER_S = 1.0
"""What takes longer may be too slow for signs of life."""
LIMIT_S = 20.0
"""Beyond the ``HEARTBEAT_S`` that a sign of life stays."""
OWN_SIGN = "rs:u"

log = structlog.get_logger()


class Watchdog:
    """Looks at *children*, which sign in the Redis at *url*."""

    def __init__(self, url: str, children: Sequence[Child], limit_s: float = LIMIT_S) -> None:
        self._url, self._children = url, children
        self._limit = math.ceil(limit_s / LOOK_S)
        self._keys: dict[str, str] = {}
        """By mark: where its sign of life is. It is not there before the first one: a start takes its time."""
        self._missed: Counter[str] = Counter()
        """By mark: in how many looks, one after the other, there was none."""

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> list[Child]:
        """Kill whoever has now been silent for too long, once; who that is."""
        running = {child.mark: child for child in self._children if child.pid is not None}
        try:
            async with asyncio.timeout(ANSWER_S), Redis.from_url(self._url) as client:
                signs = await self._signs(client, running)
        except (StoreUnavailable, RedisError, *LOST):
            self._missed.clear()
            return []
        except Exception:  # whatever Redis answered: the next look may fare better
            log.exception("watchdog.failed")
            self._missed.clear()
            return []
        self._missed = Counter({mark: self._missed[mark] + 1 for mark, signed in signs.items() if not signed})
        frozen = {mark: running[mark] for mark, count in self._missed.items() if count == self._limit}
        for mark, child in frozen.items():
            if child.mark == mark and child.pid is not None:  # it may have ended meanwhile
                silent_s = round(HEARTBEAT_S + self._limit * LOOK_S)
                log.error("child.frozen", child=child.name, pid=child.pid, silent_s=silent_s)
                child.kill()
        return list(frozen.values())

    async def _signs(self, client: Redis, running: Mapping[str, Child]) -> dict[str, bool]:
        """Whether each that has ever signed does so now."""
        await client.set(OWN_SIGN, 1, ex=HEARTBEAT_S)
        self._keys = {mark: key for mark, key in self._keys.items() if mark in running}
        if self._keys.keys() != running.keys():
            signed = [name for name, fields in (await living(client)).items() if fields]
            self._keys |= {mark_of(name): heartbeat_key(name) for name in signed if mark_of(name) in running}
        async with client.pipeline(transaction=False) as pipe:
            for key in self._keys.values():
                pipe.exists(key)
            return dict(zip(self._keys, map(bool, await pipe.execute()), strict=True))
