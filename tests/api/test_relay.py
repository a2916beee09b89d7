"""Large events on their way out, on a real Valkey: lent, called back, and read again. The end of a stream, to a client that has stopped."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from redis.asyncio import Redis

from api.relay import PIECE_BYTES, EventStream, Follower
from shared.core.frames import DONE, PING
from shared.hub import Hub, Reader
from shared.loans import Loans
from shared.store.responses import Responses
from shared.store.rows import PAGE_BYTES
from support.loops import on_both_loops
from support.valkey import INBOX, TENANT, append, flush, rid, settle, started

LARGE = b"data: " + bytes(range(48, 122)) * (2 * PAGE_BYTES // 74) + b"\n\n"
WAIT_S = 10.0


@pytest_asyncio.fixture
async def hub(valkey: str, redis: Redis) -> AsyncIterator[Hub]:
    async with Hub(valkey, INBOX) as hub:
        hub.large = Loans(len(LARGE) * 3 // 2)  # room for one
        yield hub


async def ended(responses: Responses, number: int) -> bytes:
    """The log of a response that ended with three large events."""
    await started(responses, number)
    for place in (2, 3, 4):
        await flush(responses, append(number, place, LARGE))
    await flush(responses, settle(number, 5))
    return b"<0>" + b"<begin>" + LARGE * 3 + b"<end>"


@contextlib.asynccontextmanager
async def reading(hub: Hub, responses: Responses, number: int) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    follower = Follower(responses, hub, rid(number), TENANT, -1, ping_s=60)
    async with asyncio.timeout(WAIT_S), contextlib.aclosing(follower.follow(Reader())) as frames:
        yield frames


async def rest(frames: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([each async for each in frames])


async def test_what_a_stalled_reader_holds_is_called_back_and_it_misses_nothing(
    hub: Hub, responses: Responses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.loans.SLOW_S", 0.0)
    whole = [await ended(responses, number) for number in (1, 2)]
    async with reading(hub, responses, 1) as stalled, reading(hub, responses, 2) as quick:
        seen = b""
        while len(seen) < 2 * PIECE_BYTES:
            seen += await anext(stalled)
        assert await rest(quick) == whole[1]
        assert seen + await rest(stalled) == whole[0]


async def test_who_takes_its_pieces_keeps_them_and_others_wait(hub: Hub, responses: Responses) -> None:
    whole = [await ended(responses, number) for number in (1, 2)]
    async with reading(hub, responses, 1) as first, reading(hub, responses, 2) as second:
        seen = b""
        while len(seen) < PIECE_BYTES:
            seen += await anext(first)
        waiting = asyncio.create_task(rest(second))
        assert seen + await rest(first) == whole[0]
        assert await waiting == whole[1]


async def test_who_waits_for_room_is_pinged(hub: Hub, responses: Responses) -> None:
    for number in (1, 2):
        await ended(responses, number)
    async with reading(hub, responses, 1) as first:
        while len(await anext(first)) < PIECE_BYTES:
            pass
        follower = Follower(responses, hub, rid(2), TENANT, -1, ping_s=0)
        async with asyncio.timeout(WAIT_S), contextlib.aclosing(follower.follow(Reader())) as waiting:
            while await anext(waiting) != PING:
                pass


async def test_a_reader_that_hangs_up_makes_room(hub: Hub, responses: Responses) -> None:
    whole = [await ended(responses, number) for number in (1, 2)]
    async with reading(hub, responses, 1) as gone:
        while len(await anext(gone)) < PIECE_BYTES:
            pass
    async with reading(hub, responses, 2) as other:
        assert await rest(other) == whole[1]


async def test_what_comes_is_pushed_to_a_client_that_takes_it_and_else_yielded(hub: Hub, responses: Responses) -> None:
    pushed, room = asyncio.Queue[bytes](), True

    def push(frames: bytes) -> bool:
        if room:
            pushed.put_nowait(frames)
        return room

    await hub.connected.wait()
    await started(responses, 1)
    follower = Follower(responses, hub, rid(1), TENANT, -1, ping_s=60)
    with hub.listen(rid(1)) as reader:
        async with asyncio.timeout(WAIT_S), contextlib.aclosing(follower.follow(reader, push)) as frames:
            seen = await anext(frames)
            while not seen.endswith(b"<begin>"):
                seen += await anext(frames)
            following = asyncio.create_task(anext(frames))
            await flush(responses, append(1, 2, b"<2>"))
            assert await pushed.get() == b"<2>"
            room = False
            await flush(responses, append(1, 3, b"<3>"))
            assert await following == b"<3>"
            room = True
            following = asyncio.create_task(anext(frames))
            await flush(responses, append(1, 4, b"<4><5>", count=2))
            assert await pushed.get() == b"<4><5>"
            await flush(responses, settle(1, 6))
            assert await following == b"<end>"
            assert await rest(frames) == b""
            assert pushed.empty()


EVENT = b": " + b"x" * 996 + b"\n\n"
Closing = asyncio.Task[web.StreamResponse]


@contextlib.asynccontextmanager
async def stalled(timeout_s: float) -> AsyncIterator[tuple[Closing, socket.socket]]:
    """The end of a stream, while its client has not taken much of what comes before."""
    loop, closings = asyncio.get_running_loop(), asyncio.Queue[Closing]()

    async def serve(request: web.Request) -> web.StreamResponse:
        stream = EventStream(request, timeout_s)
        await stream.open({})
        refused = 0
        while refused < 100:  # turns of the loop: there is no room on the whole way
            refused = 0 if stream.push(EVENT) else refused + 1
            await asyncio.sleep(0)
        await stream.write(EVENT)
        closing = asyncio.create_task(stream.close())
        closings.put_nowait(closing)
        return await closing

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with socket.create_connection(runner.addresses[0]) as client:
            client.setblocking(False)
            async with asyncio.timeout(WAIT_S):
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                yield await closings.get(), client
    finally:
        await runner.cleanup()


@on_both_loops
async def test_a_client_that_takes_nothing_of_the_end_is_cut_in_time() -> None:
    async with stalled(0.2) as (closing, client):
        await asyncio.wait([closing])
        assert isinstance(closing.exception(), ConnectionResetError)
        seen = b""
        while block := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            seen += block
        assert DONE not in seen


@on_both_loops
async def test_a_client_that_takes_the_end_late_is_not_cut() -> None:
    async with stalled(WAIT_S) as (closing, client):
        assert not closing.done()
        seen = b""
        while not seen.endswith(b"\r\n0\r\n\r\n"):
            block = await asyncio.get_running_loop().sock_recv(client, 1 << 20)
            assert block
            seen += block
        assert DONE in seen
        await closing
