"""What the fault tests share: a backend that tells its calls apart by name, small verbs for a client, and the check of
what is left in Redis when everything has ended.

The last user text begins with the response's name: ``"r7 words=30 delay_ms=5"``.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from redis.asyncio import Redis

from fakes.upstream import DONE, Call, FakeUpstream, Script, Step, by_phrases, chunk, send, start, usage, wait
from shared.store.processes import heartbeat_key, living
from support.checker import assert_kept, judge
from support.clients import RawClient, RawStream
from support.contract import TERMINAL
from support.schemas import Json
from support.stored import PREFIX, read_store

WAIT_S = 20.0
SHORT_LEASE = {"RESPOOL_LEASE_S": "1", "RESPOOL_RENEW_S": "0.3", "RESPOOL_REAP_S": "0.1"}
BROKEN = (aiohttp.ClientError, ConnectionError)


class NamedUpstream(FakeUpstream):
    """Plays the scripts planned for a name in turn, then what the text's phrases say."""

    def __init__(self) -> None:
        super().__init__(self._respond)
        self._plans: dict[str, deque[Script]] = {}
        self._named: dict[str, list[Call]] = {}

    def plan(self, name: str, *scripts: Script) -> None:
        self._plans.setdefault(name, deque()).extend(scripts)

    def _respond(self, call: Call) -> Script:
        self._named.setdefault(name_of(call), []).append(call)
        plan = self._plans.get(name_of(call))
        return plan.popleft() if plan else by_phrases(call)

    def calls_of(self, name: str) -> list[Call]:
        return list(self._named.get(name, ()))

    async def arrived(self, name: str, count: int = 1, timeout_s: float = WAIT_S) -> Call:
        """The *count*-th call of that name, as soon as it is there."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls_of(name)) >= count)
        return self.calls_of(name)[count - 1]

    async def given_up(self, name: str, count: int = 1, timeout_s: float = WAIT_S) -> None:
        """The client of that call went away before its end."""
        call = await self.arrived(name, count, timeout_s)
        async with asyncio.timeout(timeout_s):
            await call.over.wait()
        assert call.outcome == "disconnected", call.outcome


def name_of(call: Call) -> str:
    return call.last_user_text.partition(" ")[0]


def words(*texts: str) -> list[Step]:
    """The beginning of an answer; without texts only its headers."""
    return [start(), *(send(chunk(text)) for text in texts)]


def then(gate: asyncio.Event, *texts: str) -> list[Step]:
    """Once *gate* is open, the rest of the answer and its end."""
    rest = [chunk(text) for text in texts]
    return [wait(gate), send(*rest, chunk(finish="stop"), chunk(usage=usage(9, 9)), DONE)]


async def create(raw: RawClient, text: str, /, **fields: Any) -> Json:
    """A background response unless told otherwise; it must be accepted."""
    body = {"model": "tiny", "input": text, "background": True, **fields}
    answer = await raw.post("/v1/responses", json=body)
    assert answer.status == 200, answer.body
    return answer.json()


@contextlib.asynccontextmanager
async def streaming(raw: RawClient, text: str, /, **fields: Any) -> AsyncIterator[RawStream]:
    body = {"model": "tiny", "input": text, "stream": True, **fields}
    async with raw.stream("POST", "/v1/responses", json=body) as stream:
        assert stream.status == 200
        yield stream


async def read_until(stream: RawStream, kind: str, count: int = 1) -> list[Json]:
    """Events up to the *count*-th one of that kind."""
    seen: list[Json] = []
    async with asyncio.timeout(WAIT_S):
        async for event in stream.events():
            seen.append(event)
            count -= event["type"] == kind
            if count == 0:
                return seen
    raise AssertionError(f"the stream ended without {kind}: {[event['type'] for event in seen]}")


async def read_on(stream: RawStream) -> list[Json]:
    """The events to the end, or to where the connection breaks."""
    seen: list[Json] = []
    with contextlib.suppress(*BROKEN):
        async for event in stream.events():
            seen.append(event)  # noqa: PERF401  # what came before the break is wanted
    return seen


async def resume(raw: RawClient, response_id: str, after: int | None) -> list[Json]:
    """The events behind *after*, to the end."""
    query = "" if after is None else f"&starting_after={after}"
    async with raw.stream("GET", f"/v1/responses/{response_id}?stream=true{query}") as stream:
        assert stream.status == 200, await stream.read()
        return [event async for event in stream.events()]


async def get(raw: RawClient, response_id: str) -> Json:
    answer = await raw.get(f"/v1/responses/{response_id}")
    assert answer.status == 200, answer.body
    return answer.json()


async def ended(raw: RawClient, response_id: str, timeout_s: float = WAIT_S) -> Json:
    """Poll, as clients do, until it has ended."""
    async with asyncio.timeout(timeout_s):
        while True:
            response = await get(raw, response_id)
            if response["status"] in TERMINAL:
                return response
            await asyncio.sleep(0.03)  # between two polls


def text_of(response: Json) -> str:
    parts = [part for item in response["output"] for part in item.get("content", [])]
    return "".join(part.get("text", "") for part in parts)


def numbers_of(events: Sequence[Json]) -> list[int]:
    return [event["sequence_number"] for event in events]


async def random_moment(chance: random.Random, longest_s: float) -> float:
    """A moment that no signal announces: that is the point of it. Returns how long it was."""
    waited_s = chance.uniform(0, longest_s)
    await asyncio.sleep(waited_s)
    return waited_s


@contextlib.asynccontextmanager
async def maxmemory(redis: Redis, *, used: bool = True) -> AsyncIterator[None]:
    """Redis is at its limit meanwhile (unless not *used*, so that tests can say it of a parameter)."""
    if used:
        await redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        if used:
            await redis.config_set("maxmemory", 0)
            for _ in range(2):  # front ends look at the memory before each sign of life
                await signs_of_life(redis)


async def signs_of_life(redis: Redis) -> None:
    """Another one of each front end that lives."""
    front_ends = [heartbeat_key(name) for name in await living(redis) if name.startswith("f-")]
    left = {key: await redis.pttl(key) for key in front_ends}
    async with asyncio.timeout(WAIT_S):
        while left:
            await asyncio.sleep(0.02)  # between two looks
            for key, before_ms in list(left.items()):
                now_ms = await redis.pttl(key)
                if not 0 < now_ms <= before_ms:  # renewed, or its process has died
                    del left[key]
                else:
                    left[key] = now_ms


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again, where nothing gives a signal."""
    async with asyncio.timeout(WAIT_S):
        while not await holds():  # noqa: ASYNC110  # that is what it is for
            await asyncio.sleep(0.03)  # between two looks


async def all_ended(redis: Redis) -> None:
    """Every response that was accepted has come to its end, whoever knows of it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if not await redis.exists(f"{PREFIX}live"):
                return
            await asyncio.sleep(0.05)  # between two looks


async def check_left(redis: Redis) -> int:
    """Everything has ended, and nothing is left that should not be. Returns how many responses there are."""
    stored = await read_store(redis)
    assert_kept(judge([], stored))
    return len(stored.responses)


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since
