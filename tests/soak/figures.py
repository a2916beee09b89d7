"""./dev soak --figure NAME: one row of the table in docs/faults.md, measured. Every response is judged by the checker, too."""

import asyncio
import itertools
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from soak.bench import Row, bench, opened
from soak.crowds import many_readers, reconnects
from support.cluster import Process
from support.contract import TERMINAL
from support.faults import create, ended
from support.history import histories
from support.schemas import Json

KILLS, ROUNDS = 50, 10
STREAMS = 100
CUTS = 1000
RACES = 1000
FLOOD, TURNS = 400, 20
STALLED = 500
DEPLOYS = 5
LONG_S = 240.0


async def dead_worker() -> Row:
    """A worker is killed in mid-stream: seconds until its client has `response.failed`."""
    each, chance, took = KILLS // ROUNDS, random.Random(1), list[float]()
    async with bench(workers=0, RESPOOL_WORKER_SLOTS="1") as it:
        raw = it.client()
        for turn in range(ROUNDS):
            victims = [await it.cluster.start_worker() for _ in range(each)]
            streams = [await opened(raw, f"r{turn}s{number} words=1 hold") for number in range(each)]
            for number, stream in enumerate(streams):
                await it.upstream.arrived(f"r{turn}s{number}")
                while (event := await stream.get()) and event["type"] != "response.output_text.delta":
                    pass
            await it.cluster.start_worker()

            async def noticed(stream: "asyncio.Queue[Json | None]", owner: Process) -> float:
                await asyncio.sleep(chance.uniform(0, 1.5))
                killed_at = time.monotonic()
                await owner.kill()
                while (event := await stream.get()) and event["type"] != "response.failed":
                    pass
                assert event is not None
                return time.monotonic() - killed_at

            owners = {line["process"]: victim for victim in victims for line in victim.find("process.started")}
            pairs = []
            for stream, (_, history) in zip(
                streams, list(histories(it.recorder.exchanges).items())[-each:], strict=True
            ):
                owner = (await it.cluster.redis.hget(f"rs:{{00}}:r:{history.response_id}", "owner")).decode()
                pairs.append(noticed(stream, owners[owner]))
            took += await asyncio.gather(*pairs)
            for worker in it.cluster.workers:
                if worker.child.returncode is None:
                    await worker.terminate()
        await it.cluster.start_worker()
        found = await it.verdict()
    return f"{len(took)} kills: p50 {statistics.median(took):.1f} s, max {max(took):.1f} s", found


async def redis_restart() -> Row:
    """Redis is killed and started again under running streams."""
    async with bench(front_ends=2, workers=2) as it:
        clients = [it.client(0), it.client(1)]
        streams = [await opened(clients[n % 2], f"s{n} words=200 delay_ms=50") for n in range(STREAMS)]
        for stream in streams:
            for _ in range(20):
                await stream.get()
        await it.cluster.kill_valkey()
        await it.cluster.start_valkey()
        back_at = time.monotonic()
        waited = []
        for stream in streams:
            while not stream.empty():
                stream.get_nowait()

        async def flows(stream: "asyncio.Queue[Json | None]") -> bool:
            await stream.get()
            waited.append(time.monotonic() - back_at)
            last = None
            while event := await stream.get():
                last = event
            return last is not None and last["type"] == "response.completed"

        whole = await asyncio.gather(*map(flows, streams))
        found = await it.verdict()
    lost = whole.count(False)
    return (
        f"{STREAMS} streams: {lost} lost, flow again after p50 {statistics.median(waited):.2f} s, max {max(waited):.2f} s",
        found,
    )


