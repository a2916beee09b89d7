"""The body of a request: bounded, and decompressed here, so that what is wrong with it is told like any other error."""

import asyncio
import zlib

from aiohttp import web

from api.resources import SETTINGS
from shared.errors import TooLarge, UnsupportedMedia

INLINE_BYTES = 64 << 10
GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Garbled(Exception):
    """It is not what its Content-Encoding says."""


async def read_body(request: web.Request) -> bytes:
    """At most ``max_body_bytes``, before and after decompression. Raises ``ApiError``, or what aiohttp raises."""
    body = await request.read()
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMedia("Unsupported Content-Encoding: send the body plain, or with 'gzip' or 'deflate'.")
    limit = request.app[SETTINGS].max_body_bytes
    try:
        if len(body) <= INLINE_BYTES:
            return inflate(body, encoding, limit)
        return await asyncio.to_thread(inflate, body, encoding, limit)
    except Garbled:
        message = "The request body could not be decompressed: it is not what its Content-Encoding says."
        raise UnsupportedMedia(message) from None


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """*body* decompressed. ``deflate`` comes with a header or, from some clients, without."""
    headless = encoding == "deflate" and body[:1] and (body[0] & 0x0F) != zlib.DEFLATED
    machine = zlib.decompressobj(wbits=RAW if headless else ZLIB if encoding == "deflate" else GZIP)
    try:
        plain = machine.decompress(body, limit + 1)
    except zlib.error:
        raise Garbled from None
    if len(plain) > limit:
        raise TooLarge(f"The request body is too large. This server takes at most {limit} bytes.")
    if not machine.eof or machine.unused_data:
        raise Garbled
    return plain
