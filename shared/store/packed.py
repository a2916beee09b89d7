"""What is kept small in Redis, made whole again: a lot of it off the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from shared.core.frames import cut
from shared.core.packing import output_of, response_of, unpack
from shared.store.rows import Batch

INLINE_BYTES = 4096
"""So much of what is packed is unpacked on the event loop (a millisecond); more in a thread."""
Result = TypeVar("Result")


async def object_of(body: bytes | None, at: bytes | None, output: bytes | None, log: bytes | None) -> bytes:
    """The Response, JSON, from what ``read.lua`` found of it."""
    if body is None:
        return await _off_loop(lambda: response_of(log), len(log)) if log else b""
    if at is None:
        return body
    (whole,) = await outputs_of([output or b""])
    return b"".join((body[: int(at)], whole, body[int(at) :]))


async def outputs_of(stored: list[bytes]) -> list[bytes]:
    """JSON arrays, from what blocks keep."""
    if all(each.startswith(b"[") for each in stored):
        return stored
    return await _off_loop(lambda: [output_of(each) for each in stored], sum(map(len, stored)))


async def _off_loop(work: Callable[[], Result], packed_bytes: int) -> Result:
    return await asyncio.to_thread(work) if packed_bytes > INLINE_BYTES else work()


async def unpacked(packed: bytes, after: int, seq: int) -> Batch:
    """What of a packed log lies behind event *after*."""
    frames = await _off_loop(lambda: unpack(packed), len(packed))
    return Batch(after + 1, seq - after - 1, cut(frames, after + 1))
