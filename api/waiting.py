"""Wait for what becomes of a response: its end (foreground calls), or the next change of its status (long polls)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import structlog
from aiohttp import web

from api.creation import NO_KEY, submit
from api.relay import Severed
from api.resources import ADMISSION, CANCELLER, HUB, RESPONSES, SETTINGS, STATE, spawn
from shared.core.emitter import Ending
from shared.core.lifecycle import TERMINAL
from shared.errors import ApiError, NotFound, StoreUnavailable
from shared.hub import Reader
from shared.logs import bound
from shared.store.rows import NewResponse, Snapshot
from shared.wire.responses import ResponseError, Status

GRACE_S = 5.0
"""What a foreground response may take longer than ``max_foreground_s``, until the front end ends it itself."""
RECHECK_S = 5.0
WITHDRAW_TRIES, WITHDRAW_WAIT_S = 60, 1.0
POLL_AFTER_MS = 1000
"""What a client is told to wait until it asks again."""
ASK_AGAIN = {"openai-poll-after-ms": str(POLL_AFTER_MS)}
RUNNING, ENDED = b"eap", b"zysr"
"""What the hub says of a response that runs, and of one that has ended."""

log = structlog.get_logger()


def not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:80]}' not found.")


class Ended(NamedTuple):
    """The object of a response that has ended, and the calls to backends behind it."""

    object: bytes
    attempts: str


async def wait_for_end(app: web.Application, response_id: str, tenant: str, reader: Reader) -> Ended:
    """The object of a foreground response, once it has ended. This process's inbox is on its record."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + app[SETTINGS].max_foreground_s + GRACE_S
    while True:
        heard = await reader.next(max(0.0, min(RECHECK_S, deadline - loop.time())))
        if heard is not None and heard.kind == b"s" and heard.blob:
            return Ended(heard.blob, "" if heard.b == b"-" else heard.b.decode())
        if heard is not None and heard.kind in RUNNING:
            continue
        try:
            if loop.time() >= deadline:
                error = ResponseError(
                    "server_error", "No worker took this response in time. Create it with background=true."
                )
                snapshot = await app[CANCELLER].cancel(response_id, tenant, Ending("failed", error=error))
            else:
                snapshot = await app[RESPONSES].read(response_id, tenant)
        except StoreUnavailable as away:
            if loop.time() >= deadline:
                raise
            log.warning("redis.unavailable", error=str(away))
            await asyncio.sleep(0.5)
            continue
        if snapshot is None:
            raise not_found(response_id)
        if snapshot.status in TERMINAL:
            return Ended(snapshot.object, snapshot.attempts)


async def join(app: web.Application, response_id: str, tenant: str) -> Ended:
    """The object of a foreground response that another call has created, once it has ended."""
    with app[HUB].listen(response_id) as reader:
        try:
            await app[RESPONSES].attend(response_id, tenant, app[HUB].process)
            snapshot = await app[RESPONSES].read(response_id, tenant)
            if snapshot is None:
                raise not_found(response_id)
            if snapshot.status in TERMINAL:
                return Ended(snapshot.object, snapshot.attempts)
            return await wait_for_end(app, response_id, tenant, reader)
        except asyncio.CancelledError:
            spawn(app, leave(app, response_id))
            raise


async def poll(app: web.Application, response_id: str, tenant: str, wait_s: float, *, since: Status) -> Snapshot | None:
    """The response as soon as its status is no longer *since*, or as it is when *wait_s* is over or this process
    drains."""
    loop, state, responses = asyncio.get_running_loop(), app[STATE], app[RESPONSES]
    deadline = loop.time() + wait_s
    with app[HUB].listen(response_id) as reader:
        await responses.attend(response_id, tenant, app[HUB].process)
        state.polls.add(reader)
        try:
            while True:
                snapshot = await responses.read(response_id, tenant)
                if snapshot is None or snapshot.status != since or state.draining:
                    return snapshot
                while (left_s := deadline - loop.time()) > 0:
                    heard = await reader.next(min(RECHECK_S, left_s))
                    if heard is None or since == "queued" or heard.kind in ENDED:
                        break
                else:
                    return snapshot
        finally:
            state.polls.discard(reader)
            spawn(app, leave(app, response_id))


async def leave(app: web.Application, response_id: str) -> None:
    """To be called when a reader goes before the end: the last one here takes the inbox off the record."""
    if app[HUB].listeners(response_id) == 0:
        try:
            await app[RESPONSES].leave(response_id, app[HUB].process)
            app[HUB].miss(response_id)  # a reader that came meanwhile may have lost its inbox
        except StoreUnavailable:
            log.info("redis.unavailable", response_id=response_id)


def attempt_headers(attempts: str) -> dict[str, str]:
    return {"x-respool-attempts": attempts.replace(",", ", ")} if attempts else {}


def progress_headers(snapshot: Snapshot) -> dict[str, str]:
    """When to ask again, and where in its queue it waits (from 1); of an ended one the calls to backends."""
    if snapshot.status in TERMINAL:
        return attempt_headers(snapshot.attempts)
    place = {} if snapshot.place is None else {"x-respool-queue-position": str(snapshot.place + 1)}
    return ASK_AGAIN | place


@contextlib.asynccontextmanager
async def submitted(app: web.Application, new: NewResponse) -> AsyncIterator[tuple[Reader, bool]]:
    """*new* in its queue, and a reader of it; False when its Idempotency-Key stands for another one meanwhile.

    If the client goes while the block waits for a foreground response, it is cancelled.
    """
    settings = app[SETTINGS]
    once = new.idempotency != NO_KEY  # who sends a key can come back: it is never withdrawn
    with bound(response_id=new.id), app[HUB].listen(new.id) as reader:
        submitting = spawn(app, submit(new, app[RESPONSES], settings, app[ADMISSION]))
        try:
            yield reader, await asyncio.shield(submitting)
        except Severed:
            raise
        except (asyncio.CancelledError, ConnectionResetError):
            if not (once or new.background or settings.foreground_hangup == "continue" or app[STATE].draining):
                spawn(app, hang_up(app, new, submitting))
            raise
        except StoreUnavailable:
            if submitting.done() and submitting.exception() and not once:
                spawn(app, withdraw(app, new))  # nobody knows whether it was accepted, and the client gets a 503
            raise


async def hang_up(app: web.Application, new: NewResponse, submitting: "asyncio.Task[Any]") -> None:
    """The creator of a foreground response has gone: end it, to free its slot and the backend."""
    await asyncio.wait([submitting])
    if not isinstance(submitting.exception(), ApiError):  # accepted, or nobody knows
        await withdraw(app, new)


async def withdraw(app: web.Application, new: NewResponse) -> None:
    """Cancel a response that nobody waits for, as soon as Redis allows it."""
    for _ in range(WITHDRAW_TRIES):
        try:
            await app[CANCELLER].cancel(new.id, new.tenant)
            return
        except (StoreUnavailable, ApiError) as error:
            log.warning("redis.unavailable", error=str(error))
        await asyncio.sleep(WITHDRAW_WAIT_S)
