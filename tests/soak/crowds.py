"""Figures of crowds: a thousand readers of one response, and a thousand that reconnect at the same moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aiohttp

from soak.bench import Bench, Row, bench, opened
from support.faults import BROKEN, then, words
from support.sse import parse_sse

READERS, RESPONSES = 1000, 10
LIMIT_S = 120.0
WORDS = [f"w{place} " for place in range(20)]


@asynccontextmanager
async def crowd() -> AsyncIterator[aiohttp.ClientSession]:
    """A client with as many connections as it likes, whose exchanges are not recorded."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    headers, timeout = {"Authorization": "Bearer key"}, aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield session


class Body:
    """What one reader gets, to its end or to where the connection breaks."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.begun = asyncio.Event()
        self.first_at = self.ended_at = 0.0

    async def read(self, session: aiohttp.ClientSession, url: str) -> None:
        with suppress(*BROKEN):
            async with session.get(url) as reply:
                async for piece in reply.content.iter_any():
                    self.first_at = self.first_at or time.monotonic()
                    self.got += piece
                    if not self.begun.is_set() and b"output_text.delta" in self.got:
                        self.begun.set()
        self.ended_at = time.monotonic()


async def held(it: Bench, count: int) -> tuple[list[str], asyncio.Event]:
    """So many responses that have begun, and go on once the event is set."""
    gate, ids = asyncio.Event(), list[str]()
    for number in range(count):
        it.upstream.plan(f"r{number}", [*words("one "), *then(gate, *WORDS)])
        stream = await opened(it.client(1), f"r{number}")
        while (event := await stream.get()) and event["type"] != "response.output_text.delta":
            if event["type"] == "response.created":
                ids.append(event["response"]["id"])
    return ids, gate


async def many_readers() -> Row:
    """Streams and long polls of one response: how long after its end each has all of it."""
    async with bench(front_ends=2) as it, crowd() as session:
        (response_id,), gate = await held(it, 1)
        url = f"{it.cluster.front_ends[0].origin}/v1/responses/{response_id}"
        streams, polls = [Body() for _ in range(READERS)], [Body() for _ in range(READERS)]
        going = [asyncio.create_task(each.read(session, f"{url}?stream=true")) for each in streams]
        going += [asyncio.create_task(each.read(session, f"{url}?wait=60")) for each in polls]
        for each in streams:
            await each.begun.wait()
        inboxes = await it.cluster.redis.hget(f"rs:{{00}}:r:{response_id}", "inboxes")
        began = time.monotonic()
        gate.set()
        await asyncio.gather(*going)
        assert len({bytes(each.got) for each in streams}) == 1, "readers saw different bytes"
        assert all(b'"status":"completed"' in each.got for each in polls)
        found = await it.verdict(text=None)
    return (
        f"{READERS} streams, {READERS} polls, {len(inboxes.split())} inboxes: streams at their end {spread(streams, began)}, "
        f"polls {spread(polls, began)}"
    ), found


async def reconnects() -> Row:
    """A front end dies under streams, all of which go on at another one at once: how long until each goes on."""
    async with bench(front_ends=3) as it, crowd() as session:
        ids, gate = await held(it, RESPONSES)
        victim, _, other = it.cluster.front_ends
        asked = [ids[number % RESPONSES] for number in range(READERS)]
        before = [Body() for _ in asked]
        url = f"{victim.origin}/v1/responses/"
        going = [
            asyncio.create_task(each.read(session, f"{url}{name}?stream=true"))
            for each, name in zip(before, asked, strict=True)
        ]
        for each in before:
            await each.begun.wait()
        await victim.kill()
        await asyncio.gather(*going)
        last = [parse_sse(bytes(each.got), cut=True).events[-1]["sequence_number"] for each in before]
        after, began = [Body() for _ in asked], time.monotonic()
        gate.set()
        url = f"{other.origin}/v1/responses/"
        await asyncio.gather(
            *(
                each.read(session, f"{url}{name}?stream=true&starting_after={number}")
                for each, name, number in zip(after, asked, last, strict=True)
            )
        )
        wrong = 0
        for each, number in zip(after, last, strict=True):
            numbers = [event["sequence_number"] for event in parse_sse(bytes(each.got)).events]
            wrong += numbers != list(range(number + 1, number + 1 + len(numbers))) or not numbers
        found = await it.verdict(text=None)
    for each in after:
        each.ended_at = each.first_at
    return (
        f"{READERS} streams of {RESPONSES} responses: they go on {spread(after, began)}; {wrong} gaps or duplicates",
        found,
    )


def spread(bodies: Sequence[Body], began: float) -> str:
    took = sorted(each.ended_at - began for each in bodies)
    return f"p50 {took[len(took) // 2]:.2f} s, p99 {took[len(took) * 99 // 100]:.2f} s"
