"""Who calls: a bearer key leads to a tenant.

Keys come from the configuration (known for as long as the process lives) and from Redis (``respool keys``). One of the
latter is looked up once and then believed for ``KNOWN_S``: so long a revoked key may go on, and so often a busy one costs
a call. Secrets are compared by their SHA-256 only, in constant time.
"""

import asyncio
import hmac
import time
from collections.abc import Sequence

from shared.errors import Unauthorized
from shared.settings import ApiKey
from shared.store.tenants import OPEN_TENANT, Holder, Tenants, hash_of, is_key

KNOWN_S = 3.0  # docs/settings.md and `respool keys revoke` say it
MAX_KNOWN = 10_000
MAX_KEY_CHARS = 512
ANYBODY = Holder("", OPEN_TENANT)


class Keyring:
    """Tells callers apart. Where there are no keys at all, on loopback, everybody is ``OPEN_TENANT``."""

    def __init__(self, configured: Sequence[ApiKey], tenants: Tenants, *, loopback: bool) -> None:
        self._configured = configured
        self._tenants = tenants
        self._loopback = loopback
        self._stored = True
        self._known: dict[str, tuple[Holder, float]] = {}
        self._asked: dict[str, asyncio.Task[Holder | None]] = {}

    async def refresh(self) -> bool:
        """Ask Redis whether there are stored keys. To be called once a second; until the first time nobody is let in
        without one."""
        self._stored = await self._tenants.any()
        return self._stored

    async def holder(self, authorization: str | None) -> Holder:
        """Whose ``Authorization`` header this is. Raises ``Unauthorized``, in which the key is never repeated."""
        if self._loopback and not self._configured and not self._stored:
            return ANYBODY
        scheme, _, key = (authorization or "").strip().partition(" ")
        key = key.strip()
        if not authorization:
            raise Unauthorized("You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.")
        if scheme.lower() != "bearer" or not key or " " in key or len(key) > MAX_KEY_CHARS:
            raise Unauthorized("The 'Authorization' header is malformed. Send it as 'Authorization: Bearer KEY'.")
        sha256 = hash_of(key)
        found = [each for each in self._configured if hmac.compare_digest(each.sha256, sha256)]
        holder = Holder(found[0].name, found[0].tenant) if found else None
        if holder is None and is_key(key):
            holder = await self._look_up(sha256)
        if holder is None:
            raise Unauthorized("Incorrect API key provided.")
        return holder

    async def _look_up(self, sha256: str) -> Holder | None:
        """The holder of a stored key, as it was within the last ``KNOWN_S``. Callers that come together ask once."""
        known = self._known.get(sha256)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        task = self._asked.get(sha256)
        if task is None:
            task = self._asked[sha256] = asyncio.create_task(self._ask(sha256))

            def answered(task: "asyncio.Task[Holder | None]") -> None:
                del self._asked[sha256]
                if not task.cancelled():
                    task.exception()  # those who asked may all be gone

            task.add_done_callback(answered)
        return await asyncio.shield(task)

    async def _ask(self, sha256: str) -> Holder | None:
        until = time.monotonic() + KNOWN_S
        holder = await self._tenants.find(sha256)
        self._known.pop(sha256, None)
        if holder is not None:
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]  # the one that was asked for the longest ago
            self._known[sha256] = holder, until
        return holder
