"""A conversation's life in Redis, behind verbs. Each verb is one script.

What responses do to a conversation (read it, hold it, add to it) is part of their own scripts: ``submit``, ``chain``, and
``settle`` in ``common.lua``.
"""

from dataclasses import dataclass
from typing import Literal, cast

from shared.core.history import without
from shared.ids import partition_of
from shared.store.redis import Store


@dataclass(frozen=True, slots=True)
class NewConversation:
    """``metadata`` is a JSON object, ``items`` a JSON array of ``count`` items."""

    id: str
    tenant: str
    created_at: int
    metadata: bytes
    keep_s: int
    items: bytes
    count: int


@dataclass(frozen=True, slots=True)
class Head:
    """A conversation without its items. ``batches`` and ``deleted`` are counts that only grow, so they name what was read."""

    id: str
    created_at: int
    metadata: bytes
    next_item: int
    size_bytes: int
    locked: bool
    """Whether a response that has not ended holds it."""
    batches: int
    deleted: int


@dataclass(frozen=True, slots=True)
class History:
    """A conversation with the items that were asked for. ``everything`` still has the deleted ones: their ids are not
    given again."""

    head: Head
    everything: list[bytes]
    deleted: list[str]

    @property
    def items(self) -> list[bytes]:
        """JSON arrays of items, oldest first."""
        return without(self.everything, self.deleted)


Added = Literal["ok", "gone", "locked", "moved", "long"]
Dropped = Literal["ok", "gone", "locked"]


class Conversations:
    """The verbs of one Redis. All raise ``StoreUnavailable``; all may be repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, new: NewConversation) -> None:
        args = new.id, new.tenant, new.created_at, new.metadata, new.keep_s, new.items, new.count
        await self._store.call("conversation_create", partition_of(new.id), *args)

    async def read(self, conversation_id: str, tenant: str) -> Head | None:
        row = await self._store.call("conversation_read", partition_of(conversation_id), conversation_id, tenant, 0)
        return _head(conversation_id, row) if row else None

    async def load(self, conversation_id: str, tenant: str, first: int = 0, last: int = -1) -> History | None:
        """With the batches *first* to *last*; negative numbers count from the end."""
        args = conversation_id, tenant, 1, first, last
        row = await self._store.call("conversation_read", partition_of(conversation_id), *args)
        if not row:
            return None
        return History(_head(conversation_id, row[:7]), row[8], [each.decode() for each in row[7]])

    async def update(self, conversation_id: str, tenant: str, metadata: bytes) -> int | None:
        """Replace the metadata. Returns when it was created, ``None`` when there is no such conversation."""
        args = conversation_id, tenant, metadata
        row = await self._store.call("conversation_update", partition_of(conversation_id), *args)
        return int(row[0]) if row else None

    async def delete(self, conversation_id: str, tenant: str) -> bool:
        """Whether there was such a conversation."""
        partition = partition_of(conversation_id)
        return bool(await self._store.call("conversation_delete", partition, conversation_id, tenant) == b"ok")

    async def add(self, head: Head, tenant: str, items: bytes, count: int, *, max_bytes: int, call: str) -> Added:
        """Add *count* items, whose ids were chosen when *head* was read. *call* names this call and its repetitions."""
        args = head.id, tenant, items, count, head.batches, max_bytes, call
        answer = await self._store.call("conversation_add", partition_of(head.id), *args)
        return cast(Added, answer.decode())

    async def drop(self, conversation_id: str, tenant: str, item_id: str) -> Dropped:
        """Delete an item that is there. *item_id* may be any text of a stored item."""
        args = conversation_id, tenant, item_id
        answer = await self._store.call("conversation_drop", partition_of(conversation_id), *args)
        return cast(Dropped, answer.decode())


def _head(conversation_id: str, row: list[bytes]) -> Head:
    created, metadata, next_item, size, locked, batches, deleted = row
    counts = int(next_item), int(size), bool(int(locked)), int(batches), int(deleted)
    return Head(conversation_id, int(created), metadata, *counts)
