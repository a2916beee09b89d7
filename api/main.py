"""The front end process: settings, routes, middlewares, start-up order."""

import asyncio
import logging
import os
import signal
import sys

import structlog
import uvloop
from aiohttp import web

from api import middleware
from api.bodies import answer_expect
from api.resources import HUB, SEALER, SETTINGS, STATE, State, open_examiner, open_store
from api.routes import compact, conversations, docs, input_tokens, models, ops, responses, websocket
from api.server import Runner
from api.tokenizer import open_http
from shared import logs
from shared.config import load_settings, read_config
from shared.errors import ConfigError, StoreUnavailable
from shared.garbage import collect_rarely
from shared.program import program
from shared.seal import Sealer
from shared.settings import Settings

EXIT_FAILURE = 1
EXIT_CONFIG = 78
EXIT_UNAVAILABLE = 69
BACKLOG = 4096
KEEPALIVE_S = 75
LAST_ANSWERS_S = 1.0
"""For telling those who wait that they wait in vain, behind a second signal."""

log = structlog.get_logger()


def main() -> int:
    try:
        settings = load_settings(os.environ, read_config(os.environ))
        if settings.redis_url is None:
            raise ConfigError([f"REDIS_URL: a front end needs it; `{program()} up` starts an embedded Valkey itself"])
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201  # before logging is set up
        return EXIT_CONFIG
    logs.configure(settings.log_level, settings.log_format, room="api")
    # It warns of subprotocols that are not known, and repeats them: some clients send keys there.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    try:
        uvloop.run(serve(settings))
    except ConfigError as error:
        log.error("process.refused", error=str(error))
        return EXIT_CONFIG
    except OSError as error:  # the port is taken
        log.error("process.refused", error=f"{settings.host}:{settings.port}: {error}")
        return EXIT_FAILURE
    except StoreUnavailable as error:
        log.error("process.refused", error=f"REDIS_URL: {error}")
        return EXIT_UNAVAILABLE
    return 0


def build(settings: Settings) -> web.Application:
    app = web.Application(client_max_size=settings.max_body_bytes, middlewares=[middleware.surround])
    app[SETTINGS], app[STATE] = settings, State()
    app[SEALER] = Sealer([key.reveal() for key in settings.seal_keys])
    app.cleanup_ctx.extend([open_store, open_http, open_examiner])
    app.on_response_prepare.append(middleware.on_prepare)
    for module in (input_tokens, compact, responses, websocket, conversations, models, ops, docs):
        app.add_routes(_expecting(module.routes))
    docs.prepare(app)
    return app


def _expecting(table: web.RouteTableDef) -> list[web.RouteDef]:
    """The routes of *table*, whose clients may ask before they send a body."""
    routes = [each for each in table if isinstance(each, web.RouteDef)]
    return [web.route(it.method, it.path, it.handler, expect_handler=answer_expect, **it.kwargs) for it in routes]


async def serve(settings: Settings) -> None:
    """Serve until a signal. Then new work is answered with 503, for ``drain_notice_s`` until nobody is let in any more, and
    responses get ``drain_s`` to end. Then who waits for one gets a 503 that names it, and streams are cut; their clients
    resume elsewhere. A second signal does both at once."""
    stopping, at_once = asyncio.Event(), asyncio.Event()
    app = build(settings)

    def stop() -> None:
        (at_once if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    runner = Runner(
        app, handler_cancellation=True, auto_decompress=False, access_log=None, keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=max(settings.drain_s, LAST_ANSWERS_S),  # aiohttp takes 0 for no limit
    )  # fmt: skip
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG, reuse_port=settings.reuse_port or None)
    await site.start()
    collect_rarely()
    log.info("process.started", process=app[HUB].process, address=runner.addresses[0])
    await stopping.wait()
    log.info("process.draining")
    app[STATE].drain()
    hurry = asyncio.create_task(at_once.wait())
    if not settings.reuse_port:  # else the kernel gives new connections to the others as soon as we stop listening
        await asyncio.wait([hurry], timeout=settings.drain_notice_s)
    ending = asyncio.create_task(runner.cleanup())
    await asyncio.wait([ending, hurry], timeout=settings.drain_s, return_when=asyncio.FIRST_COMPLETED)
    app[STATE].leave()
    await asyncio.wait([ending, hurry], return_when=asyncio.FIRST_COMPLETED)
    if app[STATE].waits or app[STATE].sockets:
        await asyncio.wait([ending], timeout=LAST_ANSWERS_S)
    hurry.cancel()
