"""The places of backends with a limit (``max_concurrency``), shared by all workers through Redis.

A place has a lease, so those of a dead worker come back by themselves. All backends have one home, whatever the partition
of the responses.
"""

from collections.abc import Sequence

from shared.ids import HOME_PARTITION, base32
from shared.store.redis import Store

BUDGET_S = 1.0
_PARTITION = base32(HOME_PARTITION, 2)


class Slots:
    """All verbs raise ``StoreUnavailable``, and may be repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def take(self, backend: str, who: str, *, limit: int, lease_s: float) -> bool:
        args = backend, who, limit, int(lease_s * 1000)
        return bool(await self._store.call("slot_take", _PARTITION, *args, budget_s=BUDGET_S))

    async def keep(self, held: Sequence[tuple[str, str]], lease_s: float) -> None:
        """*held*: backend and who of each."""
        words = [word for pair in held for word in pair]
        await self._store.call("slot_keep", _PARTITION, int(lease_s * 1000), *words, budget_s=BUDGET_S)

    async def free(self, backend: str, who: str) -> None:
        await self._store.call("slot_free", _PARTITION, backend, who, budget_s=BUDGET_S)
