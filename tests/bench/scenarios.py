"""What is measured: each scenario gives rows with what the upstream answers directly beside what it answers through us.

Both sides take turns, request by request or slice by slice, so that a noisy machine is equally noisy for both.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from client import Client, Event, HttpError
from stack import Stack

SIDES = ("direct", "ours")
WARM_UP = 3
DRAIN_S = 60

Samples = dict[str, list[float]]


@dataclass
class Row:
    """One line of the table. Samples are ``ms``, or ``/s`` (then more is better)."""

    name: str
    unit: str
    samples: Samples
    cpu: str = ""
    cpu_ms: float | None = None
    memory_bytes: int = 0

    def percentile(self, side: str, share: float) -> float:
        """The value that *share* of the samples are at least as good as."""
        ordered = sorted(self.samples[side], reverse=self.unit == "/s")
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Reader:
    """Follows one stream: its words, when they came, and whether it is whole."""

    def __init__(self) -> None:
        self.last = -1
        self.gaps = 0
        self.words: list[str] = []
        self.arrivals: list[int] = []
        self.first_event = 0
        self.response_id = ""
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


def turns(meter: Meter, count: int) -> Iterator[str]:
    """The sides in turn, *count* times each, and each as often first as second."""
    for number in range(count):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            began = time.monotonic()
            yield side
            if side == "direct":
                meter.other_s += time.monotonic() - began


async def one_by_one(
    bench: Bench, once: Callable[[Client, str], Awaitable[float]], *, row: Row, cpu: tuple[str, int] = ("request", 1)
) -> Row:
    """One caller: *once* on one side, then on the other, ``bench.rounds`` times."""
    clients = {side: bench.client(side) for side in SIDES}
    for side in SIDES * WARM_UP:
        await once(clients[side], side)
    meter = Meter(bench)
    for side in turns(meter, bench.rounds):
        row.samples[side].append(await once(clients[side], side))
    for client in clients.values():
        client.close()
    return meter.fill(row, cpu[0], cpu[1] * bench.rounds)


async def callers(bench: Bench, side: str, count: int, once: Callable[[Client, str], Awaitable[float]]) -> list[float]:
    """*count* callers for one slice, each again and again. What *once* returned, in any order."""
    found: list[float] = []

    async def caller() -> None:
        client = bench.client(side)
        while time.monotonic() < end:
            try:
                found.append(await once(client, side))
            except (HttpError, OSError, TimeoutError) as error:
                bench.check(False, f"{side}: {type(error).__name__} {error}")
                await asyncio.sleep(0.01)
        client.close()

    end = time.monotonic() + bench.slice_s
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


def empty() -> Samples:
    return {side: [] for side in SIDES}


async def first_delta(bench: Bench) -> Sequence[Row]:
    body = request("tokens=4-delay_ms=4", stream=True)

    async def once(client: Client, side: str) -> float:
        reader = Reader()
        await client.call("POST", "/responses", body, reader)
        bench.check(reader.is_whole(4), f"{side}: a stream is not whole")
        return (reader.arrivals[0] - client.sent) / 1e6

    alone = await one_by_one(bench, once, row=Row("stream, 1 caller: create to first text delta", "ms", empty()))
    row = Row("stream, 32 callers: create to first text delta", "ms", empty())
    body = request("tokens=16-delay_ms=20", stream=True)

    async def staggered(client: Client, side: str) -> float:
        if client.connection is None:
            await asyncio.sleep(random.uniform(0, 0.3))
        reader = Reader()
        await client.call("POST", "/responses", body, reader)
        bench.check(reader.is_whole(16), f"{side}: a stream is not whole")
        return (reader.arrivals[0] - client.sent) / 1e6

    rate = Row("", "/s", empty())
    await in_slices(bench, 32, staggered, rate=rate, latency=row)
    row.cpu, row.cpu_ms, row.memory_bytes = rate.cpu, rate.cpu_ms, rate.memory_bytes
    return [alone, row]


async def round_trip(bench: Bench) -> Sequence[Row]:
    body = request("tokens=16")

    async def once(client: Client, _: str) -> float:
        await client.call("POST", "/responses", body)
        return (time.monotonic_ns() - client.sent) / 1e6

    alone = await one_by_one(bench, once, row=Row("no stream, 1 caller: round trip", "ms", empty()))
    rate = Row("no stream, 16 callers: requests", "/s", empty())
    latency = Row("no stream, 16 callers: round trip", "ms", empty())
    return [alone, *await in_slices(bench, 16, once, rate=rate, latency=latency)]


async def fast_stream(bench: Bench) -> Sequence[Row]:
    words = 1000
    body = request(f"tokens={words}", stream=True)

    async def once(client: Client, side: str) -> float:
        reader = Reader()
        await client.call("POST", "/responses", body, reader)
        bench.check(reader.is_whole(words), f"{side}: a stream is not whole")
        return words / (reader.arrivals[-1] - client.sent) * 1e9

    row = Row(f"one fast stream of {words:,} words: words", "/s", empty())
    return [await one_by_one(bench, once, row=row, cpu=("word", words))]


async def slow_streams(bench: Bench) -> Sequence[Row]:
    """How late words are that the upstream sends at a steady pace: it writes its clock into each of them."""
    streams, pace = 200, 20
    words = max(pace, round(4 * bench.slice_s * pace))
    body = request(f"tokens={words}-delay_ms={1000 / pace:g}-stamp=1", stream=True)
    row = Row(f"{streams} streams of {pace} words/s: lateness of a word", "ms", empty())
    meter = Meter(bench)

    async def one(side: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        client, reader = bench.client(side), Reader()
        await client.call("POST", "/responses", body, reader)
        client.close()
        bench.check(reader.is_whole(words), f"{side}: a stream is not whole")
        row.samples[side] += [
            (at - int(word[1:])) / 1e6 for word, at in zip(reader.words, reader.arrivals, strict=True)
        ]

    for side in turns(meter, 1):
        await asyncio.gather(*(one(side, bench.slice_s * number / streams) for number in range(streams)))
    return [meter.fill(row, "word", streams * words)]


async def background(bench: Bench) -> Sequence[Row]:
    body = request("tokens=1", background=True)
    last: dict[str, str] = {}

    async def once(client: Client, side: str) -> float:
        answer = await client.call("POST", "/responses", body)
        last[side] = msgspec.json.decode(answer)["id"]
        return (time.monotonic_ns() - client.sent) / 1e6

    async def drained(side: str) -> None:
        """The last one has ended, so nothing of this slice runs into the next."""
        client, status = bench.client(side), ""
        async with asyncio.timeout(DRAIN_S):
            while status != "completed":
                await asyncio.sleep(0.02)
                status = msgspec.json.decode(await client.call("GET", f"/responses/{last[side]}"))["status"]
        client.close()

    rate = Row("background, 16 callers: creates", "/s", empty())
    rows = await in_slices(bench, 16, once, rate=rate, after=drained)
    rate.cpu += " incl. its run" if rate.cpu else ""
    return rows


async def polls(bench: Bench) -> Sequence[Row]:
    made: dict[str, str] = {}
    for side in SIDES:
        answer = await bench.client(side).call("POST", "/responses", request("tokens=16"))
        made[side] = msgspec.json.decode(answer)["id"]

    async def once(client: Client, side: str) -> float:
        await client.call("GET", f"/responses/{made[side]}")
        return (time.monotonic_ns() - client.sent) / 1e6

    return await in_slices(bench, 16, once, rate=Row("poll, 16 callers: requests", "/s", empty()))


async def resume(bench: Bench) -> Sequence[Row]:
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

    return [await one_by_one(bench, once, row=Row("resume in mid-stream, 1 caller: to first event", "ms", empty()))]


SCENARIOS = (first_delta, round_trip, fast_stream, slow_streams, background, polls, resume)
