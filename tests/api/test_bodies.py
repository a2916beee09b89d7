"""Compressed bodies: small ones, bombs, and what only pretends to be one."""

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import Garbled, inflate
from shared.errors import TooLarge

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


@pytest.mark.parametrize("size", [LIMIT + 1, 64 << 20])
def test_bombs_are_not_unpacked(size: int) -> None:
    with pytest.raises(TooLarge):
        inflate(gzip.compress(b"\x00" * size), "gzip", LIMIT)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", gzip.compress(WHOLE)[:-1], gzip.compress(WHOLE) + b"x", zlib.compress(WHOLE)],
    ids=["empty", "plain", "cut", "more", "zlib"],  # the packed ones hold the time
)
def test_what_is_not_gzip_is_told(body: bytes) -> None:
    with pytest.raises(Garbled):
        inflate(body, "gzip", LIMIT)


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]))
def test_nothing_else_is_raised(body: bytes, encoding: str) -> None:
    with contextlib.suppress(Garbled, TooLarge):
        assert len(inflate(body, encoding, LIMIT)) <= LIMIT
