"""The HTTP server below the application: what never becomes a request of ours is answered in the API's envelope, too.

aiohttp answers a malformed request line or header with a plain text that repeats it, and logs it with a traceback, keys and
all; a foreign ``Expect`` it refuses before any middleware.
"""

import secrets
import time
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from api.middleware import REQUEST_ID, STARTED, error_response
from shared.wire.responses import ErrorBody

log = structlog.get_logger()


class Runner(web.AppRunner):
    """Serves an application through `Connection`."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await made.request_handler(request)
            except web.HTTPException as error:  # from before the middlewares
                request[REQUEST_ID], request[STARTED] = f"req_{secrets.token_hex(16)}", time.monotonic()
                answer = error_response(error.status, _body(error.status, error.reason))
                answer.force_close()  # whether the client sends its body now is not known
                return answer

        return _Server(
            handle, request_factory=made.request_factory, handler_cancellation=made.handler_cancellation, **made._kwargs
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # may hold what was sent, a key for example
    ) -> web.StreamResponse:
        """The answer to what could not be read (400), or could not be answered. Never repeats what was sent."""
        request_id = f"req_{secrets.token_hex(16)}"
        if status < 500:
            log.info("request.malformed", request_id=request_id, error=type(exc).__name__)
        elif not isinstance(exc, ConnectionResetError):  # that is a client that has gone, or was cut
            log.error("request.failed", request_id=request_id, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, so no other can follow")
        answer = error_response(status, _body(status, _told(status, exc)))
        answer.headers["x-request-id"] = request_id
        answer.force_close()
        return answer


def _told(status: int, exc: BaseException | None) -> str:
    if isinstance(exc, LineTooLong):
        return "The request line or a header is too long."
    if status < 500:
        return "This is not a well-formed HTTP request: see its request line, headers and framing."
    return "The server had an error while processing your request."


def _body(status: int, message: Any) -> ErrorBody:
    return ErrorBody(str(message), "invalid_request_error" if status < 500 else "server_error", None, None)
