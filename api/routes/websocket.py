"""``GET /v1/responses`` with ``Upgrade: websocket``: WebSocket mode."""

import asyncio

from aiohttp import WSCloseCode, web

from api.compaction import seal_of
from api.creation import Caller
from api.headers import given_channel
from api.middleware import KEY_NAME, REQUEST_ID, TENANT
from api.outgoing import CLOSE_S, Outgoing
from api.resources import ADMISSION, HUB, SETTINGS, STATE
from api.turns import Turns
from api.websocket import Connection
from shared.errors import Forbidden, InvalidRequest

routes = web.RouteTableDef()


@routes.get("/v1/responses", allow_head=False)
async def connect(request: web.Request) -> web.StreamResponse:
    app, settings = request.app, request.app[SETTINGS]
    if request.headers.get("Upgrade", "").strip().lower() != "websocket":
        raise web.HTTPMethodNotAllowed("GET", ["POST"])
    _check_origin(request)
    if app[STATE].draining:
        raise app[ADMISSION].refusal("draining")
    channel = given_channel(request, settings)
    socket = web.WebSocketResponse(
        timeout=CLOSE_S, autoping=False,  # its pongs wait without a limit, and its pings for nothing but what is received
        compress=False,  # events are written as they are, and nothing that comes is to be inflated
        max_msg_size=settings.max_body_bytes + 1, decode_text=False,  # the first size that is refused
    )  # fmt: skip
    if not socket.can_prepare(request):
        raise InvalidRequest("This is not a well-formed WebSocket handshake (RFC 6455, version 13).")
    out = Outgoing(request, socket, settings.sse_write_timeout_s)
    caller = Caller(request[TENANT], app[HUB].process, request[REQUEST_ID])
    try:
        await Connection(request, socket, Turns(app, caller, channel, seal_of(request).open, out), out).serve()
    except asyncio.CancelledError:
        if socket.close_code in (None, WSCloseCode.ABNORMAL_CLOSURE):
            raise
        request.task.uncancel()  # closed as it should be: so the connection went before we were done
    return socket


def _check_origin(request: web.Request) -> None:
    """A page in a browser can open a WebSocket to any server, and read what it says, but cannot send a key with it. So where
    no key is needed, other sites' pages are kept out."""
    origin = request.headers.get("Origin", "")
    if origin and not request[KEY_NAME] and origin.partition("://")[2].lower() != request.host.lower():
        raise Forbidden("Pages of another origin cannot use this server without a key.")
