"""Settle a response for a worker that is gone (or does not follow a cancel), from what its log holds.

Who calls this owns the response, under an attempt number; a log that goes on under another owner is refused by the script.
"""

import asyncio

import msgspec

from shared.core.accumulate import Fold
from shared.core.emitter import Emitter, Ending
from shared.core.frames import decode, render_all
from shared.ids import partition_of
from shared.store.parts import SLOWEST_BYTES_PER_S, encode_ended, settle_part
from shared.store.responses import Responses
from shared.wire.responses import Response

BUDGET_S = 3.0
INLINE_BYTES = 1 << 20
_decode_response = msgspec.json.Decoder(Response).decode


async def settle_from_log(
    responses: Responses, who: str, response_id: str, attempt: int, ending: Ending, *, at: int, empty: bool = False
) -> str:
    """Close what is open and settle with *ending*; *who* owns the response. Returns the script's word (``ok`` when it is settled).

    *at* is Unix seconds. With *empty* the log is not read and the output is lost: the last resort for a log that
    cannot be folded.
    """
    snapshot = await responses.read(response_id, "")
    if snapshot is None:
        return "gone"
    if snapshot.stream and not empty:
        frames = await read_log(responses, response_id)
        fold = await asyncio.to_thread(_fold, frames) if len(frames) > INLINE_BYTES else _fold(frames)
        if fold.ended:
            return "fenced"  # somebody else was quicker
        emitter = Emitter.resume(fold)
    else:
        emitter = Emitter(_decode_response(snapshot.object), number=snapshot.seq, streaming=snapshot.stream)
    first = emitter.number
    response = emitter.end(ending, at=at)
    events = emitter.take()
    body, output_bytes = encode_ended(response)
    header, blob = settle_part(
        response_id, attempt, first, len(events), response.status,
        frames=render_all(events), body=body, output_bytes=output_bytes,
    )  # fmt: skip
    budget_s = BUDGET_S + len(blob) / SLOWEST_BYTES_PER_S
    return (await responses.flush(partition_of(response_id), who, [header, blob], budget_s=budget_s))[0]


async def read_log(responses: Responses, response_id: str) -> bytes:
    """All frames of a response, however many pages that takes."""
    pieces: list[bytes] = []
    after = -1
    while True:
        page = await responses.watch(response_id, "", "", after)
        if page is None or not page.batches:
            return b"".join(pieces)
        for batch in page.batches:
            pieces.append(batch.frames)
            after = batch.first + batch.count - 1


def _fold(frames: bytes) -> Fold:
    fold = Fold()
    for event in decode(frames):
        fold.feed(event)
    return fold
