"""``/v1/responses``: create, read, stream, cancel, delete, input items."""

import asyncio
import contextlib
from typing import Any

import msgspec
import structlog
from aiohttp import web

from api.creation import Caller, check_context, prepare, submit
from api.middleware import REQUEST_ID, TENANT
from api.queries import page_of, starting_after_of, streams
from api.relay import EventStream, Follower, Gone
from api.resources import CANCELLER, HUB, RESPONSES, SETTINGS, STATE, spawn
from api.validate import accept
from shared.core.emitter import Ending
from shared.core.lifecycle import TERMINAL
from shared.errors import ApiError, InvalidRequest, NotFound, StoreUnavailable
from shared.hub import Reader
from shared.ids import is_response_id
from shared.store.responses import NewResponse, Snapshot
from shared.wire.responses import Deleted, Response, ResponseError

GRACE_S = 5.0
"""What a foreground response may take longer than ``max_foreground_s``, until the front end ends it itself."""
RECHECK_S = 5.0
WITHDRAW_TRIES, WITHDRAW_WAIT_S = 60, 1.0
MAX_NAMED = 20
"""So many of the dropped parts of a request are named in the header."""

log = structlog.get_logger()
routes = web.RouteTableDef()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Response).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def json_response(body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers=headers)


@routes.post("/v1/responses")
async def create(request: web.Request) -> web.StreamResponse:
    app, settings = request.app, request.app[SETTINGS]
    accepted = accept(await request.read(), settings)
    tenant, responses, hub = request[TENANT], app[RESPONSES], app[HUB]
    await check_context(accepted, tenant, responses, settings)
    new = prepare(accepted, Caller(tenant, hub.process, request[REQUEST_ID]), settings)
    headers = {"x-respool-dropped": _few(accepted.dropped)} if accepted.dropped else {}
    with structlog.contextvars.bound_contextvars(response_id=new.id), hub.listen(new.id) as reader:
        submitting = spawn(app, submit(new, responses, settings))
        try:
            await asyncio.shield(submitting)
            if new.stream:
                return await _stream_new(request, new, reader, headers)
            if new.background:
                return json_response(new.object, headers)
            return json_response(await _wait(request, new, reader), headers)
        except (asyncio.CancelledError, ConnectionResetError):
            if not new.background and settings.foreground_hangup == "cancel" and not app[STATE].draining:
                spawn(app, _hang_up(app, new, submitting))
            raise
        except StoreUnavailable:
            if submitting.done() and submitting.exception():
                spawn(app, _withdraw(app, new))  # nobody knows whether it was accepted, and the client gets a 503
            raise


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
    ended = False
    try:
        async with contextlib.aclosing(follower.follow(reader, read_log=read_log)) as frames:
            async for each in frames:
                await stream.write(each)
        ended = True
        return await stream.close()
    except (Gone, StoreUnavailable):
        stream.cut()
        raise ConnectionResetError("the response is gone") from None
    finally:
        if not ended:
            spawn(request.app, follower.leave())


async def _wait(request: web.Request, new: NewResponse, reader: Reader) -> bytes:
    """The object of a foreground response, once it has ended."""
    app, settings = request.app, request.app[SETTINGS]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.max_foreground_s + GRACE_S
    while True:
        heard = await reader.next(max(0.0, min(RECHECK_S, deadline - loop.time())))
        if heard is not None and heard.kind == b"s" and heard.blob:
            return heard.blob
        try:
            if loop.time() >= deadline:
                error = ResponseError(
                    "server_error", "No worker took this response in time. Create it with background=true."
                )
                snapshot = await app[CANCELLER].cancel(new.id, new.tenant, Ending("failed", error=error))
            else:
                snapshot = await app[RESPONSES].read(new.id, new.tenant)
        except StoreUnavailable as away:
            if loop.time() >= deadline:
                raise
            log.warning("redis.unavailable", error=str(away))
            await asyncio.sleep(0.5)
            continue
        if snapshot is None:
            raise NotFound(f"Response with id '{new.id}' not found.")
        if snapshot.status in TERMINAL:
            return snapshot.object


async def _hang_up(app: web.Application, new: NewResponse, submitting: "asyncio.Task[Any]") -> None:
    """The creator of a foreground response has gone: end it, to free its slot and the backend."""
    await asyncio.wait([submitting])
    if submitting.exception() is None:
        await _withdraw(app, new)


async def _withdraw(app: web.Application, new: NewResponse) -> None:
    """Cancel a response that nobody waits for, as soon as Redis allows it."""
    for _ in range(WITHDRAW_TRIES):
        try:
            await app[CANCELLER].cancel(new.id, new.tenant)
            return
        except (StoreUnavailable, ApiError) as error:
            log.warning("redis.unavailable", error=str(error))
        await asyncio.sleep(WITHDRAW_WAIT_S)


async def _find(request: web.Request) -> tuple[str, Snapshot]:
    """The response that the path names, as far as this tenant can know of it."""
    response_id = request.match_info["response_id"]
    if is_response_id(response_id):
        snapshot = await request.app[RESPONSES].read(response_id, request[TENANT])
        if snapshot is not None and snapshot.visible:
            return response_id, snapshot
    raise not_found(response_id)


def not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:80]}' not found.")


def _shown(snapshot: Snapshot) -> bytes:
    """The object as it stands: the stored one says ``queued`` until its end."""
    if snapshot.status in TERMINAL or snapshot.status == "queued":
        return snapshot.object
    return _encode(msgspec.structs.replace(_decode(snapshot.object), status=snapshot.status))


@routes.get("/v1/responses/{response_id}")
async def read(request: web.Request) -> web.StreamResponse:
    streaming, after = streams(request), starting_after_of(request)
    response_id, snapshot = await _find(request)
    if not streaming:
        return json_response(_shown(snapshot))
    if not snapshot.stream:
        message = "This response cannot be streamed because it was not created with stream=true."
        raise InvalidRequest(message, param="stream", code="invalid_request_error")
    app, settings = request.app, request.app[SETTINGS]
    with app[HUB].listen(response_id) as reader:
        stream = EventStream(request, settings.sse_write_timeout_s)
        follower = Follower(app[RESPONSES], app[HUB], response_id, request[TENANT], after, settings.sse_ping_s)
        await stream.open({})
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
        raise InvalidRequest(f"Cannot cancel a {snapshot.status} response.", param="response_id")
    return json_response(snapshot.object)


@routes.delete("/v1/responses/{response_id}")
async def delete(request: web.Request) -> web.StreamResponse:
    response_id, _ = await _find(request)
    word = await request.app[RESPONSES].delete(response_id, request[TENANT])
    if word == "gone":
        raise not_found(response_id)
    if word == "running":
        raise InvalidRequest("Cannot delete an in-flight response. Cancel it first.")
    return json_response(_encode(Deleted(response_id)))


@routes.get("/v1/responses/{response_id}/input_items")
async def input_items(request: web.Request) -> web.StreamResponse:
    response_id, snapshot = await _find(request)
    settings = request.app[SETTINGS]
    if not snapshot.store and snapshot.status in TERMINAL and not snapshot.background:
        raise not_found(response_id)
    chain = await request.app[RESPONSES].chain(
        response_id, request[TENANT], keep_s=0,
        max_links=settings.max_chain_links, max_bytes=settings.max_context_bytes,
    )  # fmt: skip
    if isinstance(chain, str):
        raise not_found(response_id)
    items = [item for part in chain[:-1] for item in _decode_items(part)]  # all but its own output
    return json_response(_encode(page_of(items, request)))
