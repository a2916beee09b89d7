"""Health: ``/health`` and ``/healthz`` (the process runs), ``/ready`` (it can take work)."""

import asyncio

from aiohttp import web

from api.resources import HUB, RESPONSES, STATE

PING_S = 1.0

routes = web.RouteTableDef()


@routes.get("/health")
@routes.get("/healthz")
async def health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@routes.get("/ready")
async def ready(request: web.Request) -> web.Response:
    app = request.app
    if app[STATE].draining:
        return web.json_response({"status": "draining"}, status=503)
    try:
        async with asyncio.timeout(PING_S):
            await app[RESPONSES].client.ping()
    except Exception as error:  # noqa: BLE001  # whatever it is, the process cannot take work
        return web.json_response({"status": "redis_unavailable", "error": type(error).__name__}, status=503)
    if not app[HUB].connected.is_set():
        return web.json_response({"status": "subscribing"}, status=503)
    return web.json_response({"status": "ready"})
