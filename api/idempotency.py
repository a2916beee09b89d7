"""``Idempotency-Key`` on create: the same key with the same body is the same response, whichever front end is asked.

A key belongs to its tenant and counts for as long as its response exists, at most 24 h (``lua/common.lua``).
"""

import hashlib
from dataclasses import dataclass

from aiohttp import web

from shared.errors import IdempotencyReused, InvalidRequest
from shared.store.responses import Responses

MAX_KEY_CHARS = 255
HEADER = "Idempotency-Key"
REPLAYED = {"x-respool-idempotent-replay": "true"}


@dataclass(frozen=True, slots=True)
class Once:
    """A key and the body that it came with, as their SHA-256: neither is stored."""

    key: str
    body: str

    async def recall(self, responses: Responses, partition: str, tenant: str) -> str | None:
        """The id of the response that the key stands for, if it does for one. Raises ``IdempotencyReused``."""
        word = await responses.recall(partition, tenant, self.key, self.body)
        if word == "reused":
            raise reused()
        return word or None


def once_of(request: web.Request, body: bytes) -> Once | None:
    """The request's key, if it has one; an empty one is none. Raises ``InvalidRequest``."""
    key = request.headers.get(HEADER, "").strip()
    if len(key) > MAX_KEY_CHARS:
        message = f"The '{HEADER}' header is too long: at most {MAX_KEY_CHARS} characters, but it has {len(key)}."
        raise InvalidRequest(message, code="string_above_max_length")
    if not key:
        return None
    return Once(hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest(), hashlib.sha256(body).hexdigest())


def reused() -> IdempotencyReused:
    return IdempotencyReused(
        f"This '{HEADER}' was used with another body. Send the same body again, or take a new key for a new request."
    )
