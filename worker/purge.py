"""With ``max_stored_bytes``: while Redis uses more memory, the oldest ended responses are removed, a few at a time.

The measure is the memory that Redis says it uses: it needs no books, and it is what runs out. Every worker looks, without a leader;
what two of them remove too much at once is bounded by a step of each.
"""

import asyncio

import structlog

from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.responses import Responses

LOOK_S = 1.0
STEP = 100
"""Responses: a few milliseconds of Redis' time."""

log = structlog.get_logger()


async def purge(responses: Responses, partition: str, settings: Settings) -> None:
    """For ever; at once over when the setting is off."""
    listed = False
    while settings.max_stored_bytes:
        try:
            await step(responses, partition, settings)
            if not listed:  # behind the first step, since when all that ends is listed
                await responses.list_earlier(partition, keep_s=settings.retention_s)
                listed = True
        except StoreUnavailable as error:
            log.warning("redis.unavailable", error=str(error))
        except Exception:  # whatever Redis answered: the next look may fare better
            log.exception("reaper.failed")
        await asyncio.sleep(LOOK_S)


async def step(responses: Responses, partition: str, settings: Settings) -> int:
    """One look; how many were removed."""
    used_bytes, _ = await responses.memory()
    excess = used_bytes > settings.max_stored_bytes
    removed, left = await responses.purge(partition, STEP if excess else 0, keep_s=settings.retention_s)
    if removed:
        log.warning("response.purged", count=removed, left=left, used_bytes=used_bytes)
    return removed
