"""Seal what only this server may read again, and hand it to clients: provider state and compacted context.

A sealed text is ``rsp1.`` and base64url of a salt of 16 bytes and AES-256-GCM ciphertext. Each has a key of its own, made by
HKDF-SHA256 from the server's key, the salt and what it is for (tenant and kind), so a text opens for that tenant and
that kind only. Keys come from ``RESPOOL_SEAL_KEY``: the first one seals, all of them open.
"""

import base64
import binascii
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PREFIX = "rsp1."
SALT_BYTES = 16
NONCE = bytes(12)
"""May be the same for all: no two texts share a key."""


class Sealer:
    """The keys of this server; without any, nothing is sealed and nothing opens."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def bind(self, tenant: str, kind: str) -> "Seal":
        """What seals and opens texts of this *tenant* and *kind*."""
        return Seal(self._keys, f"{kind}\n{tenant}".encode())


class Seal:
    """Seals and opens for one purpose."""

    __slots__ = ("_keys", "_purpose")

    def __init__(self, keys: Sequence[bytes], purpose: bytes) -> None:
        self._keys = keys
        self._purpose = purpose

    def seal(self, data: bytes) -> str | None:
        """A text that opens to *data*; ``None`` when this server has no key."""
        if not self._keys:
            return None
        salt = os.urandom(SALT_BYTES)
        sealed = self._cipher(self._keys[0], salt).encrypt(NONCE, data, None)
        return PREFIX + base64.urlsafe_b64encode(salt + sealed).decode()

    def open(self, text: str) -> bytes | None:
        """What was sealed; ``None`` for everything else: another server's, another tenant's, or forged."""
        if not text.startswith(PREFIX):
            return None
        try:
            raw = base64.b64decode(text[len(PREFIX) :], b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        salt, sealed = raw[:SALT_BYTES], raw[SALT_BYTES:]
        for key in self._keys:
            try:
                return self._cipher(key, salt).decrypt(NONCE, sealed, None)
            except InvalidTag:
                continue
        return None

    def _cipher(self, key: bytes, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(SHA256(), 32, salt, self._purpose).derive(key))
