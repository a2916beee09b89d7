"""From an accepted request to a submitted response."""

import os
import re
import time
from dataclasses import dataclass

import msgspec
import structlog

from api.admission import Admission
from api.context import Context, check_fit, check_window, conversation_locked, conversation_not_found, parent_not_found
from api.idempotency import Once, reused
from api.items import complete
from api.validate import Accepted
from shared.core.emitter import Emitter
from shared.core.frames import render_all
from shared.core.responses import draft
from shared.core.tiers import HEAD_START_MS, lane_of
from shared.errors import StoreUnavailable
from shared.ids import (
    HOME_PARTITION,
    RANDOM_BYTES,
    base32,
    is_conversation_id,
    is_response_id,
    partition_number,
    response_id,
    timed,
)
from shared.settings import Settings
from shared.store.responses import Responses
from shared.store.rows import NewResponse
from shared.wire.requests import Request
from shared.wire.responses import Response

MAX_NOTED = 10_000
_PLACE = re.compile(r"\[\d+\]")

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
NO_KEY = "", ""


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf, and through which process."""

    tenant: str
    inbox: str
    request_id: str
    once: Once | None = None


def note_dropped(noted: set[tuple[str, str]], accepted: Accepted) -> None:
    """Log once for each backend and parameter that the parameter does not reach it."""
    for path in accepted.dropped:
        seen = accepted.row.base_url, _PLACE.sub("[]", path.partition(" ")[0])
        if seen not in noted and len(noted) < MAX_NOTED:
            noted.add(seen)
            log.info("parameter.dropped", model=accepted.request.model, parameter=seen[1])


def prepare(accepted: Accepted, context: Context, caller: Caller, settings: Settings) -> NewResponse:
    """Everything that submit writes: ids given, the first frames rendered. A context that is not stored becomes a part of
    its own items."""
    request, items = accepted.request, accepted.items
    check_fit(accepted, context.items)
    check_window(accepted, context.items)
    parent = request.previous_response_id or "" if context.stored else ""
    if not context.stored:
        items = [*context.items, *items]
        request.items = len(items)
    conversation = request.conversation.id if request.conversation else ""
    partition = _partition(request)
    now = time.time()
    request.id = response_id(partition, timed(int(now * 1000), os.urandom(RANDOM_BYTES)))
    request.created_at = int(now)
    response = draft(request)
    body = _encode(response)
    opening, opening_count, begin = _first_frames(response) if request.stream else (b"", 0, b"")
    return NewResponse(
        id=request.id,
        tenant=caller.tenant,
        lane=lane_of(background=request.background),
        inbox="" if request.background and not request.stream else caller.inbox,
        stream=request.stream,
        background=request.background,
        store=request.store,
        keep_s=_keep_s(accepted, settings),
        parent=parent,
        request_id=caller.request_id,
        request=_encode(request),
        object=body,
        items=_encode(complete(items, request.id, taken=context.taken)),
        created_ms=int(now * 1000),
        opening=opening,
        opening_count=opening_count,
        begin=begin,
        head_start_ms=HEAD_START_MS[request.service_tier],
        conversation=conversation,
        read=context.read,
        idempotency=(caller.once.key, caller.once.body) if caller.once else NO_KEY,
    )


def _first_frames(response: Response) -> tuple[bytes, int, bytes]:
    """Those that are there at once, how many, and the one that is when it runs. *response* is used up."""
    emitter = Emitter(response)
    emitter.created()
    if response.background:
        emitter.queued()
    opening = emitter.take()
    emitter.in_progress()
    return render_all(opening), len(opening), render_all(emitter.take())


def _partition(request: Request) -> int:
    """Where a response lives: with its parent or conversation, if it has one."""
    owner = request.previous_response_id or (request.conversation.id if request.conversation else "")
    owned = is_response_id(owner) or is_conversation_id(owner)
    return partition_number(owner) if owned else HOME_PARTITION


async def recall(accepted: Accepted, caller: Caller, responses: Responses) -> str | None:
    """The id of the response that an earlier call with the same Idempotency-Key has made."""
    if caller.once is None:
        return None
    return await caller.once.recall(responses, base32(_partition(accepted.request), 2), caller.tenant)


def _keep_s(accepted: Accepted, settings: Settings) -> int:
    if accepted.request.store:
        return settings.retention_s
    return settings.unstored_background_s if accepted.request.background else settings.unstored_foreground_s


async def submit(new: NewResponse, responses: Responses, settings: Settings, admission: Admission) -> bool:
    """Queue it. True when it is accepted, false when its Idempotency-Key stands for another response meanwhile; raises
    an ``ApiError`` when it is refused."""
    try:
        word = await responses.submit(
            new, max_queue=settings.max_queue, budget_s=settings.submit_budget_s,
            tenant_waiting=settings.tenant_max_waiting, tenant_unfinished=settings.tenant_max_unfinished,
        )  # fmt: skip
    except StoreUnavailable as error:
        if error.full:  # refused by Redis itself, so it is certain that nothing was written
            raise admission.refusal("memory") from error
        raise
    if word == "full":
        raise admission.refusal("queue")
    if word == "capped":
        raise admission.refusal("tenant")
    if word == "parent":
        raise parent_not_found(new.parent)
    if word == "conversation":
        raise conversation_not_found(new.conversation, param="conversation")
    if word == "locked":
        raise conversation_locked()
    if word == "reused":
        raise reused()
    return word == "ok"
