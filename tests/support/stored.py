"""What Redis holds when everything has ended: each response's record, object, block and log, and what should not be there."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.core.packing import unpack
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
                pipe.get(f"{PREFIX}o:{response_id}")
                pipe.hmget(f"{PREFIX}b:{response_id}", "input", "output")
            rows = await pipe.execute()
        for place, response_id in enumerate(some):
            record, body, (given, made) = rows[3 * place : 3 * place + 3]
            if record:
                found[response_id] = StoredResponse(
                    {name.decode(): value.decode() for name, value in record.items()},
                    json.loads(body) if body else None,
                    await _log(redis, response_id),
                    json.loads(given or b"[]"),
                    json.loads(made or b"[]"),
                )
    return found


async def _log(redis: Redis, response_id: str) -> bytes | None:
    key = f"{PREFIX}e:{response_id}"
    kind = await redis.type(key)
    if kind == b"stream":
        try:
            return b"".join([entry[b"d"] for _, entry in await redis.xrange(key)])
        except ResponseError:  # it has just been packed
            kind = b"string"
    packed = await redis.get(key) if kind == b"string" else None
    return unpack(packed) if packed else None
