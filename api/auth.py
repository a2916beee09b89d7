"""Who calls: a bearer key leads to a tenant."""

import hashlib
import hmac
from collections.abc import Sequence

from shared.config import ApiKey
from shared.errors import Unauthorized

OPEN_TENANT = "default"
"""Everybody, where no keys are configured; that is only served on loopback."""


def tenant_of(authorization: str | None, keys: Sequence[ApiKey]) -> str:
    """The tenant behind an ``Authorization`` header. Raises ``Unauthorized``; the key is never repeated."""
    if not keys:
        return OPEN_TENANT
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized("You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.")
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    found = [each.tenant for each in keys if hmac.compare_digest(each.sha256, digest)]
    if not found:
        raise Unauthorized("Incorrect API key provided.")
    return found[0]
