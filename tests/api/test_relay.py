"""Large events on their way out, on a real Valkey: lent, called back, and read again."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from api.relay import PIECE_BYTES, Follower
from shared.core.frames import PING
from shared.hub import Hub, Reader
from shared.loans import Loans
from shared.store.responses import Responses
from shared.store.rows import PAGE_BYTES
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
