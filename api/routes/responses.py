"""``/v1/responses``: create, read, stream, cancel, delete, input items."""

import contextlib

import msgspec
import structlog
from aiohttp import web

from api.bodies import read_body
from api.compaction import seal_of
from api.context import read_context
from api.creation import NO_KEY, Caller, note_dropped, prepare, recall
from api.headers import given_channel
from api.idempotency import REPLAYED, once_of
from api.middleware import REQUEST_ID, TENANT
from api.queries import include_of, paging_of, starting_after_of, streams, wait_of
from api.relay import EventStream, Follower, Gone, Severed
from api.resources import ADMISSION, CANCELLER, CONVERSATIONS, EXAMINER, HUB, RESPONSES, SETTINGS, STATE, spawn
from api.schemas import check_schemas
from api.validate import accept
from api.waiting import ASK_AGAIN, attempt_headers, join, not_found, poll, progress_headers, submitted, wait_for_end
from shared.core.lifecycle import TERMINAL
from shared.errors import ApiError, InvalidRequest, Overloaded, StoreUnavailable
from shared.hub import Reader
from shared.ids import is_response_id
from shared.logs import bound
from shared.store.rows import NewResponse, Snapshot
from shared.wire.requests import Request
from shared.wire.responses import Deleted, Response

MAX_NAMED = 20
"""So many of the dropped parts of a request are named in the header."""

routes = web.RouteTableDef()
log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Response).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def json_response(body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers=headers)


@routes.post("/v1/responses")
async def create(request: web.Request) -> web.StreamResponse:
    app, settings = request.app, request.app[SETTINGS]
    if app[STATE].draining:
        raise app[ADMISSION].refusal("draining")
    body = await read_body(request)
    once = once_of(request, body)
    accepted = accept(body, settings, given_channel(request, settings), seal_of(request).open)
    await check_schemas(accepted.schemas, app[EXAMINER])
    caller = Caller(request[TENANT], app[HUB].process, request[REQUEST_ID], once)
    left_out = [*accepted.dropped, *(f"{name} (unknown)" for name in accepted.unknown)]
    headers = {"x-respool-dropped": _few(left_out)} if left_out else {}
    note_dropped(app[STATE].noted, accepted)
    made = await recall(accepted, caller, app[RESPONSES])
    if made is None:
        app[ADMISSION].check()
        try:
            context = await read_context(accepted, caller.tenant, app[RESPONSES], app[CONVERSATIONS], settings)
        except ApiError:
            made = await recall(accepted, caller, app[RESPONSES])  # perhaps another call with its key has changed it
            if made is None:
                raise
        else:
            answer = await _submit(request, prepare(accepted, context, caller, settings), headers)
            if answer is not None:
                return answer
            made = await recall(accepted, caller, app[RESPONSES])
    if made is None:
        raise Overloaded("The response of this Idempotency-Key has just been deleted. Please retry.", retry_after_s=1)
    return await _replay(request, accepted.request, made, headers | REPLAYED)


async def _submit(request: web.Request, new: NewResponse, headers: dict[str, str]) -> web.StreamResponse | None:
    """The answer to a new response; ``None`` when its Idempotency-Key stands for another one meanwhile."""
    async with submitted(request.app, new) as (reader, is_new):
        if not is_new:
            return None
        if new.stream:
            return await _stream_new(request, new, reader, headers)
        if new.background:
            return json_response(new.object, headers | ASK_AGAIN)
        ended = await wait_for_end(request.app, new.id, new.tenant, reader, keyed=new.idempotency != NO_KEY)
        return json_response(ended.object, headers | attempt_headers(ended.attempts))


async def _replay(
    request: web.Request, asked: Request, response_id: str, headers: dict[str, str]
) -> web.StreamResponse:
    """The answer to a call that was made before: the same response, from its start, or as it is now."""
    app, tenant = request.app, request[TENANT]
    with bound(response_id=response_id):
        if asked.stream:
            return await _stream_from(request, response_id, -1, headers)
        if not asked.background:
            ended = await join(app, response_id, tenant)
            return json_response(ended.object, headers | attempt_headers(ended.attempts))
        snapshot = await app[RESPONSES].read(response_id, tenant)
        if snapshot is None:
            raise not_found(response_id)
        return json_response(_shown(snapshot), headers | progress_headers(snapshot))


def _few(names: list[str]) -> str:
    """*names* for a header: not more than fit into one."""
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return ", ".join([*names[:MAX_NAMED], *more])


async def _stream_new(
    request: web.Request, new: NewResponse, reader: Reader, headers: dict[str, str]
) -> web.StreamResponse:
    """The stream of a response that was just submitted: its first frames are at hand."""
    app, settings = request.app, request.app[SETTINGS]
    stream = EventStream(request, settings.sse_write_timeout_s)
    await stream.open(headers)
    await stream.write(new.opening)
    follower = Follower(app[RESPONSES], app[HUB], new.id, new.tenant, new.opening_count - 1, settings.sse_ping_s)
    return await _relay(request, stream, follower, reader, read_log=False)


