"""What must not grow: the cost of a word, a poll, a create or a turn when there is much else; and what is kept of a response.

Costs are our CPU time, which a noisy machine disturbs less than the clock, as a ratio to the smallest case.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from math import inf
from statistics import median

import msgspec
from client import Client
from lines import Line
from redis.asyncio import Redis
from scenarios import IN_A_ROW, Bench, Meter, Reader, callers, ended, request, slow_streams
from stack import Stack

FLAT = 1.3
COPY = """
-- The keys of one stored response again under other ids. KEYS: its record and block. ARGV: id, first number, count
local dumped = {redis.call('DUMP', KEYS[1]), redis.call('DUMP', KEYS[2])}
for number = ARGV[2], ARGV[2] + ARGV[3] - 1 do
  local id = string.sub(ARGV[1], 1, -9) .. string.format('%08d', number)
  for i, key in ipairs(KEYS) do
    redis.call('RESTORE', string.gsub(key, ARGV[1], id), 86400000, dumped[i], 'REPLACE')
  end
end
"""


async def stored_bytes(bench: Bench) -> Sequence[Line]:
    """Redis memory of streamed responses of 1,000 words, after packing."""
    count, names = 5, []
    client = bench.client("ours")
    async with Redis.from_url(bench.stack.redis_url, decode_responses=True) as redis:
        for _ in range(count):
            reader = Reader()
            await client.call("POST", "/responses", request("tokens=1000-prose=1", stream=True), reader)
            names.append(reader.response_id)
        before = [await _weight(redis, name) for name in names]
        await redis.zadd("rs:{00}:pack", dict.fromkeys(names, 0))
        async with asyncio.timeout(30):
            while await redis.exists(*(f"rs:{{00}}:e:{name}" for name in names)):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.05)  # between two looks
        after = [await _weight(redis, name) for name in names]
    client.close()
    return [
        Line(
            "Redis memory of a streamed response of 1,000 words, packed",
            "KiB",
            sum(after) / count / 1024,
            must=9,
            goal=6,
        ),
        Line("Redis memory of the same in its first minute", "KiB", sum(before) / count / 1024),
    ]


async def _weight(redis: Redis, response_id: str) -> int:
    keys = [f"rs:{{00}}:{kind}:{response_id}" for kind in "rbe"]
    return sum([await redis.memory_usage(key, samples=0) or 0 for key in keys])


async def words_flat(bench: Bench) -> Sequence[Line]:
    """CPU per word with 1, 100 and 1,000 open streams."""
    counts = (1, 20, 40) if bench.quick else (1, 100, 1000)
    costs = [(await slow_streams(bench, count, 4 * bench.slice_s, ["ours"])).cpu_us for count in counts]
    return [_flat(f"CPU per word with {counts[1]:,} and {counts[2]:,} open streams, to that with 1", costs)]


def _flat(name: str, costs: Sequence[float]) -> Line:
    return Line(name, "x", max(costs[1:]) / costs[0], must=FLAT)


async def stored_flat(bench: Bench) -> Sequence[Line]:
    """CPU per poll and per create with 100 and with 100,000 stored responses."""
    client = bench.client("ours")
    made = msgspec.json.decode(await client.call("POST", "/responses", request("tokens=16")))["id"]
    client.close()
    costs: dict[str, list[float]] = {"poll": [], "create": []}
    async with Redis.from_url(bench.stack.redis_url) as redis:
        total, most = 0, 2000 if bench.quick else 100_000
        for stored in (100, most):
            while total < stored:
                some = min(1000, stored - total)
                keys = f"rs:{{00}}:r:{made}", f"rs:{{00}}:b:{made}"
                await redis.eval(COPY, 2, *keys, made, total, some)
                total += some
            await asyncio.sleep(0.5)  # the append-only file is written behind our back
            costs["poll"].append(await _cpu(bench, _polling(made)))
            costs["create"].append(await _cpu(bench, _creating("tokens=1", background=False)))
    return [
        _flat(f"CPU per {name} with {most:,} stored responses, to that with 100", each) for name, each in costs.items()
    ]


Once = Callable[[Client, str], Awaitable[float]]


def _polling(response_id: str) -> Once:
    async def once(client: Client, _: str) -> float:
        await client.call("GET", f"/responses/{response_id}")
        return 0.0

    return once


def _creating(phrase: str, **more: object) -> Once:
    async def once(client: Client, _: str) -> float:
        await client.call("POST", "/responses", request(phrase, **more))
        return 0.0

    return once


async def _cpu(bench: Bench, once: Once, slices: int = 3, most: float = inf) -> float:
    """Our CPU milliseconds per call, 16 callers; the best of some slices, of *most* calls each."""
    costs = []
    for _ in range(slices):
        meter = Meter(bench)
        count = len(await callers(bench, "ours", 16, once, most))
        costs.append(meter.cpu_s() * 1000 / max(1, count))
    return min(costs)


async def chains_flat(bench: Bench) -> Sequence[Line]:
    """CPU of a turn behind 1, 50 and 500 others, per turn of context that it has more than the one before. They take turns, the
    short ones more often, as what is wanted is the ratio of small differences."""
    client, lengths = bench.client("ours"), (1, 50, 100 if bench.quick else 500)

    async def turn(newest: str) -> str:
        more = {"previous_response_id": newest} if newest else {}
        return str(msgspec.json.decode(await client.call("POST", "/responses", request("tokens=64", **more)))["id"])

    newest, ends = "", []
    for number in range(1, lengths[-1] + 1):
        newest = await turn(newest)
        if number in lengths:
            ends.append(newest)
    rounds: list[list[float]] = [[] for _ in ends]
    for _ in range(4 if bench.quick else 30):
        for costs, end, count in zip(rounds, ends, (5 * IN_A_ROW, 5 * IN_A_ROW, IN_A_ROW), strict=True):
            meter = Meter(bench)
            for _ in range(count):
                await turn(end)
            costs.append(meter.cpu_s() * 1000 / count)
    client.close()
    each = [
        (cost - before) / (length - shorter)
        for (before, cost), (shorter, length) in zip(pairwise(map(median, rounds)), pairwise(lengths), strict=True)
    ]
    polls = [await _cpu(bench, _polling(end)) for end in ends]
    name = f"CPU of a turn per turn before it, from 50 to {lengths[2]}, to that from 1 to 50"
    return [
        Line(name, "x", each[1] / each[0], must=FLAT),
        _flat(f"CPU per poll of the last of 50 and of {lengths[2]} turns, to that of the first", polls),
    ]


async def queue_flat(bench: Bench) -> Sequence[Line]:
    """CPU per create with a short queue, and behind 10,000 that wait; the worker is stopped meanwhile."""
    few, waiting = (20, 200) if bench.quick else (250, 10_000)
    last = ""

    async def once(client: Client, _: str) -> float:
        nonlocal last
        last = msgspec.json.decode(await client.call("POST", "/responses", request("tokens=1", background=True)))["id"]
        return 0.0

    async with Redis.from_url(bench.stack.redis_url) as redis:
        os.kill(bench.stack.pid("worker"), signal.SIGSTOP)
        try:
            first = await _cpu(bench, once, slices=8, most=few)
            async with asyncio.timeout(60):
                while (missing := waiting - await redis.zcard("arq:queue:{00}:background")) > 0:
                    await callers(bench, "ours", 16, once, missing)
            behind = await _cpu(bench, once, slices=8, most=few)
        finally:
            os.kill(bench.stack.pid("worker"), signal.SIGCONT)
        began, count = time.monotonic(), await redis.zcard("arq:queue:{00}:background")
        await ended(bench, "ours", last)
        rate = count / (time.monotonic() - began)
    return [
        _flat(f"CPU per background create with {waiting:,} waiting, to that with few", [first, behind]),
        Line(f"a queue of {waiting:,} is worked off: responses", "/s", rate),
    ]


async def rooms_flat(bench: Bench) -> Sequence[Line]:
    """Two front ends and two workers on this machine, to one of each: requests/s, 16 callers, in turns."""
    once = _creating("tokens=16")
    async with Stack(2) as stack:
        two = Bench(stack, bench.rounds, bench.slice_s)
        rates: list[list[float]] = [[], []]
        for number in range(2 * max(2, bench.slices // 2)):
            which = number % 2
            began = time.monotonic()
            count = len(await callers((bench, two)[which], "ours", 16, once))
            rates[which].append(count / (time.monotonic() - began))
    share = max(rates[1]) / max(rates[0])
    return [Line("two front ends and two workers: requests/s, to one of each", "x", share, must=0.9, more=True)]
