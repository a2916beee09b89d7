"""The parts of a flush, as ``flush.lua`` reads them."""

import msgspec

from shared.wire.responses import Response, Status

SLOWEST_BYTES_PER_S = 10e6
"""A large flush has so much more time."""
_encode = msgspec.json.Encoder().encode


def append_header(response_id: str, attempt: int, first: int, count: int) -> str:
    return f"a {response_id} {attempt} {first} {count}"


def settle_part(
    response_id: str,
    attempt: int,
    first: int,
    count: int,
    status: Status,
    *,
    frames: bytes,
    body: bytes,
    output_bytes: int,
    attempts: str = "",
) -> tuple[str, bytes]:
    """Header and blob of a settle part. *output_bytes* is how much of *body* is its output: see ``encode_ended``;
    *attempts* as in `Snapshot`."""
    header = f"s {response_id} {attempt} {first} {count} {status} {len(frames)} {output_bytes} {attempts}"
    return header, frames + body


def encode_ended(response: Response) -> tuple[bytes, int]:
    """The Response as JSON, and how many bytes of that are the array of its output items."""
    body = _encode(response)
    rest = _encode(msgspec.structs.replace(response, output=[]))
    return body, len(body) - len(rest) + len(b"[]")
