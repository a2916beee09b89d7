"""Bytes per token, as each model's backend was seen to count: written by workers, read by front ends."""

from collections.abc import Mapping

from shared.ids import HOME_PARTITION, base32
from shared.store.redis import Store, prefix

MAX_MODELS = 512
KEEP_S = 30 * 86_400
FADE_TOKENS = 1_000_000
LEAST_TOKENS = 50
"""So few say nothing yet."""
BUDGET_S = 1.0
_PARTITION = base32(HOME_PARTITION, 2)


class Ratios:
    """All models have one place, whatever the partition of their responses. Both verbs raise ``StoreUnavailable``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, model: str) -> float | None:
        """Bytes per token, or ``None`` while not enough is known."""
        text = await self._store.command("HGET", f"{prefix(_PARTITION)}ratios", model, budget_s=BUDGET_S)
        size, _, tokens = (text or b"").partition(b" ")
        return int(size) / int(tokens) if tokens and int(tokens) >= LEAST_TOKENS else None

    async def learn(self, seen: Mapping[str, tuple[int, int]]) -> None:
        """Add model -> (bytes, tokens). Repeated after a lost answer it may count twice: that does no harm."""
        parts = [part for model, counts in seen.items() for part in (model, *counts)]
        await self._store.call("learn", _PARTITION, MAX_MODELS, KEEP_S, FADE_TOKENS, *parts, budget_s=BUDGET_S)
