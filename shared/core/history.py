"""Items as they are stored, in batches (JSON arrays), without those that were deleted."""

from collections.abc import Collection, Iterable, Set

import msgspec


class _Id(msgspec.Struct):
    id: str


_id_of = msgspec.json.Decoder(_Id).decode
_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def item_id_of(item: msgspec.Raw | bytes) -> str:
    """The id of a stored item."""
    return _id_of(item).id


def split(batches: Iterable[bytes]) -> list[msgspec.Raw]:
    """The items of all *batches*, in order."""
    return [item for batch in batches for item in _rows(batch)]


def without(batches: Iterable[bytes], deleted: Collection[str]) -> list[bytes]:
    """*batches* without the items whose ids are in *deleted*."""
    if not deleted:
        return list(batches)
    gone: Set[str] = frozenset(deleted)
    return [_encode([item for item in _rows(batch) if item_id_of(item) not in gone]) for batch in batches]
