"""What a caller sees: each scenario gives lines with what the upstream answers directly beside what it answers through us.

Both sides take turns, request by request or slice by slice, so that a noisy machine is equally noisy for both.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import msgspec
from client import Client, Event, HttpError
from lines import SIDES, Line, Row
from stack import Stack

WARM_UP = 3
DRAIN_S = 60
IN_A_ROW = 10
"""Calls of one caller on one side: what the other side did meanwhile must not be what is measured."""
STREAM_SLICES = 15
"""How many slices a slow stream lasts."""
TURN_SLICES = 3
"""How many slices a crowd's turn takes: its start, when all come at once, must not be what is measured."""
PACE = 20
"""Words per second of a slow stream."""


class Reader:
    """Follows one stream: its words, when they came, and whether it is whole."""

    def __init__(self) -> None:
        self.last = -1
        self.gaps = 0
        self.words: list[str] = []
        self.arrivals: list[int] = []
        self.first_event = 0
        self.response_id = ""
        self.began = asyncio.Event()
        self.end = ""

    def __call__(self, event: Event, now: int) -> None:
        self.first_event = self.first_event or now
        self.gaps += self.last >= 0 and event.sequence_number != self.last + 1
        self.last = event.sequence_number
        if event.type == "response.output_text.delta":
            words = event.delta.split()
            self.words += words
            self.arrivals += [now] * len(words)
        elif event.type == "response.created":
            self.response_id = msgspec.json.decode(event.response)["id"]
            self.began.set()
        elif event.type in ("response.completed", "response.failed", "response.incomplete", "error"):
            self.end = event.type

    def is_whole(self, words: int, first: int = 0) -> bool:
        expected = all(w[0] == "@" or w == f"w{i}" for i, w in enumerate(self.words, first))
        return expected and self.end == "response.completed" and not self.gaps and len(self.words) == words


