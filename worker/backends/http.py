"""The one HTTP shell of all dialects over HTTP: one call after another until the answer is whole. Foreign exceptions become ours
here.

Timers: connect, first byte, and idle between reads (comments count as life); the whole is bounded by ``max_run_s`` of the
run. No redirects, no cookies, no compression, no proxies from the environment; certificates are verified; lines, error
bodies and answers that are not a stream have a cap.
"""

import asyncio
from collections.abc import Mapping
from typing import Self

import structlog

from shared.core.emitter import Emitter, Ending
from shared.core.sse import LineTooLong
from shared.errors import UpstreamError
from shared.settings import without_password
from worker.backends.base import DIALECTS, Call, Flush
from worker.backends.connection import Connection, Unanswered
from worker.backends.exchange import Exchange
from worker.backends.pool import Pool, Unreachable, Untrusted
from worker.backends.target import encode_head, plan_target
from worker.translate.dialect import Answer, Ask, Dialect

STALE_S = 2.0
"""A kept connection that ends later than this after it was used again was not stale: the backend was at work."""

log = structlog.get_logger()


class HttpBackend:
    """Speaks every dialect it is given. ``async with`` opens and closes its connections."""

    def __init__(self, dialects: Mapping[str, Dialect] = DIALECTS) -> None:
        self._dialects = dialects

    async def __aenter__(self) -> Self:
        self._pool = Pool()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    async def run(self, call: Call, emit: Emitter, flush: Flush) -> Ending:
        """One call, or several when the provider pauses its turn and the dialect goes on with it."""
        dialect = self._dialects[call.row.dialect]
        ask = Ask(call.request, call.items, call.row.model or call.request.model, call.row.quirks, call.state)
        stream = dialect.answer(ask, emit)
        body: bytes | None = dialect.encode(ask)
        while body is not None:
            try:
                await self._exchange(call, dialect, body, stream, flush)
            except LineTooLong as error:
                raise UpstreamError("The backend sent a line that is too long.") from error
            except Untrusted as error:
                raise UpstreamError("The certificate of the backend is not trusted.", retryable=True) from error
            except Unreachable as error:
                log.warning("upstream.unreachable", base_url=without_password(call.row.base_url), error=str(error))
                raise UpstreamError("The backend cannot be reached.", retryable=True) from error
            except TimeoutError as error:
                if not stream.ended:  # else only the usage was still awaited
                    raise UpstreamError("The backend did not answer in time.", retryable=True, max_tries=2) from error
            except OSError as error:
                if not stream.ended:
                    raise UpstreamError("The connection to the backend broke.", retryable=True) from error
            body = stream.follow_up()
        ending = stream.end()
        for warning in stream.warnings:
            log.warning("upstream.strange", model=call.request.model, what=warning)
        return ending

    async def _exchange(self, call: Call, dialect: Dialect, body: bytes, stream: Answer, flush: Flush) -> None:
        """Send *body* and feed the answer to *stream*. On a kept connection that ends at once, without a word of an answer, the
        backend has failed in nothing: the body is sent once more, on a new one."""
        row, profile = call.row, call.row.quirks
        headers = {
            **row.headers,
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "X-Request-Id": call.request_id,
            **dialect.headers(row.key.reveal() if row.key is not None else None, profile),
        }
        target = plan_target(f"{row.base_url.rstrip('/')}{dialect.path}", tuple(profile.extra_query.items()))
        head = encode_head(target, headers, len(body))
        loop = asyncio.get_running_loop()
        first_byte_at = loop.time() + row.first_byte_timeout_s

        async def hear(connection: Connection) -> None:
            exchange = Exchange(connection, stream, flush, row.idle_timeout_s, call.request.model)
            await exchange.run(head, body, first_byte_at - loop.time())

        kept = self._pool.take(target.origin)
        if kept is not None:
            # Many servers close a connection just as it is used again (llama.cpp behind each stream). Whether this one has read
            # the request nobody knows; but another try would send it again, too.
            asked_at = loop.time()
            try:
                await hear(kept)
            except Unanswered:
                if loop.time() - asked_at > STALE_S:  # it was at work
                    raise
            else:
                return
        async with asyncio.timeout_at(first_byte_at):
            connection = await self._pool.dial(target.origin, row.connect_timeout_s)
        await hear(connection)
