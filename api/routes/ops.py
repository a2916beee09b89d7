"""Health: ``/health`` and ``/healthz`` (the process runs), ``/ready`` (it can take work); and ``/metrics``."""

import asyncio
from collections import Counter

from aiohttp import web

from api.resources import ADMISSION, HUB, RESPONSES, SETTINGS, STATE
from shared import metrics
from shared.core.lifecycle import TERMINAL
from shared.errors import NotFound, StoreUnavailable
from shared.store.processes import Heartbeats, living

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


@routes.get("/metrics")
async def show_metrics(request: web.Request) -> web.Response:
    """What all processes count. While Redis is away: what this one does."""
    app = request.app
    if not app[SETTINGS].metrics:
        raise NotFound("Metrics are switched off (RESPOOL_METRICS).")
    try:
        processes = await living(app[RESPONSES].client)
    except StoreUnavailable:
        processes = {}
    told = {name: metrics.read_report(fields.get("metrics", b"[]")) for name, fields in processes.items()}
    told[app[HUB].process] = metrics.samples()  # not a few seconds old, but now
    # 16 ms for 20 processes: other requests need not wait for it
    body = await asyncio.to_thread(metrics.render, told, _gauges(app, processes))
    return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})


def _gauges(app: web.Application, processes: Heartbeats) -> dict[str, dict[str, float]]:
    """What is known of the whole: the load as this front end saw it last, at most a second ago while Redis answers."""
    admission = app[ADMISSION]
    load = admission.load
    if load is None or not processes:
        return {}
    rooms = Counter("worker" if name.startswith("w-") else "api" for name, fields in processes.items() if fields)

    def total(field: str) -> float:
        return sum(int(fields.get(field, 0)) for fields in processes.values())

    return {
        "respool_settled_total": {status: load.ended.get(status, 0) for status in sorted(TERMINAL)},
        "respool_queue_depth": {str(lane): count for lane, count in load.waiting.items()},
        "respool_queue_oldest_seconds": {str(lane): age_s for lane, age_s in load.oldest_s.items()},
        "respool_unsettled": {"": load.unsettled},
        "respool_running": {"": total("held")},
        "respool_slots": {"": total("slots")},
        "respool_pack_backlog": {"": load.to_pack},
        "respool_processes": {room: rooms[room] for room in ("api", "worker")},
        "respool_redis_used_bytes": {"": admission.used_bytes},
        "respool_redis_max_bytes": {"": admission.max_bytes},
    }
