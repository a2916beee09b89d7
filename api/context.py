"""What comes before a request's own input: the chain of its parent, or the items of its conversation."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from api.pairing import check_pairing, without_repeats
from api.references import References
from api.validate import Accepted
from shared.core.fitness import misfits
from shared.core.history import item_id_of, split
from shared.core.window import surely_overflows, text_bytes
from shared.errors import InvalidRequest, NotFound
from shared.ids import is_conversation_id, is_response_id
from shared.settings import Settings
from shared.store.conversations import Conversations
from shared.store.responses import Responses
from shared.wire.items import StoredItem

_decode_items = msgspec.json.Decoder(list[StoredItem]).decode


@dataclass(frozen=True, slots=True)
class Context:
    """``taken`` are the ids that no other item may have, those of deleted items included; ``read`` says how much there
    was of the conversation (``Head.batches`` and ``Head.deleted``). What is not ``stored`` a worker cannot read."""

    items: list[StoredItem]
    taken: frozenset[str] = frozenset()
    read: tuple[int, int] = (0, 0)
    stored: bool = True


async def read_context(
    accepted: Accepted,
    tenant: str,
    responses: Responses,
    conversations: Conversations,
    settings: Settings,
    *,
    keeps: bool = True,
    remembered: Sequence[bytes] | None = None,
) -> Context:
    """The parent or conversation exists for this tenant, and calls and outputs pair over the whole context. *accepted* is
    without what was only repeated. The lifetime of what was read is made long enough for a new turn, unless *keeps* is
    false. *remembered*: the JSON arrays of items of a parent that is not stored."""
    request = accepted.request
    if remembered is not None:
        context = Context(_items_of(remembered), stored=False)
    elif request.previous_response_id is not None:
        context = await _read_chain(request.previous_response_id, tenant, responses, settings, keeps=keeps)
    elif request.conversation is not None:
        context = await _read_conversation(
            request.conversation.id, tenant, conversations, settings, writes=request.store
        )
    else:
        context = Context([])
    if accepted.references:
        references = References(context.items, tenant, responses, conversations)
        await references.put(accepted.items, accepted.references)
    accepted.items[:] = without_repeats(context.items, accepted.items, accepted.references)
    request.items = len(accepted.items)
    check_pairing([*context.items, *accepted.items])
    return context


def check_window(accepted: Accepted, history: Sequence[StoredItem]) -> None:
    """Refuse what surely does not fit into the model's context window. *history* comes before the request's own items."""
    request, row = accepted.request, accepted.row
    if not row.context_tokens or request.truncation == "auto":
        return
    context_bytes = len(request.instructions or "") + text_bytes([*history, *accepted.items])
    if surely_overflows(context_bytes, row.context_tokens):
        message = (
            f"Your input exceeds the context window of this model ({row.context_tokens} tokens). "
            "Please adjust your input and try again, or send truncation='auto'."
        )
        raise InvalidRequest(message, param="input", code="context_length_exceeded")


def check_fit(accepted: Accepted, history: Sequence[StoredItem]) -> None:
    """Refuse what the backend cannot do. *history* comes before the request's own items."""
    first = None
    for target in accepted.row.targets:
        misfit = next(misfits(accepted.request, history, accepted.items, target.quirks), None)
        if misfit is None:
            return  # there is a backend that takes it
        first = first or misfit
    if first is None:
        return
    misfit = first
    model, kind = accepted.request.model, misfit.code.partition("_")[2]
    message = f"Unsupported {kind}: the model '{model}' does not take {misfit.what}."
    raise InvalidRequest(message, param=misfit.param, code=misfit.code)


async def _read_chain(parent: str, tenant: str, responses: Responses, settings: Settings, *, keeps: bool) -> Context:
    if not is_response_id(parent):
        raise parent_not_found(parent)
    chain = await responses.chain(
        parent, tenant, keep_s=settings.context_keep_s if keeps else 0, starts_turn=True,
        max_links=settings.max_chain_links, max_bytes=settings.max_context_bytes,
    )  # fmt: skip
    if chain == "gone":
        raise parent_not_found(parent)
    if chain == "running":
        raise parent_running(parent)
    if isinstance(chain, str):
        message = "The chain of previous responses is too long for this server. Start a new one."
        raise InvalidRequest(message, param="previous_response_id", code="context_length_exceeded")
    items = _items_of(chain)
    return Context(items, frozenset(item.id for item in items if item.id))


async def _read_conversation(
    conversation_id: str, tenant: str, conversations: Conversations, settings: Settings, *, writes: bool
) -> Context:
    history = await conversations.load(conversation_id, tenant) if is_conversation_id(conversation_id) else None
    if history is None:
        raise conversation_not_found(conversation_id, param="conversation")
    if writes and history.head.locked:
        raise conversation_locked()
    if history.head.size_bytes > settings.max_context_bytes:
        raise conversation_too_long()
    items = _items_of(history.items)
    taken = frozenset(item_id_of(item) for item in split(history.everything))
    return Context(items, taken, (history.head.batches, history.head.deleted))


def _items_of(batches: Sequence[bytes | msgspec.Raw]) -> list[StoredItem]:
    return [item for batch in batches for item in _decode_items(batch)]


def parent_not_found(parent: str | None) -> InvalidRequest:
    message = f"Previous response with id '{parent}' not found."
    return InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")


def parent_running(parent: str) -> InvalidRequest:
    message = f"Previous response with id '{parent}' has not ended yet. Wait for its end, then send this again."
    return InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")


def conversation_not_found(conversation_id: str, *, param: str | None = None) -> NotFound:
    return NotFound(f"Conversation with id '{conversation_id[:80]}' not found.", param=param)


def conversation_locked() -> InvalidRequest:
    message = "Another process is currently operating on this conversation. Please retry in a few seconds."
    return InvalidRequest(message, param="conversation", code="conversation_locked")


def conversation_too_long() -> InvalidRequest:
    message = "The conversation is too long for this server. Start a new one."
    return InvalidRequest(message, param="conversation", code="context_length_exceeded")