async def resume_cuts() -> Row:
    """Readers hang up at random points and resume on the other front end."""
    cuts, chance = 0, random.Random(2)
    async with bench(front_ends=2, workers=2) as it:
        clients = [it.client(0), it.client(1)]

        async def follow(number: int) -> None:
            nonlocal cuts
            body = {"model": "tiny", "input": f"s{number} words=400 delay_ms=15", "stream": True, "background": True}
            response_id, last, over, side = "", -1, False, number
            while not over:
                side += 1
                path = f"/v1/responses/{response_id}?stream=true&starting_after={last}"
                call = ("GET", path, {}) if response_id else ("POST", "/v1/responses", {"json": body})
                left = chance.randint(1, 16)
                async with clients[side % 2].stream(call[0], call[1], **call[2]) as stream:
                    async for event in stream.events():
                        response_id = response_id or event["response"]["id"]
                        last, left = event["sequence_number"], left - 1
                        over = event.get("response", {}).get("status") in TERMINAL
                        if left <= 0 and not over:
                            cuts += 1
                            break

        await asyncio.gather(*(follow(number) for number in range(CUTS // 40)))
        found = await it.verdict()
    kinds = Counter(violation.promise for violation in found)
    return f"{cuts} cuts: {kinds['numbers']} gaps or duplicates, {kinds['bytes']} differing bytes", found


async def cancel_races() -> Row:
    """A cancel about when the response ends by itself."""
    chance, words = random.Random(3), Counter[str]()
    async with bench(front_ends=2, workers=2) as it:
        clients, slots = [it.client(0), it.client(1)], asyncio.Semaphore(20)

        async def race(number: int) -> None:
            async with slots:
                response_id = (await create(clients[0], f"s{number} words=4 delay_ms=15", stream=False))["id"]
                call = await it.upstream.arrived(f"s{number}")
                await asyncio.sleep(max(0.0, call.at + chance.uniform(0.04, 0.09) - time.monotonic()))
                await clients[1].post(f"/v1/responses/{response_id}/cancel")
                words[(await ended(clients[0], response_id))["status"]] += 1
                await ended(clients[1], response_id)

        await asyncio.gather(*(race(number) for number in range(RACES)))
        found = await it.verdict()
    kinds = Counter(violation.promise for violation in found)
    flips = kinds["flipped"] + kinds["uncancelled"]
    return (
        f"{words.total()} races: {words['cancelled']} cancelled, {words['completed']} completed, {flips} flips",
        found,
    )


async def claim_races() -> Row:
    """A cancel right behind the create call, while a worker may be taking the response."""
    chance, words = random.Random(4), Counter[str]()
    async with bench(front_ends=2, workers=2) as it:
        clients, slots = [it.client(0), it.client(1)], asyncio.Semaphore(20)

        async def race(number: int) -> None:
            async with slots:
                response_id = (await create(clients[0], f"s{number} words=3 hold", stream=False))["id"]
                await asyncio.sleep(chance.uniform(0, 0.01))
                answer = await clients[1].post(f"/v1/responses/{response_id}/cancel")
                words[answer.json()["status"]] += 1
                await ended(clients[0], response_id)

        await asyncio.gather(*(race(number) for number in range(RACES)))
        found = await it.verdict()
    taken = len({call.last_user_text for call in it.upstream.calls})
    return (
        f"{words.total()} races: {words['cancelled']} cancelled, {taken} of them when they had reached the backend",
        found,
    )


async def flood() -> Row:
    """One tenant has much waiting: how long another one, which asks for one after the other, waits for each answer."""
    env = {"RESPOOL_WORKER_SLOTS": "4", "RESPOOL_TRUSTED_PROXIES": "127.0.0.0/8"}
    async with bench(workers=2, **env) as it:
        flooding, other = it.client(**{"X-Tenant-Id": "flood"}), it.client(**{"X-Tenant-Id": "other"})
        made = await asyncio.gather(
            *(create(flooding, f"f{number} words=10 delay_ms=20", stream=False) for number in range(FLOOD))
        )
        began, took = time.monotonic(), list[float]()
        for number in range(TURNS):
            asked = time.monotonic()
            await ended(other, (await create(other, f"o{number} words=10 delay_ms=20", stream=False))["id"], LONG_S)
            took.append(time.monotonic() - asked)
        for response in made:
            await ended(flooding, response["id"], LONG_S)
        all_s = time.monotonic() - began
        found = await it.verdict()
    waits = f"p50 {statistics.median(took):.1f} s, max {max(took):.1f} s"
    return f"{FLOOD} of one tenant took {all_s:.0f} s; {TURNS} of another, one after the other: {waits}", found


async def stalled_readers() -> Row:
    """Readers that take nothing, of 20 responses with 4 MB each: memory of the front end until they are cut."""
    async with bench(workers=2) as it:
        raw, (front_end,) = it.client(), it.cluster.front_ends
        host, port = front_end.origin.removeprefix("http://").split(":")
        streams = [await opened(raw, f"s{n} words=200 size=20000 delay_ms=50") for n in range(20)]
        ids = [event["response"]["id"] for stream in streams if (event := await stream.get())]
        before = peak = _memory_mib(front_end)
        writers = []
        for number in range(STALLED):
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.transport.pause_reading()
            writer.write(f"GET /v1/responses/{ids[number % 20]}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            writers.append((reader, writer))
        going = [asyncio.create_task(_drained(stream)) for stream in streams]
        while not all(task.done() for task in going):
            peak = max(peak, _memory_mib(front_end))
            await asyncio.sleep(0.05)
        await front_end.logged("request.served", method="GET", status=499, count=STALLED, timeout_s=LONG_S)
        after = _memory_mib(front_end)
        for _, writer in writers:
            writer.transport.abort()
        found = await it.verdict()
    return (
        f"{STALLED} stalled readers: {before:.0f} MiB before, at most {peak:.0f} MiB, {after:.0f} MiB when they were cut",
        found,
    )


async def _drained(stream: "asyncio.Queue[Json | None]") -> None:
    while await stream.get():
        pass


def _memory_mib(process: Process) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def deploys() -> Row:
    """All workers replaced again and again under streams of 5 to 60 s, with a long and with a short drain."""
    rows = [await _deployed(drain_s) for drain_s in (90, 5)]
    return f"{DEPLOYS} deploys each, " + "; ".join(text for text, _ in rows), [
        violation for _, found in rows for violation in found
    ]


async def _deployed(drain_s: float) -> Row:
    chance, ends, late, told_at = random.Random(4), Counter[str](), list[float](), 0.0
    async with bench(front_ends=2, workers=2, RESPOOL_DRAIN_S=f"{drain_s:g}") as it:
        clients, streams = [it.client(0), it.client(1)], list[asyncio.Task[None]]()

        async def follow(number: int) -> None:
            words = int(chance.uniform(5, 60) / 0.05)
            stream = await opened(clients[number % 2], f"s{number} words={words} delay_ms=50")
            last: Json = {}
            while event := await stream.get():
                last = event
            ends[last["response"]["status"]] += 1
            if last["response"]["status"] == "failed":
                assert "was shut down" in last["response"]["error"]["message"], last
                assert last["sequence_number"] > 2, "it was not shown"
                late.append(time.monotonic() - told_at)

        async def load() -> None:
            for number in itertools.count():
                streams.append(asyncio.create_task(follow(number)))
                await asyncio.sleep(1)

        loading = asyncio.create_task(load())
        for _ in range(DEPLOYS):
            await asyncio.sleep(10)
            old = [each for each in it.cluster.workers if each.child.returncode is None]
            await asyncio.gather(it.cluster.start_worker(), it.cluster.start_worker())
            told_at = time.monotonic()
            for worker in old:
                worker.send(signal.SIGTERM)
            codes = await asyncio.gather(*(worker.ended(LONG_S) for worker in old))
            assert codes == [0] * len(old), codes
        loading.cancel()
        await asyncio.gather(*streams)
        found = await it.verdict()
    told = f", all shown, {min(late):.1f} to {max(late):.1f} s behind the signal" if late else ""
    return f"drain {drain_s:g} s: {ends.total()} streams, {ends['failed']} failed{told}", found


FIGURES: Mapping[str, Callable[[], Awaitable[Row]]] = {
    "dead-worker": dead_worker,
    "redis-restart": redis_restart,
    "resume-cuts": resume_cuts,
    "cancel-races": cancel_races,
    "claim-races": claim_races,
    "flood": flood,
    "stalled-readers": stalled_readers,
    "deploys": deploys,
    "many-readers": many_readers,
    "reconnects": reconnects,
}


async def figure(name: str) -> int:
    """Print the row; the exit code says whether the checker was content."""
    started = time.monotonic()
    text, found = await FIGURES[name]()
    print(
        f"| `./dev soak --figure {name}` | {text} | {len(found)} violations | {time.monotonic() - started:.0f} s |",
        flush=True,
    )
    for violation in found[:20]:
        print(violation)
    return 1 if found else 0
