"""What Redis holds when everything has ended: each response's record, object, block and log, and what should not be there."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from redis.asyncio import Redis

from shared.core.packing import output_of, response_of, unpack
from support.schemas import Json

PREFIX = "rs:{00}:"
FOR_EVER = {f"{PREFIX}pack", f"{PREFIX}bell", f"{PREFIX}keys"}
"""Keys without a lifetime that may be there when all has ended: the logs to pack, the bell (at most one token), and
the names of API keys."""
LEFT_BEHIND = ("arq:", f"{PREFIX}live", f"{PREFIX}q:")
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class StoredResponse:
    record: dict[str, str]
    object: Json | None
    log: bytes | None
    """All frames; ``None`` when there is no log."""
    input: list[Json] = field(default_factory=list)
    output: list[Json] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.record.get("status", "")

    def number(self, name: str) -> float:
        return float(self.record.get(name) or 0)


@dataclass(frozen=True, slots=True)
class Stored:
    responses: dict[str, StoredResponse]
    left: list[str] = field(default_factory=list)
    """What should be gone by now, in words."""


async def read_store(redis: Redis, ids: Iterable[str] | None = None) -> Stored:
    """Everything; or only these responses, and nothing of what is left."""
    if ids is not None:
        return Stored(await _read(redis, list(ids)))
    keys = sorted({key.decode() async for key in redis.scan_iter(count=1000)})
    left = [f"left behind: {key}" for key in keys if key.startswith(LEFT_BEHIND)]
    for at in range(0, len(keys), AT_ONCE):
        some = keys[at : at + AT_ONCE]
        async with redis.pipeline(transaction=False) as pipe:
            for key in some:
                pipe.pttl(key)
            left += [
                f"lives for ever: {key}"
                for key, ttl in zip(some, await pipe.execute(), strict=True)
                if ttl == -1 and key not in FOR_EVER
            ]
    records = f"{PREFIX}r:"
    return Stored(await _read(redis, [key.removeprefix(records) for key in keys if key.startswith(records)]), left)


async def _read(redis: Redis, ids: list[str]) -> dict[str, StoredResponse]:
    found = {}
    for at in range(0, len(ids), AT_ONCE):
        some = ids[at : at + AT_ONCE]
        async with redis.pipeline(transaction=False) as pipe:
            for response_id in some:
                pipe.hgetall(f"{PREFIX}r:{response_id}")
                pipe.hgetall(f"{PREFIX}b:{response_id}")
            rows = await pipe.execute()
        for place, response_id in enumerate(some):
            record, block = rows[2 * place : 2 * place + 2]
            if record:
                found[response_id] = StoredResponse(
                    {name.decode(): value.decode() for name, value in record.items()},
                    _object(block),
                    await _log(redis, response_id),
                    json.loads(block.get(b"input", b"[]")),
                    json.loads(output_of(block.get(b"output") or block.get(b"log") or b"[]")),
                )
    return found


def _object(block: dict[bytes, bytes]) -> Json | None:
    """The Response of a block: its output was cut out, or all of it is made of the packed log."""
    body, at = block.get(b"object"), int(block.get(b"at", 0))
    if body is None:
        return json.loads(response_of(block[b"log"])) if b"log" in block else None
    return json.loads(body[:at] + output_of(block[b"output"]) + body[at:] if at else body)


async def _log(redis: Redis, response_id: str) -> bytes | None:
    key = f"{PREFIX}e:{response_id}"
    if frames := b"".join([entry[b"d"] for _, entry in await redis.xrange(key)]):
        return frames
    packed = await redis.hget(f"{PREFIX}b:{response_id}", "log")
    return unpack(packed) if packed else None
