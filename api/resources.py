"""What lives as long as the front end, opened in reading order, and the keys under which handlers find it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

import structlog
from aiohttp import web

from api.admission import Admission
from api.auth import Keyring
from api.cancellation import Canceller
from shared.errors import RespoolError, StoreUnavailable
from shared.examiner import Examiner
from shared.exposure import check_exposure, is_loopback
from shared.hub import Hub, Reader
from shared.ids import HOME_PARTITION, base32
from shared.metrics import Report
from shared.seal import Sealer
from shared.settings import Settings
from shared.store.checks import require_fit
from shared.store.conversations import Conversations
from shared.store.processes import own_name
from shared.store.ratios import Ratios
from shared.store.redis import Store, connect
from shared.store.responses import Responses
from shared.store.tenants import Tenants
from shared.tasks import end

TICK_S = 1.0
LAST_WORDS_S = 5.0

log = structlog.get_logger()


class Socket(Protocol):
    """A connection that outlives its responses. Neither call waits, and both may come again."""

    def drain(self) -> None:
        """To be closed as soon as its responses have ended."""

    def leave(self) -> None:
        """To be closed now."""


class State:
    """``draining`` once the process was told to stop: then a lost client is no hang-up. ``leaving`` when that is over."""

    def __init__(self) -> None:
        self.draining = self.leaving = False
        self.spawned: set[asyncio.Task[Any]] = set()
        self.polls: set[Reader] = set()
        """Readers of long polls."""
        self.waits: set[Reader] = set()
        """Readers of foreground responses that are no streams."""
        self.streams: set[asyncio.Task[Any]] = set()
        """Tasks that send one."""
        self.sockets: set[Socket] = set()
        """Connections of WebSocket mode."""
        self.noted: set[tuple[str, str]] = set()
        """Backend and parameter of what was logged as dropped."""

    def drain(self) -> None:
        """Nobody is kept waiting who can as well ask somebody else."""
        self.draining = True
        for reader in self.polls:
            reader.miss()
        for each in self.sockets:
            each.drain()

    def leave(self) -> None:
        """What has not ended by now will not end here: whoever waits for that is told so, and streams are cut."""
        self.leaving = True
        for reader in self.waits:
            reader.miss()
        for task in self.streams:
            task.cancel()
        for each in self.sockets:
            each.leave()


STATE = web.AppKey("state", State)
SETTINGS = web.AppKey("settings", Settings)
RESPONSES = web.AppKey("responses", Responses)
CONVERSATIONS = web.AppKey("conversations", Conversations)
ADMISSION = web.AppKey("admission", Admission)
KEYRING = web.AppKey("keyring", Keyring)
RATIOS = web.AppKey("ratios", Ratios)
HUB = web.AppKey("hub", Hub)
SEALER = web.AppKey("sealer", Sealer)
CANCELLER = web.AppKey("canceller", Canceller)
EXAMINER = web.AppKey("examiner", Examiner)


async def open_store(app: web.Application) -> AsyncIterator[None]:
    """Redis, the inbox, and the sign of life."""
    settings = app[SETTINGS]
    url = settings.redis_url or ""
    name = own_name("f")
    client = connect(url)
    await require_fit(client)
    store = Store(client)
    app[RESPONSES] = responses = Responses(store)
    app[CONVERSATIONS] = Conversations(store)
    app[RATIOS] = Ratios(store)
    app[ADMISSION] = Admission(settings)
    app[KEYRING] = keyring = Keyring(settings.keys, Tenants(store), loopback=is_loopback(settings.host))
    check_exposure(settings, stored_keys=await keyring.refresh())
    async with Hub(url, name) as hub:
        app[HUB] = hub
        app[CANCELLER] = Canceller(responses, hub, settings)
        tick = asyncio.create_task(_tick(app, name), name="tick")
        yield
        if tasks := set(app[STATE].spawned):
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        await end(tick)
    await client.aclose()
    log.info("process.stopped", process=name)


async def open_examiner(app: web.Application) -> AsyncIterator[None]:
    """What looks at the schemas of requests."""
    async with Examiner() as examiner:
        app[EXAMINER] = examiner
        yield


async def _tick(app: web.Application, name: str) -> None:
    """Once a second: show that Redis answers and that we live, and see what there is to do."""
    responses, lease_s, report = app[RESPONSES], app[SETTINGS].lease_s, Report(time.monotonic)
    while True:
        try:
            load = await responses.tick(base32(HOME_PARTITION, 2), lease_s)
            app[ADMISSION].feed(load, *await responses.memory())
            await responses.beat(f"rs:f:{name}", {"pid": os.getpid(), **report.fields()})
            await app[KEYRING].refresh()
        except StoreUnavailable as error:
            log.warning("redis.unavailable", error=str(error))
        except Exception:  # whatever Redis answered: the signs of life must go on
            log.exception("tick.failed")
        await asyncio.sleep(TICK_S)


def spawn(app: web.Application, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Let *work* go on when its request is gone. The application waits for it at its end."""
    task = asyncio.create_task(work)
    app[STATE].spawned.add(task)

    def ended(task: "asyncio.Task[Any]") -> None:
        app[STATE].spawned.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RespoolError):
            log.error("request.failed", exc_info=error)

    task.add_done_callback(ended)
    return task
