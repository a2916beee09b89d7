"""What lives as long as the front end, opened in reading order, and the keys under which handlers find it."""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import structlog
from aiohttp import web

from api.cancellation import Canceller
from shared.config import Settings
from shared.errors import RespoolError, StoreUnavailable
from shared.hub import Hub
from shared.ids import HOME_PARTITION, base32
from shared.store.checks import require_fit
from shared.store.redis import Store, connect
from shared.store.responses import Responses

TICK_S = 1.0
LAST_WORDS_S = 5.0

log = structlog.get_logger()


class State:
    """``draining`` once the process was told to stop: then a lost client is no hang-up."""

    def __init__(self) -> None:
        self.draining = False
        self.spawned: set[asyncio.Task[Any]] = set()


STATE = web.AppKey("state", State)
SETTINGS = web.AppKey("settings", Settings)
RESPONSES = web.AppKey("responses", Responses)
HUB = web.AppKey("hub", Hub)
CANCELLER = web.AppKey("canceller", Canceller)


async def open_store(app: web.Application) -> AsyncIterator[None]:
    """Redis, the inbox, and the sign of life."""
    settings = app[SETTINGS]
    url = settings.redis_url or ""
    name = f"f-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    client = connect(url)
    await require_fit(client)
    app[RESPONSES] = responses = Responses(Store(client))
    async with Hub(url, name) as hub:
        app[HUB] = hub
        app[CANCELLER] = Canceller(responses, hub, settings)
        tick = asyncio.create_task(_tick(responses, name, settings.lease_s), name="tick")
        yield
        if tasks := set(app[STATE].spawned):
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        tick.cancel()
        await asyncio.wait([tick])
    await client.aclose()
    log.info("process.stopped", process=name)


async def _tick(responses: Responses, name: str, lease_s: float) -> None:
    while True:
        try:
            await responses.tick(base32(HOME_PARTITION, 2), lease_s)
            await responses.beat(f"rs:f:{name}", {"pid": os.getpid()})
        except StoreUnavailable as error:
            log.warning("redis.unavailable", error=str(error))
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
