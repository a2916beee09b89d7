"""The one HTTP shell of all dialects over HTTP: call, read, feed, flush. Foreign exceptions become ours here.

Timers: connect, first byte, and idle between reads (comments count as life); the whole is bounded by ``max_run_s`` of the
run. No redirects, no cookies, no compression, no proxies from the environment; certificates are verified; lines, error
bodies and answers that are not a stream have a cap.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Self

import aiohttp
import structlog

from shared.core.emitter import Emitter, Ending
from shared.core.sse import LineTooLong
from shared.deadline import Deadline
from shared.errors import UpstreamError
from shared.settings import without_password
from worker.backends.base import DIALECTS, Call, Flush
from worker.translate.dialect import Answer, Ask, Dialect
from worker.translate.errors import upstream_error
from worker.translate.reading import Reading

MAX_ERROR_BYTES = 64 << 10
MAX_BODY_BYTES = 16 << 20
READ_BYTES = 256 << 10
"""Of one answer, twice that, is read ahead of its run. A stream that is often paused and resumed costs more."""
USAGE_WAIT_S = 5.0
"""How long the rest of a stream (its usage) is awaited once the answer has ended."""

log = structlog.get_logger()


class HttpBackend:
    """Speaks every dialect it is given. ``async with`` opens and closes its connections."""

    def __init__(self, dialects: Mapping[str, Dialect] = DIALECTS) -> None:
        self._dialects = dialects

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            read_bufsize=READ_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

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
            except (TimeoutError, aiohttp.ServerTimeoutError) as error:
                if not stream.ended:  # else only the usage was still awaited
                    raise UpstreamError("The backend did not answer in time.", retryable=True, max_tries=2) from error
            except aiohttp.ClientConnectorCertificateError as error:
                raise UpstreamError("The certificate of the backend is not trusted.", retryable=True) from error
            except aiohttp.ClientConnectorError as error:
                log.warning(
                    "upstream.unreachable", base_url=without_password(call.row.base_url), error=str(error.os_error)
                )
                raise UpstreamError("The backend cannot be reached.", retryable=True) from error
            except (aiohttp.ClientError, OSError) as error:
                if not stream.ended:
                    raise UpstreamError("The connection to the backend broke.", retryable=True) from error
            body = stream.follow_up()
        ending = stream.end()
        for warning in stream.warnings:
            log.warning("upstream.strange", model=call.request.model, what=warning)
        return ending

    async def _exchange(self, call: Call, dialect: Dialect, body: bytes, stream: Answer, flush: Flush) -> None:
        """Send *body* and feed the answer to *stream*."""
        row, profile = call.row, call.row.quirks
        headers = {
            **row.headers,
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "X-Request-Id": call.request_id,
            **dialect.headers(row.key.reveal() if row.key is not None else None, profile),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=row.connect_timeout_s)
        url, query = f"{row.base_url.rstrip('/')}{dialect.path}", profile.extra_query
        async with (
            asyncio.timeout(row.first_byte_timeout_s) as timer,
            self._http.post(
                url, params=query, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer,
        ):
            log.debug("upstream.called", model=call.request.model, status=answer.status)
            compressed = answer.headers.get("Content-Encoding", "identity").lower() != "identity"
            if answer.status != 200:
                timer.reschedule(_in(row.idle_timeout_s))
                text = b"" if compressed else await _read(answer.content, MAX_ERROR_BYTES)
                raise upstream_error(answer.status, text, answer.headers.get("Retry-After"), time.time())
            if compressed:  # what a few bytes may grow to is not for the backend to choose
                raise UpstreamError("The backend compressed its answer, which it was asked not to do.")
            if answer.content_type == "text/event-stream":
                await _feed(answer.content, stream, flush, timer, row.idle_timeout_s)
                return
            whole = await _read(answer.content, MAX_BODY_BYTES + 1, timer, row.idle_timeout_s)
            if len(whole) > MAX_BODY_BYTES:
                raise UpstreamError("The backend sent an answer that is too large.")
            stream.feed_whole(whole)


async def _feed(
    content: aiohttp.StreamReader, stream: Answer, flush: Flush, timer: asyncio.Timeout, idle_s: float
) -> None:
    """Feed *stream* to its end. From its first byte on *timer* is over when nothing comes for *idle_s*."""
    reading = Reading(stream)
    idle = Deadline(lambda: timer.reschedule(_in(0)))
    begun = ended = False
    try:
        async for block in content.iter_any():
            if not begun:
                timer.reschedule(None)
                begun = True
            elif not ended:
                idle.pause()
            if reading.feed(block):
                return
            if (room := flush()) is not None:
                await room()
            if not ended:
                ended = stream.ended
                idle.within(USAGE_WAIT_S if ended else idle_s)
    finally:
        idle.close()


async def _read(
    content: aiohttp.StreamReader, limit_bytes: int, timer: asyncio.Timeout | None = None, idle_s: float = 0.0
) -> bytes:
    """At most *limit_bytes* of a body. With a *timer*, *idle_s* counts from each block, not for the whole."""
    body = bytearray()
    async for block in content.iter_any():
        body += block
        if len(body) >= limit_bytes:
            break
        if timer is not None:
            timer.reschedule(_in(idle_s))
    return bytes(body[:limit_bytes])


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
