"""What a backend is, and which one answers for a model."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from shared.config import ModelRow, find_model
from shared.core import compaction
from shared.core.emitter import Emitter, Ending
from shared.core.window import drop_oldest
from shared.errors import UpstreamError
from shared.seal import Sealer
from shared.wire.items import Item, StoredItem
from shared.wire.requests import Request
from worker.translate.anthropic import AnthropicDialect
from worker.translate.chat import ChatDialect
from worker.translate.dialect import Dialect, State
from worker.translate.responses import ResponsesDialect

DIALECTS: Mapping[str, Dialect] = {
    "chat": ChatDialect(),
    "responses": ResponsesDialect(),
    "anthropic": AnthropicDialect(),
}
"""Those that are spoken over HTTP."""
STATE_KIND = "state"
"""What provider state is sealed as."""
Flush = Callable[[], Awaitable[None]]
"""Hands over the events made so far. Awaited after each read; waits while too much is unflushed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One response to make: its request, its whole context in order, and where it goes."""

    request: Request
    items: Sequence[Item]
    row: ModelRow
    request_id: str
    state: State


class Backend(Protocol):
    """One dialect over one shell."""

    async def run(self, call: Call, emit: Emitter, flush: Flush) -> Ending:
        """Feed *emit* until the answer ends, and say how. Raises ``UpstreamError`` when it fails; closes its
        connection when it is cancelled."""
        ...


class Backends:
    """The model table with a backend behind each row."""

    def __init__(self, models: Mapping[str, ModelRow], backends: Mapping[str, Backend], sealer: Sealer) -> None:
        """*backends* by the dialect of a row."""
        self._models = models
        self._backends = backends
        self._sealer = sealer

    async def run(
        self, request: Request, stored: Sequence[StoredItem], tenant: str, request_id: str, emit: Emitter, flush: Flush
    ) -> Ending:
        row = find_model(self._models, request.model, request.channel)
        if row is None:
            raise UpstreamError("This model is no longer configured.", code="server_error")
        items: Sequence[Item] | None = compaction.reveal(stored, self._sealer.bind(tenant, compaction.KIND).open)
        if items is None:
            message = (
                "A compaction item of this context can no longer be opened: RESPOOL_SEAL_KEY of the server has changed."
            )
            raise UpstreamError(message, code="invalid_prompt")
        if request.truncation == "auto" and row.context_tokens:
            reserved = len(request.instructions or "") + len(msgspec.json.encode(request.tools))
            items = drop_oldest(items, row.context_tokens, reserved, request.max_output_tokens or 0)
        state = self._sealer.bind(tenant, STATE_KIND)
        return await self._backends[row.dialect].run(Call(request, items, row, request_id, state), emit, flush)
