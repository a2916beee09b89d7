"""A server that answers every path with what it was given; for the plugin's own tests."""

import json
from collections.abc import Mapping
from typing import Any, Self

from aiohttp import web

REQUEST_ID = {"x-request-id": "req_1"}
SSE_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    **REQUEST_ID,
}


class CannedServer:
    """Answers by method and path with query, in the order given; the last answer for one is repeated."""

    def __init__(self) -> None:
        self._answers: dict[str, list[tuple[int, Mapping[str, str], bytes, bool]]] = {}
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    def give(
        self,
        target: str,
        body: Any,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        breaks: bool = False,
    ) -> None:
        """Answer `METHOD /path?query` with *body* (bytes: as a stream; else as JSON); with *breaks* cut it at the end."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        known = SSE_HEADERS if isinstance(body, bytes) else {"Content-Type": "application/json", **REQUEST_ID}
        self._answers.setdefault(target, []).append((status, known if headers is None else headers, raw, breaks))

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        answers = self._answers[f"{request.method} {request.path_qs}"]
        status, headers, body, breaks = answers.pop(0) if len(answers) > 1 else answers[0]
        answer = web.StreamResponse(status=status, headers=headers)
        await answer.prepare(request)
        await answer.write(body)
        if breaks and request.transport is not None:
            request.transport.abort()
        else:
            await answer.write_eof()
        return answer
