"""A turn of a WebSocket: a ``response.create``, from its message to its last event. It is a streamed foreground response
like that of a POST, on the same way through the queue and out of the same log."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence

import msgspec
import structlog
from aiohttp import web

from api.context import Context, read_context
from api.creation import Caller, note_dropped, prepare
from api.memory import MEMORY_BYTES, Memory
from api.messages import Create, body_of, decode_message, error_event, generates
from api.outgoing import Lane, Outgoing
from api.relay import Follower, Gone
from api.resources import ADMISSION, CONVERSATIONS, EXAMINER, HUB, RESPONSES, SETTINGS, STATE, spawn
from api.schemas import check_schemas
from api.texts import Texts
from api.validate import accept
from api.waiting import submitted
from shared.core.compaction import Open
from shared.errors import ApiError, InvalidRequest, Leaving, ServerError, StoreUnavailable, Unauthorized
from shared.hub import Reader
from shared.logs import bound
from shared.store.rows import NewResponse


class _Ended(msgspec.Struct):
    output: msgspec.Raw


class _LastEvent(msgspec.Struct):
    response: _Ended


log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_decode_last = msgspec.json.Decoder(_LastEvent).decode


def too_old() -> InvalidRequest:
    message = "This connection has reached its time limit. Open a new one to go on."
    return InvalidRequest(message, code="websocket_connection_limit_reached")


class Turns:
    """Those of one connection. ``expired``, ``revoked`` (its key): it starts nothing new; ``leaving``: its end is ours,
    and no hang-up."""

    def __init__(self, app: web.Application, caller: Caller, channel: str, open_sealed: Open, out: Outgoing) -> None:
        self.expired = self.revoked = self.leaving = False
        self.count = 0
        self._app = app
        self._caller = caller
        self._channel = channel
        self._open_sealed = open_sealed
        self._out = out
        self._memory = Memory(min(MEMORY_BYTES, app[SETTINGS].max_context_bytes))

    async def take(self, create: Create) -> None:
        """Its events, or an error in their place or in place of the rest of them. Raises when the client has gone."""
        self.count += 1
        started, status = time.monotonic(), 499
        with bound(stream_id=create.stream_id) if create.stream_id else contextlib.nullcontext():
            try:
                status = await self._answer(create)
            finally:
                log.info("turn.served", status=status, duration_ms=round((time.monotonic() - started) * 1000, 1))

    async def _answer(self, create: Create) -> int:
        """The status that the answer to a POST would have had."""
        lane = create.stream_id
        try:
            await self._run(create)
            return 200
        except ApiError as refused:  # it is not kept: a frame that holds an error and is held by it is garbage for long
            status, event = refused.status, error_event(refused, lane)
        except StoreUnavailable as away:
            log.warning("redis.unavailable", error=str(away))
            refusal = self._app[ADMISSION].refusal("store")
            status, event = refusal.status, error_event(refusal, lane)
        except ConnectionResetError:
            raise
        except asyncio.CancelledError:  # by us: it has not begun, and never will
            if not self.leaving:
                raise
            refusal = too_old() if self.expired else self._app[ADMISSION].refusal("draining")
            status, event = refusal.status, error_event(refusal, lane)
        except Exception:  # where a turn enters: a fault of ours becomes a 500 without details
            log.exception("request.failed", path="response.create")
            message = "The server had an error while processing your request."
            fault = ServerError(f"{message} Its id is {self._caller.request_id}.")
            status, event = fault.status, error_event(fault, lane)
        self._memory.evict(create.parent)
        await self._out.say(event)
        return status

    async def _run(self, create: Create) -> None:
        app, settings, tenant = self._app, self._app[SETTINGS], self._caller.tenant
        if self.expired:
            raise too_old()
        if self.revoked:
            raise Unauthorized("The API key of this connection has been revoked.")
        if app[STATE].draining:
            raise app[ADMISSION].refusal("draining")
        fields = decode_message(create.text)
        speaks = generates(fields)
        body = body_of(fields)
        accepted = accept(body, settings, self._channel, self._open_sealed, needs_input=speaks)
        await check_schemas(accepted.schemas, app[EXAMINER])
        request = accepted.request
        request.generate = speaks
        note_dropped(app[STATE].noted, accepted)
        app[ADMISSION].check()
        remembered = self._memory.find(request.previous_response_id) if request.previous_response_id else None
        context = await read_context(
            accepted, tenant, app[RESPONSES], app[CONVERSATIONS], settings, remembered=remembered
        )
        new = prepare(accepted, context, self._caller, settings)
        told = [] if new.store else _told(context, new)
        create.text = b""
        del fields, body, request, accepted, context, remembered
        waiting = submitted(app, new)
        try:
            async with waiting as (reader, _):
                await self._relay(create, new, told, reader)
        except asyncio.CancelledError:  # before it was known whether it is in its queue
            if self.leaving and waiting.stays():
                raise Leaving(new.id, stored=new.store) from None
            raise

    async def _relay(self, create: Create, new: NewResponse, told: Sequence[bytes], reader: Reader) -> None:
        app = self._app
        texts = Texts(create.stream_id, keep_bytes=MEMORY_BYTES if told else 0)
        lane = Lane(self._out, texts)
        follower = Follower(
            app[RESPONSES], app[HUB], new.id, new.tenant, new.opening_count - 1, app[SETTINGS].sse_ping_s
        )
        remember = functools.partial(self._remember, create, new, told, texts)
        ended = False
        try:
            await lane.write(new.opening)
            async with contextlib.aclosing(follower.follow(reader, lane.push, read_log=False)) as frames:
                async for each in frames:
                    await lane.write(each, remember)
            ended = True
        except asyncio.CancelledError:
            if self.leaving:
                raise Leaving(new.id, stored=new.store) from None
            raise
        except (Gone, StoreUnavailable):
            message = f"The events of response '{new.id}' cannot be followed any further here."
            raise ServerError(message) from None
        finally:
            lane.leave()
            if not ended:
                spawn(app, follower.leave())

    def _remember(self, create: Create, new: NewResponse, told: Sequence[bytes], texts: Texts) -> None:
        """What the next turn may continue, before the client knows that it can."""
        lane = create.stream_id
        if texts.ended == "failed":
            self._memory.evict(create.parent)
        elif texts.last:
            self._memory.keep(lane, new.id, [*told, bytes(_decode_last(texts.last).response.output)])
        else:  # it is in the store, or too large
            self._memory.drop(lane)


def _told(context: Context, new: NewResponse) -> list[bytes]:
    """All items behind an unstored response, as JSON arrays; none when they are too large to be remembered. ``new.items``
    has a context that is not stored already."""
    told = [_encode(context.items), new.items] if context.stored and context.items else [new.items]
    return told if sum(map(len, told)) <= MEMORY_BYTES else []
