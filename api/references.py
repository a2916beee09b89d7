"""``item_reference``: stored items by their ids, which carry their owner."""

from collections.abc import Callable, Sequence

import msgspec

from shared.core.history import item_id_of, split
from shared.errors import InvalidRequest, NotFound
from shared.ids import owners_of
from shared.store.conversations import Conversations
from shared.store.responses import Responses
from shared.wire.items import StoredItem

MAX_OWNERS = 100
"""So many responses and conversations may be read for the references of one request."""

_decode_item: Callable[[msgspec.Raw], StoredItem] = msgspec.json.Decoder(StoredItem).decode


class References:
    """Finds items for one request of one tenant: in its context, else where their ids say."""

    def __init__(
        self, context: Sequence[StoredItem], tenant: str, responses: Responses, conversations: Conversations
    ) -> None:
        self._context = {item.id: item for item in context}
        self._tenant = tenant
        self._responses = responses
        self._conversations = conversations
        self._owners: dict[str, dict[str, msgspec.Raw]] = {}

    async def put(self, items: list[StoredItem], references: dict[int, str]) -> None:
        """Put what is referenced into its places in *items*. Raises ``NotFound`` for the first that is not there."""
        for place in sorted(references):
            items.insert(place, await self._find(references[place]))

    async def _find(self, item_id: str) -> StoredItem:
        known = self._context.get(item_id)
        if known is not None:
            return msgspec.structs.replace(known)
        for owner in owners_of(item_id):
            if owner not in self._owners:
                self._owners[owner] = await self._read(owner)
            if (raw := self._owners[owner].get(item_id)) is not None:
                return _decode_item(raw)
        message = (
            f"Item with id '{item_id[:80]}' not found. Items are not persisted when 'store' is set to false. "
            "Try again with 'store' set to true, or remove this item from your input."
        )
        raise NotFound(message, param="input")

    async def _read(self, owner: str) -> dict[str, msgspec.Raw]:
        if len(self._owners) >= MAX_OWNERS:
            message = f"Invalid 'input': its item references lead to more than {MAX_OWNERS} different places."
            raise InvalidRequest(message, param="input", code="array_above_max_length")
        if owner.startswith("conv_"):
            history = await self._conversations.load(owner, self._tenant)
            batches = history.items if history else []
        else:
            batches = await self._responses.items_of(owner, self._tenant)
        return {item_id_of(item): item for item in split(batches)}