@dataclass
class Bench:
    """The scale of one run, its stack, and what went wrong."""

    stack: Stack
    rounds: int
    slice_s: float
    idle_cpu: float = 0.0
    """CPU seconds per second that our processes take when there is nothing to do."""
    faults: list[str] = field(default_factory=list)

    @property
    def quick(self) -> bool:
        return self.slice_s < 1

    @property
    def slices(self) -> int:
        return max(1, self.rounds // 40)

    def client(self, side: str) -> Client:
        return Client(getattr(self.stack, side))

    def check(self, whole: bool, what: str) -> None:
        if not whole:
            self.faults.append(what)

    async def measure_idle(self) -> None:
        await asyncio.sleep(0.3)
        meter = Meter(self)
        await asyncio.sleep(max(0.5, self.slice_s))
        self.idle_cpu = meter.cpu_s() / meter.passed_s()


class Meter:
    """Our CPU time from now on; what passes while the other side has its turn counts as idle."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._began = time.monotonic()
        self._cpu_s = sum(bench.stack.cpu_s().values())
        self.other_s = 0.0

    def passed_s(self) -> float:
        return time.monotonic() - self._began

    def cpu_s(self) -> float:
        return sum(self._bench.stack.cpu_s().values()) - self._cpu_s - self.other_s * self._bench.idle_cpu

    def fill(self, row: Row, unit: str, count: int) -> Row:
        if self._cpu_s and count:
            each = row.cpu_ms = self.cpu_s() * 1000 / count
            row.cpu = f"{each:.2f} ms/{unit}" if each >= 0.1 else f"{each * 1000:.1f} us/{unit}"
        row.memory_bytes = sum(self._bench.stack.memory_bytes().values())
        return row


def request(phrase: str, **more: object) -> dict[str, Any]:
    return {"model": "sim", "input": f"Say something. sim-{phrase}", **more}


def turns(meter: Meter, count: int, sides: Sequence[str] = SIDES) -> Iterator[str]:
    """The sides in turn, *count* times each, and each as often first as second."""
    for number in range(count):
        for side in sides if number % 2 == 0 else sides[::-1]:
            began = time.monotonic()
            yield side
            if side == "direct":
                meter.other_s += time.monotonic() - began


async def one_by_one(
    bench: Bench, once: Callable[[Client, str], Awaitable[float]], *, row: Row, cpu: tuple[str, int] = ("request", 1)
) -> Row:
    """One caller: *once* some times on one side, then as often on the other, ``bench.rounds`` times in all."""
    clients = {side: bench.client(side) for side in SIDES}
    for side in SIDES * WARM_UP:
        await once(clients[side], side)
    meter = Meter(bench)
    for side in turns(meter, -(-bench.rounds // IN_A_ROW)):
        row.samples[side] += [await once(clients[side], side) for _ in range(IN_A_ROW)]
    for client in clients.values():
        client.close()
    return meter.fill(row, cpu[0], cpu[1] * len(row.samples["ours"]))


async def callers(
    bench: Bench, side: str, count: int, once: Callable[[Client, str], Awaitable[float]], most: float = inf
) -> list[float]:
    """*count* callers for one slice or until *most* calls were made, each again and again. What *once* returned, in any
    order."""
    found: list[float] = []

    async def caller() -> None:
        client = bench.client(side)
        nonlocal most
        while most > 0 and time.monotonic() < end:
            most -= 1
            try:
                found.append(await once(client, side))
            except (HttpError, OSError, TimeoutError) as error:
                bench.check(False, f"{side}: {type(error).__name__} {error}")
                await asyncio.sleep(0.01)
        client.close()

    end = time.monotonic() + TURN_SLICES * bench.slice_s
    await asyncio.gather(*(caller() for _ in range(count)))
    return found


async def in_slices(
    bench: Bench,
    count: int,
    once: Callable[[Client, str], Awaitable[float]],
    *,
    rate: Row,
    latency: Row | None = None,
    after: Callable[[str], Awaitable[None]] | None = None,
) -> list[Row]:
    """*count* callers on one side for a slice of time, then on the other."""
    for side in SIDES:
        client = bench.client(side)
        for _ in range(WARM_UP):
            await once(client, side)
        client.close()
    meter, done = Meter(bench), 0
    for side in turns(meter, bench.slices):
        began = time.monotonic()
        found = await callers(bench, side, count, once)
        rate.samples[side].append(len(found) / (time.monotonic() - began))
        if latency:
            latency.samples[side] += found
        if after:
            await after(side)
        done += len(found) if side == "ours" else 0
    meter.fill(rate, "request", done)
    return [row for row in (rate, latency) if row]


async def round_trip(bench: Bench) -> Sequence[Line]:
    body = request("tokens=16")

    async def once(client: Client, _: str) -> float:
        await client.call("POST", "/responses", body)
        return (time.monotonic_ns() - client.sent) / 1e6

    alone = await one_by_one(bench, once, row=Row("ms"))
    rate, latency = await in_slices(bench, 16, once, rate=Row("/s"), latency=Row("ms"))
    return [
        alone.line("no stream, 1 caller: round trip p50", 0.5, must=2.5, goal=1.3),
        rate.line("no stream, 16 callers: requests", 0.5, must=1200, goal=2500),
        latency.line("no stream, 16 callers: round trip p99", 0.99, must=30, goal=12),
        Line("no stream, 16 callers: CPU per request", "ms", rate.cpu_ms or 0.0, must=0.9, goal=0.5),
    ]


async def first_delta(bench: Bench) -> Sequence[Line]:
    async def once(client: Client, side: str) -> float:
        if busy and client.connection is None:
            await asyncio.sleep(random.uniform(0, 0.3))
        reader = Reader()
        await client.call("POST", "/responses", body, reader)
        bench.check(reader.end == "response.completed" and not reader.gaps, f"{side}: a stream is not whole")
        return (reader.arrivals[0] - client.sent) / 1e6

    busy, body = False, request("tokens=4-delay_ms=4", stream=True)
    alone = await one_by_one(bench, once, row=Row("ms"))
    busy, body = True, request("tokens=16-delay_ms=20", stream=True)
    _, crowd = await in_slices(bench, 32, once, rate=Row("/s"), latency=Row("ms"))
    return [
        alone.over("stream, 1 caller: create to first text delta, over direct, p50", 0.5, must=2.5, goal=1.5),
        alone.over("stream, 1 caller: the same, p99", 0.99, must=5, goal=2.5),
        crowd.line("stream, 32 callers: create to first text delta p50", 0.5, must=7, goal=3.5),
        crowd.line("stream, 32 callers: the same, p99", 0.99, must=30, goal=12),
    ]


async def fast_stream(bench: Bench) -> Sequence[Line]:
    """From the request until the client has read all of the stream."""
    words = 1000
    body = request(f"tokens={words}", stream=True)

    async def once(client: Client, side: str) -> float:
        reader = Reader()
        await client.call("POST", "/responses", body, reader)
        took_s = (time.monotonic_ns() - client.sent) / 1e9
        bench.check(reader.is_whole(words), f"{side}: a stream is not whole")
        return words / took_s

    row = await one_by_one(bench, once, row=Row("/s"), cpu=("word", words))
    rate = row.line("one fast stream of 1,000 words: words", 0.5, must=60_000, goal=120_000)
    return [
        rate,
        Line("one fast stream: share of direct", "", rate.ratio or 0.0, must=0.35, goal=0.6, more=True),
        Line("one fast stream: CPU per word", "us", (row.cpu_ms or 0.0) * 1000, must=12, goal=6),
    ]


@dataclass
class Slow:
    """Many streams at a steady pace: how late words were (the upstream writes its clock into each), how much of the pace
    was kept, our CPU per word, and the memory of a stream that is open."""

    late: Row
    kept: float
    cpu_us: float
    stream_kib: float


async def slow_streams(bench: Bench, streams: int, seconds: float, sides: Sequence[str] = SIDES) -> Slow:
    words = max(PACE, round(seconds * PACE))
    body = request(f"tokens={words}-delay_ms={1000 / PACE:g}-stamp=1", stream=True)
    row, kept, meter = Row("ms"), [], Meter(bench)
    before = after = bench.stack.memory_bytes()

    async def one(side: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        client, reader = bench.client(side), Reader()
        await client.call("POST", "/responses", body, reader)
        client.close()
        bench.check(reader.is_whole(words), f"{side}: a stream is not whole")
        row.samples[side] += [
            (at - int(text[1:])) / 1e6 for text, at in zip(reader.words, reader.arrivals, strict=True)
        ]
        if side == "ours" and reader.arrivals:
            due_s, took_s = (words - 1) / PACE, (reader.arrivals[-1] - reader.arrivals[0]) / 1e9
            kept.append(min(1.0, due_s / took_s))

    for side in turns(meter, 1, sides):
        opening_s = min(2.0, streams / 250)
        tasks = [asyncio.create_task(one(side, opening_s * number / streams)) for number in range(streams)]
        if side == "ours":
            await asyncio.sleep(opening_s + seconds / 3)
            after = bench.stack.memory_bytes()
        await asyncio.gather(*tasks)
    meter.fill(row, "word", streams * words)
    grown = sum(after[room] - before[room] for room in ("front end", "worker"))
    return Slow(row, sum(kept) / max(1, len(kept)), (row.cpu_ms or 0.0) * 1000, grown / streams / 1024)


async def many_streams(bench: Bench) -> Sequence[Line]:
    lines: list[Line] = []
    limits = {200: (99.9, 99.9, 15, 5), 500: (99.5, 99.9, 25, 8), 1000: (92, 98, None, 200)}
    if bench.quick:
        limits = {50: limits[200]}
    for streams, (must, goal, late_must, late_goal) in limits.items():
        found = await slow_streams(bench, streams, STREAM_SLICES * bench.slice_s)
        name = f"{streams:,} streams of {PACE} words/s"
        lines += [
            Line(f"{name}: of the pace", "%", 100 * found.kept, must, goal, more=True),
            found.late.line(f"{name}: lateness of a word p99", 0.99, late_must, late_goal),
        ]
        if streams == 500 or bench.quick:
            lines += [
                Line(f"{name}: CPU per word", "us", found.cpu_us, *((120, 85) if streams == 500 else ())),
                Line(f"{name}: memory of an open one, front end + worker", "KiB", found.stream_kib, must=65, goal=35),
            ]
    return lines


async def background(bench: Bench) -> Sequence[Line]:
    body = request("tokens=1", background=True)
    last: dict[str, str] = {}

    async def once(client: Client, side: str) -> float:
        answer = await client.call("POST", "/responses", body)
        last[side] = msgspec.json.decode(answer)["id"]
        return (time.monotonic_ns() - client.sent) / 1e6

    async def drained(side: str) -> None:
        """The last one has ended, so nothing of this slice runs into the next."""
        await ended(bench, side, last[side])

    rate, latency = await in_slices(bench, 16, once, rate=Row("/s"), latency=Row("ms"), after=drained)
    rate.cpu += " incl. its run" if rate.cpu else ""
    return [
        rate.line("background, 16 callers: creates", 0.5, must=2000, goal=4500),
        latency.line("background, 16 callers: create p99", 0.99, must=25),
    ]


async def ended(bench: Bench, side: str, response_id: str) -> None:
    client, status = bench.client(side), ""
    async with asyncio.timeout(DRAIN_S):
        while status != "completed":
            await asyncio.sleep(0.02)
            status = msgspec.json.decode(await client.call("GET", f"/responses/{response_id}"))["status"]
    client.close()


async def polls(bench: Bench) -> Sequence[Line]:
    made: dict[str, str] = {}
    for side in SIDES:
        answer = await bench.client(side).call("POST", "/responses", request("tokens=16"))
        made[side] = msgspec.json.decode(answer)["id"]

    async def once(client: Client, side: str) -> float:
        await client.call("GET", f"/responses/{made[side]}")
        return (time.monotonic_ns() - client.sent) / 1e6

    (rate,) = await in_slices(bench, 16, once, rate=Row("/s"))
    return [rate.line("poll, 16 callers: requests", 0.5, must=5000, goal=15_000)]


async def subscribers(bench: Bench) -> Sequence[Line]:
    """Many readers of one stored stream, while it runs."""
    readers, words = 50, max(PACE, round(4 * bench.slice_s * PACE))
    row, lost, meter = Row("ms"), 0, Meter(bench)

    async def follow(side: str, response_id: str) -> None:
        nonlocal lost
        client, reader = bench.client(side), Reader()
        await client.call("GET", f"/responses/{response_id}?stream=true", None, reader)
        client.close()
        lost += (words - len(reader.words)) * (side == "ours")
        bench.check(reader.is_whole(words), f"{side}: a subscriber's stream is not whole")
        late = [(at - int(text[1:])) / 1e6 for text, at in zip(reader.words, reader.arrivals, strict=True)]
        row.samples[side] += late[words // 4 :]  # what was there before it came is late by design

    for side in turns(meter, 1):
        client, first = bench.client(side), Reader()
        body = request(f"tokens={words}-delay_ms={1000 / PACE:g}-stamp=1", stream=True, background=True)
        making = asyncio.create_task(client.call("POST", "/responses", body, first))
        await first.began.wait()
        await asyncio.gather(making, *(follow(side, first.response_id) for _ in range(readers)))
        client.close()
    meter.fill(row, "word and reader", readers * words)
    late = row.line(f"{readers} subscribers of one stream: lateness of a word p99", 0.99, must=12, goal=5)
    return [Line(f"{readers} subscribers of one stream: lost words", "", lost, must=0, goal=0), late]


async def resume(bench: Bench) -> Sequence[Line]:
    """The rest of a stored stream, from somewhere in its middle."""
    words, after = 100, 53  # four events come before the first word, so the rest begins with w50
    made: dict[str, str] = {}
    for side in SIDES:
        reader = Reader()
        await bench.client(side).call("POST", "/responses", request(f"tokens={words}", stream=True), reader)
        made[side] = reader.response_id

    async def once(client: Client, side: str) -> float:
        reader = Reader()
        await client.call("GET", f"/responses/{made[side]}?stream=true&starting_after={after}", None, reader)
        bench.check(reader.is_whole(50, first=50), f"{side}: a resumed stream is not whole")
        return (reader.first_event - client.sent) / 1e6

    row = await one_by_one(bench, once, row=Row("ms"))
    return [row.over("resume in mid-stream, 1 caller: to first event, over direct, p50", 0.5, must=2, goal=0)]
