"""A bare Valkey behind the store, without front ends and workers; and builders for what the scripts take.

async def test_x(responses, redis):        # the verbs, and a plain client to look behind them
    await submit(responses, new(1))
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis as PlainRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.ids import response_id
from shared.store.parts import append_header, settle_part
from shared.store.redis import Store, connect, inbox_channel, prefix
from shared.store.responses import Responses
from shared.store.rows import Claimed, Lane, NewResponse
from shared.supervisor import valkey_binary
from shared.wire.responses import Status

PARTITION = "00"
PREFIX = prefix(PARTITION)
TENANT = "acme"
WORKER = "w-1"
INBOX = "f-1"
LEASE_S = 5.0
KEEP_S = 1000
START_S = 10.0


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """The URL of a Valkey of this module's own."""
    folder = Path(tempfile.mkdtemp(prefix="respool-", dir="/tmp"))
    path = folder / "valkey.sock"
    options = ("--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", "", "--logfile", "log")
    server = subprocess.Popen([str(valkey_binary()), *options], stdout=subprocess.DEVNULL)
    try:
        _await_answer(f"unix://{path}")
        yield f"unix://{path}"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await_answer(url: str) -> None:
    deadline = time.monotonic() + START_S
    with PlainRedis.from_url(url) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError):
                client.ping()
                return
            time.sleep(0.01)
    raise AssertionError("Valkey does not answer")


@pytest_asyncio.fixture
async def redis(valkey: str) -> AsyncIterator[Redis]:
    """A plain client of an empty Valkey; answers are text."""
    client = Redis.from_url(valkey, decode_responses=True, encoding_errors="surrogateescape")
    await client.config_set("maxmemory", 0)
    await client.flushall()
    yield client
    await client.config_set("maxmemory", 0)
    await client.aclose()


@pytest_asyncio.fixture
async def responses(valkey: str, redis: Redis) -> AsyncIterator[Responses]:
    client = connect(valkey)
    yield Responses(Store(client))
    await client.aclose()


def rid(number: int) -> str:
    return response_id(0, number.to_bytes(20))


def key(kind: str, number: int) -> str:
    return f"{PREFIX}{kind}:{rid(number)}"


def queue(lane: Lane = "foreground") -> str:
    return f"arq:queue:{{{PARTITION}}}:{lane}"


def job_key(number: int) -> str:
    return f"arq:job:{{{PARTITION}}}:{rid(number)}"


DUE = "#!lua flags=allow-oom\nreturn redis.call('ZADD', KEYS[1], 1, ARGV[1])"
LIVE, BELL, TICK, GRACE, PACK = (f"{PREFIX}{name}" for name in ("live", "bell", "tick", "grace", "pack"))


def new(number: int, **changes: Any) -> NewResponse:
    """A stored foreground response with a log that begins with one frame."""
    stream = changes.get("stream", True)
    fields: dict[str, Any] = {
        "id": rid(number), "tenant": TENANT, "lane": "foreground", "inbox": INBOX, "stream": True, "background": False,
        "store": True, "keep_s": KEEP_S, "parent": "", "request_id": f"req_{number}", "request": b'{"n":1}',
        "object": b'{"status":"queued"}', "items": b'["in"]', "created_ms": 1_790_000_000_000,
        "opening": b"<0>" if stream else b"", "opening_count": int(stream), "begin": b"<begin>" if stream else b"",
    }  # fmt: skip
    return NewResponse(**{**fields, **changes})


async def submit(responses: Responses, *wanted: NewResponse) -> None:
    for each in wanted:
        assert await responses.submit(each, max_queue=100, budget_s=3.0) == "ok"


async def claim(
    responses: Responses,
    call: int = 1,
    *,
    worker: str = WORKER,
    slots: int = 8,
    lease_s: float = LEASE_S,
    lanes: tuple[Lane, ...] = ("foreground", "background"),
) -> list[Claimed]:
    return await responses.claim(PARTITION, worker, call, slots=slots, lease_s=lease_s, lanes=lanes)


async def started(responses: Responses, number: int = 1, **changes: Any) -> Claimed:
    """Submitted and claimed by ``WORKER``."""
    await submit(responses, new(number, **changes))
    (claimed,) = await claim(responses, number, lanes=("foreground", "background"))
    assert claimed.id == rid(number)
    return claimed


Parts = list[str | bytes]


def append(number: int, first: int, frames: bytes = b"<x>", *, count: int = 1, attempt: int = 1) -> Parts:
    return [append_header(rid(number), attempt, first, count), frames]


def settle(
    number: int, first: int, status: Status = "completed", *, count: int = 1, attempt: int = 1, frames: bytes = b"<end>"
) -> Parts:
    body, frames = object_of(status), frames if count else b""
    return [*settle_part(rid(number), attempt, first, count, status, frames=frames, body=body, output_bytes=7)]


def object_of(status: str, output: str = '["out"]') -> bytes:
    """A Response, as far as scripts look into it."""
    return f'{{"status":"{status}","output":{output},"model":"m"}}'.encode()


async def flush(responses: Responses, *parts: Parts, who: str = WORKER) -> list[str]:
    return await responses.flush(PARTITION, who, [one for part in parts for one in part], budget_s=3.0)


async def ended(responses: Responses, number: int, status: Status = "completed", **changes: Any) -> None:
    """A response without a log that has come to *status*."""
    await started(responses, number, stream=False, **changes)
    assert await flush(responses, settle(number, 0, status, count=0)) == ["ok"]


async def due(redis: Redis, number: int) -> None:
    """Somebody must look at it now: its lease or its waiting time is over."""
    await redis.eval(DUE, 1, LIVE, rid(number))


async def log_of(redis: Redis, number: int) -> bytes:
    return "".join([entry["d"] for _, entry in await redis.xrange(key("e", number))]).encode()


class Listener:
    """What is published to one inbox, message by message."""

    def __init__(self, redis: Redis, inbox: str) -> None:
        self._pubsub = redis.pubsub()
        self._channel = inbox_channel(inbox)

    async def __aenter__(self) -> "Listener":
        await self._pubsub.subscribe(self._channel)
        assert (await self._pubsub.get_message(timeout=START_S))["type"] == "subscribe"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()

    async def next(self) -> str:
        message = await self._pubsub.get_message(timeout=START_S)
        assert message is not None, "nothing was published"
        return message["data"]

    async def rest(self) -> list[str]:
        """Everything that was published so far: our own ping comes back behind it."""
        await self._pubsub.ping("last")
        heard = []
        while True:
            message = await self._pubsub.get_message(timeout=START_S)
            assert message is not None
            if message["type"] == "pong":
                return heard
            heard.append(message["data"])
