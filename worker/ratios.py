"""What backends say about the size of their input, gathered here and told to Redis now and then: no call per response."""

import asyncio
from collections.abc import Sequence

import structlog

from shared.core.tokens import learned_as, media, weigh
from shared.errors import StoreUnavailable
from shared.store.ratios import Ratios
from shared.wire.items import StoredItem
from shared.wire.requests import Request
from shared.wire.responses import Usage

TELL_S = 5.0
MAX_MODELS = 256

log = structlog.get_logger()


class Observer:
    """Sums up; ``keep`` tells and forgets."""

    def __init__(self, ratios: Ratios) -> None:
        self._ratios = ratios
        self._seen: dict[str, tuple[int, int]] = {}

    def observe(self, request: Request, items: Sequence[StoredItem], usage: Usage | None) -> None:
        """*items* is the whole context. Where something else than its text counted too, nothing is learned."""
        if usage is None or usage.input_tokens <= 0 or request.truncation == "auto" or media(items):
            return
        name = learned_as(request)
        size, tokens = self._seen.get(name, (0, 0))
        if tokens or len(self._seen) < MAX_MODELS:
            self._seen[name] = size + weigh(request, items), tokens + usage.input_tokens

    async def keep(self) -> None:
        """Tell what was seen, every ``TELL_S``, for ever; what is left when it is cancelled is lost."""
        while True:
            await asyncio.sleep(TELL_S)
            await self.tell()

    async def tell(self) -> None:
        seen, self._seen = self._seen, {}
        if seen:
            try:
                await self._ratios.learn(seen)
            except StoreUnavailable as error:
                log.info("redis.unavailable", error=str(error))