async def _relay(
    request: web.Request, stream: EventStream, follower: Follower, reader: Reader, *, read_log: bool
) -> web.StreamResponse:
    ended, state = False, request.app[STATE]
    state.streams.add(request.task)
    try:
        if state.leaving:
            raise Severed("this process ends")
        async with contextlib.aclosing(follower.follow(reader, stream.push, read_log=read_log)) as frames:
            async for each in frames:
                await stream.write(each)
        ended = True
        return await stream.close()
    except (Gone, StoreUnavailable):
        raise Severed("it cannot go on here") from None
    finally:
        state.streams.discard(request.task)
        if not ended:
            stream.cut()  # whatever it was: no other answer can follow what was sent
            spawn(request.app, follower.leave())


async def _find(request: web.Request, *, whole: bool = True) -> tuple[str, Snapshot]:
    """The response that the path names, as far as this tenant can know of it; its object only with *whole*."""
    response_id = request.match_info["response_id"]
    if is_response_id(response_id):
        snapshot = await request.app[RESPONSES].read(response_id, request[TENANT], whole=whole)
        if snapshot is not None and snapshot.visible:
            return response_id, snapshot
    raise not_found(response_id)


def _shown(snapshot: Snapshot) -> bytes:
    """The object as it stands: the stored one says ``queued`` until its end."""
    if snapshot.status in TERMINAL or snapshot.status == "queued":
        return snapshot.object
    return _encode(msgspec.structs.replace(_decode(snapshot.object), status=snapshot.status))


@routes.get("/v1/responses/{response_id}")
async def read(request: web.Request) -> web.StreamResponse:
    streaming = streams(request)
    after, wait_s = starting_after_of(request, streaming=streaming), wait_of(request, streaming=streaming)
    include_of(request)
    response_id, snapshot = await _find(request, whole=not streaming)
    if not streaming:
        if wait_s and snapshot.status not in TERMINAL:
            now = await poll(request.app, response_id, request[TENANT], wait_s, since=snapshot.status)
            if now is None:
                raise not_found(response_id)
            snapshot = now
        return json_response(_shown(snapshot), progress_headers(snapshot))
    if not snapshot.stream:
        message = "This response cannot be streamed because it was not created with stream=true."
        raise InvalidRequest(message, param="stream", code="invalid_request_error")
    return await _stream_from(request, response_id, after, {})


async def _stream_from(
    request: web.Request, response_id: str, after: int, headers: dict[str, str]
) -> web.StreamResponse:
    """The stream of a response that exists, behind event *after*."""
    app, settings = request.app, request.app[SETTINGS]
    with app[HUB].listen(response_id) as reader:
        stream = EventStream(request, settings.sse_write_timeout_s)
        follower = Follower(app[RESPONSES], app[HUB], response_id, request[TENANT], after, settings.sse_ping_s)
        answer = await stream.open(headers)
        if request.method == "HEAD":
            return answer
        return await _relay(request, stream, follower, reader, read_log=True)


@routes.post("/v1/responses/{response_id}/cancel")
async def cancel(request: web.Request) -> web.StreamResponse:
    response_id, before = await _find(request)
    if not before.background:
        raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")
    if before.status in TERMINAL:
        return _cancelled(before)
    after = await request.app[CANCELLER].cancel(response_id, request[TENANT])
    if after is None:
        raise not_found(response_id)
    return _cancelled(after)


def _cancelled(snapshot: Snapshot) -> web.Response:
    if snapshot.status != "cancelled":
        article = "an" if snapshot.status == "incomplete" else "a"
        raise InvalidRequest(f"Cannot cancel {article} {snapshot.status} response.", param="response_id")
    return json_response(snapshot.object)


@routes.delete("/v1/responses/{response_id}")
async def delete(request: web.Request) -> web.StreamResponse:
    response_id, _ = await _find(request, whole=False)
    word = await request.app[RESPONSES].delete(response_id, request[TENANT])
    if word == "running":  # else it is deleted: by this call, or since it was found, by its own repetition or another
        raise InvalidRequest("Cannot delete an in-flight response. Cancel it first.")
    return json_response(_encode(Deleted(response_id)))


@routes.get("/v1/responses/{response_id}/input_items")
async def input_items(request: web.Request) -> web.StreamResponse:
    include_of(request)
    paging = paging_of(request)
    response_id, _ = await _find(request)
    settings = request.app[SETTINGS]
    chain = await request.app[RESPONSES].chain(
        response_id, request[TENANT], keep_s=0, max_links=settings.max_chain_links + 1,
        max_bytes=settings.max_context_bytes + settings.max_body_bytes + settings.max_output_bytes,  # its own link, too
    )  # fmt: skip
    if isinstance(chain, str):
        raise not_found(response_id)
    items = [item for part in chain[:-1] for item in _decode_items(part)]  # all but its own output
    if paging.newest_first:
        items.reverse()
    return json_response(_encode(paging.cut(items, all_read=True)))
