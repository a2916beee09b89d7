"""Clients that are slow, many, or late: each gets what it is owed, and nobody else pays for it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import aiohttp

from fakes.upstream import full_text
from support.clients import RawClient
from support.cluster import Cluster, FrontEnd, chat_model, running
from support.faults import (
    BROKEN,
    PREFIX,
    NamedUpstream,
    ended,
    numbers_of,
    read_until,
    resume,
    streaming,
    text_of,
    then,
    words,
)
from support.sse import parse_sse

RawMaker = Callable[[str], RawClient]
MIB = 1 << 20
BIG = "words=600 size=10000"  # 6 MB, and five times that as events
LIMIT_S = 40.0


class SlowReader:
    """A client that asks, and then takes nothing until it is told to."""

    def __init__(self, front_end: FrontEnd) -> None:
        host, port = front_end.origin.removeprefix("http://").split(":")
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.setblocking(False)  # its only parameter
        self._address = host, int(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    async def ask(self, method: str, path: str, body: bytes = b"", *, declared: int | None = None) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, self._address)
        length = len(body) if declared is None else declared
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: {length}\r\n\r\n"
        await loop.sock_sendall(self._sock, head.encode() + body)

    async def read_on(self, last: bytes = b"no end but the connection's") -> bytes:
        """Everything that still comes: behind *last*, to the end, or to where the connection breaks."""
        got = bytearray()
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionError):
                while piece := await asyncio.get_running_loop().sock_recv(self._sock, 65536):
                    got += piece
                    if got.endswith(last):
                        break
        return bytes(got)


def memory_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


async def until(look: Callable[[], Awaitable[Any]], done: Callable[[Any], bool]) -> Any:
    """What *look* finds, as soon as it is *done*: for what gives no signal (expiry, the kernel's table of connections)."""
    async with asyncio.timeout(LIMIT_S):
        while not done(found := await look()):  # noqa: ASYNC110  # there is no signal to wait for
            await asyncio.sleep(0.05)  # there is no signal
        return found


async def begun(raw: RawClient, text: str) -> str:
    """The id of a background response with a log."""
    async with streaming(raw, text, background=True) as stream:
        (created,) = await read_until(stream, "response.created")
    return str(created["response"]["id"])


async def cut_off(front_end: FrontEnd, path: str) -> None:
    """The front end has given up on a client of *path*."""
    await front_end.logged("request.served", timeout_s=LIMIT_S, path=path, status=499)


async def test_a_reader_that_takes_nothing(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """It costs a bounded amount of memory, is cut in the end, disturbs nobody, and resumes exactly where it was."""
    env = {"RESPOOL_SSE_WRITE_TIMEOUT_S": "4"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster, contextlib.AsyncExitStack() as stack:
        front_end = cluster.front_ends[0]
        raw = raw_client(front_end.origin)
        response_id = await begun(raw, f"big {BIG}")
        path = f"/v1/responses/{response_id}"
        await ended(raw, response_id, LIMIT_S)
        entries = await cluster.redis.xrange(f"{PREFIX}e:{response_id}")
        assert (
            max(len(fields[b"d"]) for _, fields in entries) < 16 * MIB
        )  # no more than an event that repeats it all, twice
        before = memory_bytes(front_end.pid)
        slow = [stack.enter_context(SlowReader(front_end)) for _ in range(10)]
        for each in slow:
            await each.ask("GET", f"{path}?stream=true")
        async with streaming(raw, "other words=50 delay_ms=10") as stream:
            other = [event async for event in stream.events()]
        assert text_of(other[-1]["response"]) == "".join(f"word{place} " for place in range(50))
        await front_end.logged("request.served", timeout_s=LIMIT_S, count=len(slow), path=path, status=499)
        assert memory_bytes(front_end.pid) - before < 100 * MIB  # they asked for 250 MB or so
        got = (await slow[0].read_on()).partition(b"\r\n\r\n")[2]
        assert b"[DONE]" not in got
        seen = [int(part.split(b",", 1)[0]) for part in got.split(b'"sequence_number":')[1:-1]]
        rest = await resume(raw, response_id, seen[-1])
        assert numbers_of(rest) == list(range(seen[-1] + 1, rest[-1]["sequence_number"] + 1))
        assert rest[-1]["type"] == "response.completed"


async def test_a_reader_that_falls_behind(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """More comes than is kept for it while it takes nothing: it goes on from the log, and nothing is missing."""
    asked = "x words=600 size=20000 delay_ms=4"
    front_end = cluster.front_ends[0]
    response_id = await begun(raw, asked)
    with SlowReader(front_end) as slow:
        await slow.ask("GET", f"/v1/responses/{response_id}?stream=true")
        await front_end.logged("hub.overflowed", response_id=response_id, timeout_s=LIMIT_S)
        whole = parse_sse(unchunked((await slow.read_on(b"0\r\n\r\n")).partition(b"\r\n\r\n")[2]))
    assert whole.violations == []
    assert numbers_of(whole.events) == list(range(len(whole.events)))
    assert text_of(whole.events[-1]["response"]) == full_text(asked)


def unchunked(body: bytes) -> bytes:
    """What was sent in HTTP's chunks."""
    pieces, at = [], 0
    while size := int(body[at : (start := body.index(b"\r\n", at))], 16):
        pieces.append(body[start + 2 : start + 2 + size])
        at = start + 4 + size
    return b"".join(pieces)


async def test_deleted_while_somebody_replays_it(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """That reader is cut without an end mark, so that it cannot take what it has for the whole."""
    response_id = await begun(raw, f"big {BIG}")
    await ended(raw, response_id, LIMIT_S)
    path = f"/v1/responses/{response_id}"
    with SlowReader(cluster.front_ends[0]) as slow:
        await slow.ask("GET", f"{path}?stream=true")
        await until(lambda: raw_connections(cluster), lambda count: count >= 2)
        assert (await raw.delete(path)).status == 200
        got = await slow.read_on()
    await cut_off(cluster.front_ends[0], path)
    assert b"response.created" in got
    assert b"[DONE]" not in got
    assert b"response.completed" not in got
    assert (await raw.get(path)).status == 404


async def test_expired_while_somebody_replays_it(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """As if it had been deleted."""
    async with running(env={"RESPOOL_RETENTION_S": "5"}, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response_id = await begun(raw, f"big {BIG}")
        await ended(raw, response_id, LIMIT_S)
        with SlowReader(cluster.front_ends[0]) as slow:
            await slow.ask("GET", f"/v1/responses/{response_id}?stream=true")
            await until(lambda: raw_connections(cluster), lambda count: count >= 2)
            await until(lambda: cluster.redis.keys(f"{PREFIX}*{response_id}*"), lambda left: not left)
            got = await slow.read_on()
        assert b"response.created" in got
        assert b"[DONE]" not in got
        assert b"response.completed" not in got


async def test_a_response_that_expires_is_gone_as_a_whole(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Polls and streams find it, and then a 404; nothing of it is left."""
    async with running(env={"RESPOOL_RETENTION_S": "2"}, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response_id = await begun(raw, "r words=3")
        path = f"/v1/responses/{response_id}"
        await ended(raw, response_id)
        assert numbers_of(await resume(raw, response_id, None))[0] == 0
        async with asyncio.timeout(LIMIT_S):
            while (answer := await raw.get(path)).status == 200:
                assert answer.json()["status"] == "completed"  # never half of it
        for where in (path, f"{path}?stream=true", f"{path}/input_items"):
            answer = await raw.get(where)
            assert answer.status == 404
            assert answer.json()["error"]["message"] == f"Response with id '{response_id}' not found."
        assert await until(lambda: cluster.redis.keys(f"{PREFIX}*{response_id}*"), lambda left: not left) == []


async def test_a_body_that_never_comes(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    async with running(env={"RESPOOL_BODY_TIMEOUT_S": "1"}, config=chat_model(upstream.base_url)) as cluster:
        with SlowReader(cluster.front_ends[0]) as slow:
            await slow.ask("POST", "/v1/responses", b'{"model": ', declared=1000)
            head, _, body = (await slow.read_on(b"}}")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        error = json.loads(body)["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"] == "The request body did not arrive within 1 s."
        assert upstream.calls == []


async def test_a_million_input_items_disturb_nobody(cluster: Cluster, raw: RawClient) -> None:
    """They are refused before they are decoded one by one; others are served meanwhile."""
    body = b'{"model":"tiny","input":[' + b",".join([b"1"] * 1_000_000) + b"]}"
    answer = await raw.post("/v1/responses", data=BytesIO(body))
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "array_above_max_length"
    assert answer.json()["error"]["param"] == "input"
    assert cluster.front_ends[0].find("request.failed") == []


async def test_beyond_the_end_of_a_running_stream_it_waits(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient
) -> None:
    gate = asyncio.Event()
    upstream.plan("held", [*words("one "), *then(gate, "two")])
    async with streaming(raw, "held", background=True) as stream:
        seen = await read_until(stream, "response.output_text.delta")
        last = seen[-1]["sequence_number"]
        async with raw.stream(
            "GET", f"/v1/responses/{seen[0]['response']['id']}?stream=true&starting_after={last + 2}"
        ) as far:
            gate.set()
            rest = [event async for event in far.events()]
    assert rest[0]["sequence_number"] == last + 3
    assert rest[-1]["type"] == "response.completed"


# many


@contextlib.asynccontextmanager
async def crowd() -> AsyncIterator[aiohttp.ClientSession]:
    """A client with as many connections as it likes, whose exchanges are not recorded."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    headers = {"Authorization": "Bearer k"}
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield session


async def read_all(session: aiohttp.ClientSession, url: str, begun: asyncio.Queue[None] | None = None) -> bytes:
    """The body, to its end or to where the connection breaks; *begun* gets a token when text has come."""
    got, told = bytearray(), begun is None
    with contextlib.suppress(*BROKEN):
        async with session.get(url) as reply:
            async for piece in reply.content.iter_any():
                got += piece
                if begun is not None and not told and b"output_text.delta" in got:
                    begun.put_nowait(None)
                    told = True
    return bytes(got)


async def test_a_thousand_readers_of_one_response(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """They share one subscription and one place on the record, and all of them read the same bytes."""
    gate = asyncio.Event()
    upstream.plan("held", [*words("one "), *then(gate, *[f"w{place} " for place in range(20)])])
    origin = cluster.front_ends[0].origin
    async with streaming(raw, "held", background=True) as stream, crowd() as session:
        first = await read_until(stream, "response.output_text.delta")
        response_id = first[0]["response"]["id"]
        url = f"{origin}/v1/responses/{response_id}"
        readers = [asyncio.create_task(read_all(session, f"{url}?stream=true")) for _ in range(500)]
        polls = [asyncio.create_task(read_all(session, f"{url}?wait=30")) for _ in range(500)]
        await until(lambda: raw_connections(cluster), lambda count: count >= 1001)
        assert len(await cluster.redis.pubsub_channels("rs:in:f-*")) == 1
        assert len((await cluster.redis.hget(f"{PREFIX}r:{response_id}", "inboxes")).split()) == 1
        gate.set()
        bodies = set(await asyncio.gather(*readers))
        answers = {json.loads(body)["status"] for body in await asyncio.gather(*polls)}
        rest = [event async for event in stream.events()]
    assert len(bodies) == 1
    whole = parse_sse(bodies.pop())
    assert whole.violations == []
    assert numbers_of(whole.events) == list(range(rest[-1]["sequence_number"] + 1))
    assert answers == {"completed"}


async def raw_connections(cluster: Cluster) -> int:
    """How many connections the front end has accepted and not closed."""
    port = f":{int(cluster.front_ends[0].origin.rpartition(':')[2]):04X}"
    lines = await asyncio.to_thread(Path("/proc/net/tcp").read_text)
    rows = [line.split() for line in lines.splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


async def test_everybody_reconnects_at_once(upstream: NamedUpstream, cluster: Cluster, raw_client: RawMaker) -> None:
    """A front end dies under 300 streams; all of them go on at another one at the same moment, from where they were."""
    gate = asyncio.Event()
    for number in range(10):
        upstream.plan(f"r{number}", [*words("one "), *then(gate, *[f"w{place} " for place in range(20)])])
    victim = cluster.front_ends[0]
    raw = raw_client(victim.origin)
    made = [await begun(raw, f"r{number}") for number in range(10)]
    other = await cluster.start_front_end()
    async with crowd() as session:
        ids = [made[number % 10] for number in range(300)]
        begun_ones: asyncio.Queue[None] = asyncio.Queue()
        readers = [
            asyncio.create_task(read_all(session, f"{victim.origin}/v1/responses/{each}?stream=true", begun_ones))
            for each in ids
        ]
        async with asyncio.timeout(LIMIT_S):
            for _ in ids:
                await begun_ones.get()
        await victim.kill()
        reached = [last_number(body) for body in await asyncio.gather(*readers)]
        again = [
            asyncio.create_task(read_all(session, f"{other.origin}/v1/responses/{each}?stream=true{behind(last)}"))
            for each, last in zip(ids, reached, strict=True)
        ]
        gate.set()
        for body, last in zip(await asyncio.gather(*again), reached, strict=True):
            whole = parse_sse(body)
            assert whole.violations == []
            assert numbers_of(whole.events) == list(range(last + 1, whole.events[-1]["sequence_number"] + 1))
            assert whole.events[-1]["type"] == "response.completed"
    assert all(last >= 0 for last in reached)  # they had really begun


def behind(last: int) -> str:
    return f"&starting_after={last}" if last >= 0 else ""


def last_number(body: bytes) -> int:
    """Of what a reader got until it was cut; -1 if that was nothing."""
    events = parse_sse(body, cut=True).events
    return events[-1]["sequence_number"] if events else -1
