"""The body of a request: bounded, and decompressed here, so that what is wrong with it is told like any other error."""

import asyncio
import sys
import zlib

from aiohttp import HttpVersion11, web

from api.resources import SETTINGS
from shared.errors import TooLarge, TooSlow, UnsupportedMedia

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

INLINE_BYTES = 64 << 10
ENCODINGS = ("gzip", "x-gzip", "deflate", "zstd")
MAX_WINDOW_LOG = 23
"""8 MiB, the most that a ``zstd`` body may ask for (RFC 9659)."""
GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Garbled(Exception):
    """It is not what its Content-Encoding says."""


async def read_body(request: web.Request) -> bytes:
    """At most ``max_body_bytes``, before and after decompression, within ``body_timeout_s``.

    Raises ``ApiError``, or what aiohttp raises."""
    if request.content.is_eof():  # it came with its head: no timer
        body = request.content.read_nowait()
        if len(body) > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size)
    else:
        body = await _wait_for_body(request)
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ENCODINGS:
        raise UnsupportedMedia(
            "Unsupported Content-Encoding: send the body plain, or with 'gzip', 'deflate' or 'zstd'."
        )
    limit = request.app[SETTINGS].max_body_bytes
    try:
        if len(body) <= INLINE_BYTES:
            return inflate(body, encoding, limit)
        return await asyncio.to_thread(inflate, body, encoding, limit)
    except Garbled:
        message = "The request body could not be decompressed: it is not what its Content-Encoding says."
        raise UnsupportedMedia(message) from None


async def answer_expect(request: web.Request) -> None:
    """``Expect: 100-continue``: the body is asked for, unless it will be refused for its length anyway."""
    if request.version != HttpVersion11:
        return
    if request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed
    if not _is_too_long(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


def _is_too_long(request: web.Request) -> bool:
    """By what its head says."""
    return (request.content_length or 0) > request.client_max_size


async def _wait_for_body(request: web.Request) -> bytes:
    if _is_too_long(request):
        raise web.HTTPRequestEntityTooLarge(request.client_max_size)
    timeout_s = request.app[SETTINGS].body_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise TooSlow(f"The request body did not arrive within {timeout_s:g} s.") from None


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """*body* decompressed. ``deflate`` comes with a header or, from some clients, without."""
    machine = _machine(body, encoding)
    try:
        plain = machine.decompress(body, limit + 1)
    except (zlib.error, zstd.ZstdError):
        raise Garbled from None
    if len(plain) > limit:
        raise TooLarge(f"The request body is too large. This server takes at most {limit} bytes.")
    if not machine.eof or machine.unused_data:
        raise Garbled
    return plain


def _machine(body: bytes, encoding: str) -> "zlib._Decompress | zstd.ZstdDecompressor":
    if encoding == "zstd":
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
    headless = encoding == "deflate" and body[:1] and (body[0] & 0x0F) != zlib.DEFLATED
    return zlib.decompressobj(wbits=RAW if headless else ZLIB if encoding == "deflate" else GZIP)
