"""Everything the model is told: what was read of the conversation or chain, then the request's own items."""

import asyncio
from collections.abc import Sequence
from typing import Literal

import msgspec
import structlog

from shared.errors import StoreUnavailable, UpstreamError
from shared.settings import Settings
from shared.store.responses import Responses
from shared.store.rows import Claimed
from shared.wire.items import StoredItem
from shared.wire.requests import Request

STORE_RETRY_S = 0.5

log = structlog.get_logger()
_decode_items = msgspec.json.Decoder(list[StoredItem]).decode


async def read_context(
    claimed: Claimed, request: Request, responses: Responses, settings: Settings
) -> Sequence[StoredItem]:
    """Oldest first. Raises ``UpstreamError`` when a part of it is gone."""
    own = _decode_items(claimed.items)
    # The first link of a conversation's turn is the response itself: its block knows what was read.
    newest = claimed.parent or (claimed.id if request.conversation else "")
    if not newest:
        return own
    own_bytes = len(claimed.items) if request.conversation else 0
    chain = await _read_chain(newest, own_bytes, responses, settings)
    if isinstance(chain, str):
        reason = "is too long" if chain == "long" else "is gone"
        raise UpstreamError(f"The history of this response {reason}.", code="invalid_prompt")
    if request.conversation:
        chain = chain[:-2]
    return [item for items in chain for item in _decode_items(items)] + own


async def _read_chain(
    newest: str, own_bytes: int, responses: Responses, settings: Settings
) -> list[bytes] | Literal["gone", "long", "running"]:
    while True:
        try:
            return await responses.chain(
                newest, "", keep_s=settings.context_keep_s, max_links=settings.max_chain_links,
                max_bytes=settings.max_context_bytes + own_bytes,
            )  # fmt: skip
        except StoreUnavailable as error:  # nobody has seen anything yet: it can wait, within its deadline
            log.warning("redis.unavailable", error=str(error))
            await asyncio.sleep(STORE_RETRY_S)
