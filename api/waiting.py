"""Wait for what becomes of a response: its end (foreground calls), or the next change of its status (long polls)."""

import asyncio
from typing import NamedTuple

import structlog
from aiohttp import web

from api.creation import NO_KEY, submit
from api.relay import Severed
from api.resources import ADMISSION, CANCELLER, HUB, RESPONSES, SETTINGS, STATE, spawn
from shared.core.emitter import Ending
from shared.core.lifecycle import TERMINAL
from shared.errors import ApiError, Leaving, NotFound, StoreUnavailable
from shared.hub import Reader
from shared.logs import bound
from shared.store.rows import NewResponse, Snapshot
from shared.wire.responses import ResponseError, Status

GRACE_S = 5.0
"""What a foreground response that runs may take longer than ``max_foreground_s``, which its worker keeps, until the front
end ends it itself. For one that is still queued there is nobody else."""
RECHECK_S = 5.0
WITHDRAW_TRIES, WITHDRAW_WAIT_S = 60, 1.0
POLL_AFTER_MS = 1000
"""What a client is told to wait until it asks again."""
ASK_AGAIN = {"openai-poll-after-ms": str(POLL_AFTER_MS)}
NOT_TAKEN = Ending(
    "failed",
    error=ResponseError("server_error", "No worker took this response in time. Create it with background=true."),
)
RUNNING, ENDED = b"eap", b"zysr"
"""What the hub says of a response that runs, and of one that has ended."""

log = structlog.get_logger()


def not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:80]}' not found.")


class Ended(NamedTuple):
    """The object of a response that has ended, and the calls to backends behind it."""

    object: bytes
    attempts: str


async def wait_for_end(app: web.Application, response_id: str, tenant: str, reader: Reader, *, keyed: bool) -> Ended:
    """The object of a foreground response, once it has ended. This process's inbox is on its record.

    Raises ``Leaving`` when the process ends before that; *keyed*: the call has an Idempotency-Key.
    """
    state = app[STATE]
    state.waits.add(reader)
    try:
        if state.leaving:
            reader.miss()
        return await _hear_end(app, response_id, tenant, reader, keyed=keyed)
    finally:
        state.waits.discard(reader)


async def _hear_end(app: web.Application, response_id: str, tenant: str, reader: Reader, *, keyed: bool) -> Ended:
    loop, state = asyncio.get_running_loop(), app[STATE]
    limit = loop.time() + app[SETTINGS].max_foreground_s
    deadline = limit + GRACE_S
    while True:
        now = loop.time()
        heard = await reader.next(max(0.0, min(RECHECK_S, (limit if now < limit else deadline) - now)))
        if heard is not None and heard.kind == b"s" and heard.blob:
            return Ended(heard.blob, "" if heard.b == b"-" else heard.b.decode())
        if heard is not None and heard.kind in RUNNING:
            continue
        try:
            snapshot = await app[RESPONSES].read(response_id, tenant)
            late_s = loop.time() - limit
            if snapshot is not None and late_s >= (0 if snapshot.status == "queued" else GRACE_S):
                snapshot = await app[CANCELLER].cancel(response_id, tenant, NOT_TAKEN)  # as it is, if it has ended
        except StoreUnavailable as away:
            if loop.time() >= deadline or state.leaving:
                raise
            log.warning("redis.unavailable", error=str(away))
            await asyncio.sleep(0.5)
            continue
        if snapshot is None:
            raise not_found(response_id)
        if snapshot.status in TERMINAL:
            return Ended(snapshot.object, snapshot.attempts)
        if state.leaving:
            raise Leaving(response_id, stored=snapshot.store, keyed=keyed)


async def join(app: web.Application, response_id: str, tenant: str) -> Ended:
    """The object of a foreground response that another call has created, once it has ended. Raises ``Leaving``."""
    with app[HUB].listen(response_id) as reader:
        try:
            await app[RESPONSES].attend(response_id, tenant, app[HUB].process)
            snapshot = await app[RESPONSES].read(response_id, tenant)
            if snapshot is None:
                raise not_found(response_id)
            if snapshot.status in TERMINAL:
                return Ended(snapshot.object, snapshot.attempts)
            return await wait_for_end(app, response_id, tenant, reader, keyed=True)
        except (asyncio.CancelledError, Leaving):
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


class submitted:  # used like a function
    """*new* in its queue, and a reader of it; False when its Idempotency-Key stands for another one meanwhile.

    If the client goes while the block waits for a foreground response, it is cancelled; and so it is if we go, and nobody
    can ever ask for it.
    """

    __slots__ = ("_app", "_bound", "_listening", "_new")

    def __init__(self, app: web.Application, new: NewResponse) -> None:
        self._app = app
        self._new = new
        self._bound = bound(response_id=new.id)
        self._listening = app[HUB].listen(new.id)

    async def __aenter__(self) -> tuple[Reader, bool]:
        app, new = self._app, self._new
        self._bound.__enter__()
        reader = self._listening.__enter__()
        try:
            return reader, await submit(new, app[RESPONSES], app[SETTINGS], app[ADMISSION])
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                spawn(app, submit_again(app, new, stays=self.stays()))
            elif isinstance(error, StoreUnavailable) and new.idempotency == NO_KEY:
                spawn(app, withdraw(app, new))  # nobody knows whether it was accepted, and the client gets a 503
            self._leave()
            raise

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        gone = isinstance(error, asyncio.CancelledError | ConnectionResetError) and not isinstance(error, Severed)
        if (gone and not self.stays()) or (isinstance(error, Leaving | StoreUnavailable) and self._lost()):
            spawn(self._app, withdraw(self._app, self._new))
        self._leave()

    def stays(self) -> bool:
        """Whether it goes on without its client. Who has sent a key can come back; whom we leave can poll what is stored."""
        return self._is_wanted() or (self._app[STATE].draining and self._new.store)

    def _lost(self) -> bool:
        """Whether nobody can get its answer but the client that waits for it."""
        return not (self._is_wanted() or self._new.store)

    def _is_wanted(self) -> bool:
        """Whether it was asked for in a way that does not depend on its connection."""
        new = self._new
        return new.background or new.idempotency != NO_KEY or self._app[SETTINGS].foreground_hangup == "continue"

    def _leave(self) -> None:
        self._listening.__exit__()
        self._bound.__exit__()


async def submit_again(app: web.Application, new: NewResponse, *, stays: bool) -> None:
    """The client has gone while *new* was submitted: that is done to its end, and then, unless it *stays*, undone."""
    try:
        await submit(new, app[RESPONSES], app[SETTINGS], app[ADMISSION])
    except ApiError:
        pass  # refused, as Redis is full perhaps; the first try may have been accepted all the same
    except StoreUnavailable as away:  # nobody knows whether it was accepted
        log.warning("redis.unavailable", error=str(away))
    if not stays:
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
