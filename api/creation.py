"""From an accepted request to a submitted response."""

import os
import time
from dataclasses import dataclass

import msgspec

from api.items import check_pairing, complete
from api.validate import Accepted
from shared.config import Settings
from shared.core.emitter import Emitter
from shared.core.frames import render_all
from shared.core.responses import draft
from shared.errors import InvalidRequest, Overloaded
from shared.ids import ALPHABET, HOME_PARTITION, RANDOM_BYTES, is_response_id, partition_of, response_id
from shared.store.responses import NewResponse, Responses
from shared.wire.items import Item

_encode = msgspec.json.Encoder().encode
_decode_items = msgspec.json.Decoder(list[Item]).decode
FULL_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf, and through which process."""

    tenant: str
    inbox: str
    request_id: str


def prepare(accepted: Accepted, caller: Caller, settings: Settings) -> NewResponse:
    """Everything that submit writes: ids given, the first frames rendered."""
    request = accepted.request
    parent = request.previous_response_id or ""
    partition = _number(partition_of(parent)) if parent else HOME_PARTITION
    now = time.time()
    request.id = response_id(partition, os.urandom(RANDOM_BYTES))
    request.created_at = int(now)
    response = draft(request)
    emitter = Emitter(response, streaming=request.stream)
    body = _encode(response)
    emitter.created()
    if request.background:
        emitter.queued()
    opening = emitter.take()
    emitter.in_progress()
    return NewResponse(
        id=request.id,
        tenant=caller.tenant,
        lane="background" if request.background else "foreground",
        inbox="" if request.background and not request.stream else caller.inbox,
        stream=request.stream,
        background=request.background,
        store=request.store,
        keep_s=_keep_s(accepted, settings),
        parent=parent,
        request_id=caller.request_id,
        request=_encode(request),
        object=body,
        items=_encode(complete(accepted.items, request.id)),
        created_ms=int(now * 1000),
        opening=render_all(opening),
        opening_count=len(opening),
        begin=render_all(emitter.take()),
    )


def _number(partition: str) -> int:
    return ALPHABET.index(partition[0]) * len(ALPHABET) + ALPHABET.index(partition[1])


def _keep_s(accepted: Accepted, settings: Settings) -> int:
    if accepted.request.store:
        return settings.retention_s
    return settings.unstored_background_s if accepted.request.background else settings.unstored_foreground_s


async def check_context(accepted: Accepted, tenant: str, responses: Responses, settings: Settings) -> None:
    """The parent exists for this tenant, and calls and outputs pair over the whole context."""
    parent = accepted.request.previous_response_id
    context: list[Item] = []
    if parent is not None:
        if not is_response_id(parent) or await responses.read(parent, tenant) is None:
            raise parent_not_found(parent)
        chain = await responses.chain(
            parent, tenant, keep_s=settings.retention_s,
            max_links=settings.max_chain_links, max_bytes=settings.max_context_bytes,
        )  # fmt: skip
        if chain == "gone":
            raise parent_not_found(parent)
        if isinstance(chain, str):
            message = "The chain of previous responses is too long for this server. Start a new one."
            raise InvalidRequest(message, param="previous_response_id", code="context_length_exceeded")
        for items in chain:
            context += _decode_items(items)
    check_pairing([*context, *accepted.items])


def parent_not_found(parent: str | None) -> InvalidRequest:
    message = f"Previous response with id '{parent}' not found."
    return InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")


async def submit(new: NewResponse, responses: Responses, settings: Settings) -> None:
    """Queue it. Returns when it is accepted; raises ``Overloaded`` or ``InvalidRequest`` when it is not."""
    word = await responses.submit(new, max_queue=settings.max_queue, budget_s=settings.submit_budget_s)
    if word == "full":
        message = "The server is overloaded: too many responses are waiting. Please retry later."
        raise Overloaded(message, retry_after_s=FULL_RETRY_AFTER_S)
    if word == "parent":
        raise parent_not_found(new.parent)
