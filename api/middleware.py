"""Around every handler: a request id, the tenant, one log line, and errors in the API's envelope."""

import asyncio
import os
import time
import traceback
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from api.headers import given_request_id, given_tenant
from api.resources import ADMISSION, KEYRING, SETTINGS, STATE
from shared.errors import ApiError, NotFound, StoreUnavailable, TooLarge
from shared.logs import bound
from shared.wire.responses import ErrorBody, ErrorEnvelope

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_encode = msgspec.json.Encoder().encode

OPEN_PATHS = {"/", "/health", "/healthz", "/ready", "/metrics", "/openapi.json", "/docs"}
"""Served without a key and without a log line."""
REQUEST_ID = web.RequestKey("request_id", str)
TENANT = web.RequestKey("tenant", str)
KEY_NAME = web.RequestKey("key_name", str)
STARTED = web.RequestKey("started", float)
ERROR = web.ResponseKey("error", str)
"""The code of the error that is the answer, or its type: for the log."""


def error_response(
    status: int, body: ErrorBody, retry_after_s: int | None = None, *, repeats_work: bool = False
) -> web.Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    if repeats_work:
        headers["x-should-retry"] = "false"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    payload = _encode(ErrorEnvelope(body))
    answer = web.Response(status=status, body=payload, content_type="application/json", headers=headers)
    answer[ERROR] = body.code or body.type
    return answer


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """The headers that every answer has, streams and errors included."""
    response.headers["x-request-id"] = request[REQUEST_ID]
    response.headers["openai-version"] = "2020-10-01"
    response.headers["openai-processing-ms"] = str(round((time.monotonic() - request[STARTED]) * 1000))
    response.headers.setdefault("Cache-Control", "no-store")
    if request.app[STATE].draining:
        response.force_close()  # the client's next request goes elsewhere
        response.headers["Connection"] = "close"


@web.middleware
async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[REQUEST_ID] = given_request_id(request, request.app[SETTINGS]) or f"req_{os.urandom(16).hex()}"
    request[STARTED] = time.monotonic()
    if request.path in OPEN_PATHS:
        return await _answer(request, handler)
    with bound(request_id=request[REQUEST_ID]):
        try:
            response = await _answer(request, handler)
        except (asyncio.CancelledError, ConnectionResetError) as gone:
            _log_served(request, 499)
            # aiohttp keeps it in a cycle with its task: what it holds on to, up to a page of a log, is freed now
            traceback.clear_frames(gone.__traceback__)
            raise
        _log_served(request, response.status, response.get(ERROR) if response.status >= 400 else None)
        return response


def _log_served(request: web.Request, status: int, error: str | None = None) -> None:
    duration_ms = round((time.monotonic() - request[STARTED]) * 1000, 1)
    client_request_id = request.headers.get("x-client-request-id", "")[:128]
    fields = {"client_request_id": client_request_id} if client_request_id else {}
    if tenant := request.get(TENANT):
        fields["tenant_id"] = tenant
    if name := request.get(KEY_NAME):
        fields["key_name"] = name
    if error:
        fields["error"] = error
    log.info(
        "request.served", method=request.method, path=request.path, status=status, duration_ms=duration_ms, **fields
    )


async def _identify(request: web.Request) -> None:
    """Find out for whom this is. A trusted proxy needs a key like everybody; then its header chooses the tenant."""
    holder = await request.app[KEYRING].holder(request.headers.get("Authorization"))
    request[KEY_NAME] = holder.name
    request[TENANT] = given_tenant(request, request.app[SETTINGS]) or holder.tenant


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's answer, or its error in the envelope."""
    try:
        if request.path not in OPEN_PATHS:
            await _identify(request)
        return await handler(request)
    except ApiError as error:
        return error_response(error.status, error.body(), error.retry_after_s, repeats_work=error.repeats_work)
    except StoreUnavailable as error:
        log.warning("redis.unavailable", error=str(error))
        overloaded = request.app[ADMISSION].refusal("store")
        return error_response(overloaded.status, overloaded.body(), overloaded.retry_after_s)
    except web.HTTPRequestEntityTooLarge:
        too_large = too_large_error(request.app[SETTINGS].max_body_bytes)
        answer = error_response(too_large.status, too_large.body())
        if not request.content.is_eof():
            answer.force_close()  # the rest of its body may come, or not
        return answer
    except web.RequestPayloadError:
        body = ErrorBody("The request body could not be read or decompressed.", "invalid_request_error", None, None)
        answer = error_response(400, body)
        answer.force_close()  # where the next request begins is not known
        return answer
    except web.HTTPException as error:
        return _from_aiohttp(request, error)
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception:  # where a request enters: a fault of ours becomes a 500 without details
        log.exception("request.failed", method=request.method, path=request.path)
        message = f"The server had an error while processing your request. Its id is {request[REQUEST_ID]}."
        return error_response(500, ErrorBody(message, "server_error", None, None))


def too_large_error(limit: int) -> TooLarge:
    return TooLarge(f"The request body is too large. This server takes at most {limit} bytes.")


def _hint(path: str) -> str:
    """What somebody who set up a client may have meant."""
    if path.endswith("/completions"):
        return " (HINT: this is the Responses API: use POST /v1/responses)"
    if not path.startswith("/v1/") or path.startswith(("/v1/v1/", "/v1/responses/v1/")):
        return " (HINT: the API's paths begin with /v1, once: a client's base_url ends in it)"
    if path in ("/v1/response", "/v1/responses/"):
        return " (HINT: use POST /v1/responses)"
    return ""


def _from_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    if error.status == 404:
        not_found = NotFound(f"Invalid URL ({request.method} {request.path}){_hint(request.path)}")
        return error_response(404, not_found.body())
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        wrong_base = request.path == "/" or request.path.startswith("/v1/responses/responses")
        hint = "a client's base_url ends in /v1" if wrong_base else f"use {allowed}"
        message = f"Not allowed to {request.method} on {request.path} (HINT: {hint})"
        answer = error_response(405, ErrorBody(message, "invalid_request_error", None, "method_not_allowed"))
        answer.headers["Allow"] = allowed
        return answer
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return error_response(error.status, ErrorBody(error.reason or "The request failed.", kind, None, None))
