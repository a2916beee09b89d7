"""The worker process: settings, everything that lives in their order, and the loop."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack

import structlog
import uvloop

from shared import logs
from shared.config import load_settings, read_config
from shared.errors import ConfigError, StoreUnavailable
from shared.examiner import Examiner
from shared.garbage import collect_rarely
from shared.hub import Hub
from shared.ids import HOME_PARTITION, base32
from shared.program import program
from shared.seal import Sealer
from shared.settings import Settings
from shared.store.checks import require_fit
from shared.store.processes import own_name
from shared.store.ratios import Ratios
from shared.store.redis import SOCKET_TIMEOUT_S, Store, connect
from shared.store.responses import Responses
from shared.store.slots import Slots
from shared.store.webhooks import Deliveries
from shared.tasks import end
from worker.backends.base import DIALECTS, Backends
from worker.backends.echo import EchoBackend
from worker.backends.http import HttpBackend
from worker.backends.places import Places
from worker.job import Tools
from worker.lease import Leases
from worker.loop import BELL_S, ResponseWorker
from worker.outbox import Outbox
from worker.posting import Sender
from worker.purge import purge
from worker.ratios import Observer
from worker.webhooks import Courier

PARTITION = base32(HOME_PARTITION, 2)
EXIT_CONFIG = 78
EXIT_UNAVAILABLE = 69

log = structlog.get_logger()


def main() -> int:
    try:
        settings = load_settings(os.environ, read_config(os.environ))
        if settings.redis_url is None:
            raise ConfigError([f"REDIS_URL: a worker needs it; `{program()} up` starts an embedded Valkey itself"])
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201  # before logging is set up
        return EXIT_CONFIG
    logs.configure(settings.log_level, settings.log_format, room="worker")
    try:
        uvloop.run(serve(settings, settings.redis_url))
    except ConfigError as error:
        log.error("process.refused", error=str(error))
        return EXIT_CONFIG
    except StoreUnavailable as error:
        log.error("process.refused", error=f"REDIS_URL: {error}")
        return EXIT_UNAVAILABLE
    return 0


async def serve(settings: Settings, redis_url: str) -> None:
    """Run until a signal."""
    name = own_name("w")
    async with AsyncExitStack() as stack:
        client = connect(redis_url)
        stack.push_async_callback(client.aclose)
        bell = connect(redis_url, connections=1, socket_timeout_s=BELL_S + SOCKET_TIMEOUT_S)
        stack.push_async_callback(bell.aclose)
        await require_fit(client)
        store = Store(client)
        responses, observer = Responses(store), Observer(Ratios(store))
        http = await stack.enter_async_context(HttpBackend())
        outbox = await stack.enter_async_context(Outbox(responses, PARTITION, name))
        sealer = Sealer([key.reveal() for key in settings.seal_keys])
        places = Places(Slots(store), lease_s=settings.lease_s, renew_s=settings.renew_s)
        backends = Backends(settings.models, {"echo": EchoBackend(), **dict.fromkeys(DIALECTS, http)}, sealer, places)
        leases = Leases(responses, PARTITION, name, settings)
        hub = await stack.enter_async_context(Hub(redis_url, name, on_cancel=leases.cancel))
        sender = await stack.enter_async_context(Sender())
        await stack.enter_async_context(Courier(Deliveries(store, PARTITION), sender, settings.webhooks))
        examiner = await stack.enter_async_context(Examiner())
        tools = Tools(responses, outbox, backends, settings, observer, examiner)
        worker = ResponseWorker(tools, leases, bell.commands, PARTITION, name)
        hub.on_drain = worker.drain
        tasks = [
            asyncio.create_task(leases.keep(), name="leases"),
            asyncio.create_task(leases.reap(), name="reaper"),
            asyncio.create_task(leases.pack(), name="packer"),
            asyncio.create_task(purge(responses, PARTITION, settings), name="purge"),
            asyncio.create_task(observer.keep(), name="observer"),
            asyncio.create_task(places.keep(), name="places"),
        ]
        collect_rarely()
        log.info("process.started", process=name, slots=settings.worker_slots)
        try:
            await worker.async_run()
        finally:
            await end(*tasks)
        log.info("process.stopped", process=name)
