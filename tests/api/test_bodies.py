"""Compressed bodies: small ones, bombs, and what only pretends to be one."""

import contextlib
import gzip
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import MAX_WINDOW_LOG, Garbled, inflate
from shared.errors import TooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 1000
WHOLE = b'{"model": "echo", "input": "hi"}'


def headless(data: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return machine.compress(data) + machine.flush()


@pytest.mark.parametrize("data", [b"", WHOLE, b"x" * LIMIT])
def test_what_was_compressed_comes_back(data: bytes) -> None:
    assert inflate(gzip.compress(data), "gzip", LIMIT) == data
    assert inflate(zlib.compress(data), "deflate", LIMIT) == data
    assert inflate(headless(data), "deflate", LIMIT) == data
    assert inflate(zstd.compress(data), "zstd", LIMIT) == data


@pytest.mark.parametrize("size", [LIMIT + 1, 64 << 20])
def test_bombs_are_not_unpacked(size: int) -> None:
    with pytest.raises(TooLarge):
        inflate(gzip.compress(b"\x00" * size), "gzip", LIMIT)
    with pytest.raises(TooLarge):
        inflate(zstd.compress(b"\x00" * size), "zstd", LIMIT)


def test_a_window_that_would_take_much_memory_is_refused() -> None:
    wide = {zstd.CompressionParameter.window_log: MAX_WINDOW_LOG + 4, zstd.CompressionParameter.content_size_flag: 0}
    machine = zstd.ZstdCompressor(options=wide)
    body = (
        machine.compress(WHOLE, zstd.ZstdCompressor.FLUSH_BLOCK) + machine.flush()
    )  # its length is not known at first
    assert zstd.decompress(body) == WHOLE
    with pytest.raises(Garbled):
        inflate(body, "zstd", LIMIT)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", gzip.compress(WHOLE)[:-1], gzip.compress(WHOLE) + b"x", zlib.compress(WHOLE)],
    ids=["empty", "plain", "cut", "more", "zlib"],  # the packed ones hold the time
)
def test_what_is_not_gzip_is_told(body: bytes) -> None:
    with pytest.raises(Garbled):
        inflate(body, "gzip", LIMIT)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", zstd.compress(WHOLE)[:-1], zstd.compress(WHOLE) + b"x", gzip.compress(WHOLE)],
    ids=["empty", "plain", "cut", "more", "gzip"],
)
def test_what_is_not_zstd_is_told(body: bytes) -> None:
    with pytest.raises(Garbled):
        inflate(body, "zstd", LIMIT)


@given(
    st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: zstd.compress(WHOLE)[:9] + tail),
    st.sampled_from(["gzip", "deflate", "zstd"]),
)
def test_nothing_else_is_raised(body: bytes, encoding: str) -> None:
    with contextlib.suppress(Garbled, TooLarge):
        assert len(inflate(body, encoding, LIMIT)) <= LIMIT
