"""The hub on a real Valkey: what reaches a reader, and when it is sent back to the log."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from shared.deadline import Deadline
from shared.hub import READER_BYTES, Heard, Hub, Reader
from shared.store.responses import Responses
from support.garbage import none_left
from support.valkey import INBOX, TENANT, append, flush, new, object_of, rid, settle, started, submit

WAIT_S = 5.0


@pytest_asyncio.fixture
async def hub(valkey: str, redis: Redis) -> AsyncIterator[Hub]:
    async with Hub(valkey, INBOX) as hub:
        async with asyncio.timeout(WAIT_S):
            await hub.connected.wait()
        yield hub


async def heard(reader: Reader) -> Heard:
    found = await reader.next(WAIT_S)
    assert found is not None, "the reader was sent to the log"
    return found


async def sent_to_the_log(reader: Reader) -> bool:
    async with asyncio.timeout(WAIT_S):
        return await reader.next(60) is None


async def reconnected(hub: Hub, redis: Redis) -> None:
    """Its connection is cut, and it comes back."""
    with hub.listen("anything") as reader:
        assert await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        assert await sent_to_the_log(reader)
    assert hub.connected.is_set()


async def running(hub: Hub, responses: Responses, *numbers: int) -> None:
    """Started, and what was published for that has arrived."""
    for number in numbers:
        with hub.listen(rid(number)) as reader:
            await started(responses, number)
            assert (await heard(reader)).blob == b"<begin>"


async def test_every_reader_of_a_response_hears_its_events_in_order(hub: Hub, responses: Responses) -> None:
    await running(hub, responses, 1)
    with hub.listen(rid(1)) as one, hub.listen(rid(1)) as two, hub.listen(rid(2)) as other:
        await flush(responses, append(1, 2, b"<2><3>", count=2))
        await flush(responses, append(1, 4, b"<4>"), settle(1, 5))
        for reader in (one, two):
            assert await heard(reader) == (b"e", b"2", b"2", b"<2><3>")
            assert await heard(reader) == (b"e", b"4", b"1", b"<4>")
            assert await heard(reader) == (b"z", b"5", b"1", b"<end>")
        assert await other.next(0) is None


async def test_a_reader_is_freed_at_once(hub: Hub, responses: Responses) -> None:
    with none_left(Reader, Deadline):
        await running(hub, responses, 1)


async def test_messages_that_overtake_the_reply_are_not_lost(hub: Hub, responses: Responses) -> None:
    with hub.listen(rid(1)) as reader:  # before submit
        await started(responses, 1)
        assert (await heard(reader)).blob == b"<begin>"


async def test_a_response_without_a_log_comes_whole(hub: Hub, responses: Responses) -> None:
    await started(responses, 1, stream=False)
    with hub.listen(rid(1)) as reader:
        await flush(responses, settle(1, 0, count=0))
        assert await heard(reader) == (b"s", b"completed", b"-", object_of("completed"))


async def test_what_is_only_announced_sends_to_the_log(hub: Hub, responses: Responses) -> None:
    await running(hub, responses, 1)
    with hub.listen(rid(1)) as reader:
        await flush(responses, append(1, 2, b"x" * 100_000))
        assert await sent_to_the_log(reader)
        await flush(responses, append(1, 3, b"<3>"))
        assert (await heard(reader)).a == b"3"


async def test_blobs_may_hold_anything(hub: Hub, responses: Responses) -> None:
    await running(hub, responses, 1, 2)
    blobs = [b"\n\n", b"e resp 1 1 5\n\nabcde", b"\x00\xff\r\n", "\U0001f600".encode()]
    with hub.listen(rid(1)) as one, hub.listen(rid(2)) as two:
        parts = [append(number, 2 + place, blob) for place, blob in enumerate(blobs) for number in (1, 2)]
        await flush(responses, *parts)
        assert [(await heard(one)).blob for _ in blobs] == blobs
        assert [(await heard(two)).blob for _ in blobs] == blobs


async def test_a_cancel_calls_the_owner(valkey: str, redis: Redis, responses: Responses) -> None:
    called = asyncio.Queue[tuple[str, int]]()
    async with Hub(valkey, "w-1", on_cancel=lambda *call: called.put_nowait(call)) as hub, asyncio.timeout(WAIT_S):
        await hub.connected.wait()
        await started(responses, 1)
        await responses.cancel(rid(1), TENANT, INBOX, seq=2, frames=b"", body=b"", status="cancelled")
        assert await called.get() == (rid(1), 1)


async def test_a_reconnect_tells_every_reader_to_look_at_the_log(hub: Hub, redis: Redis, responses: Responses) -> None:
    await running(hub, responses, 1)
    with hub.listen(rid(1)) as one, hub.listen(rid(2)) as two:
        for first in (2, 3, 4):
            await reconnected(hub, redis)
            assert await sent_to_the_log(one)
            assert await sent_to_the_log(two)
            await flush(responses, append(1, first))
            assert (await heard(one)).a == str(first).encode()


async def test_a_reader_that_waits_is_woken_by_a_reconnect(hub: Hub, redis: Redis) -> None:
    with hub.listen(rid(1)) as reader:
        waiting = asyncio.create_task(sent_to_the_log(reader))
        await reconnected(hub, redis)
        assert await waiting


async def test_a_slow_reader_is_sent_to_the_log_and_others_are_not(hub: Hub, responses: Responses) -> None:
    await running(hub, responses, 1, 2)
    size, count = 60_000, READER_BYTES // 60_000 + 2
    with hub.listen(rid(1)) as slow, hub.listen(rid(1)) as quick, hub.listen(rid(2)) as other:
        for place in range(count):
            await flush(responses, append(1, 2 + place, b"x" * size))
            assert (await heard(quick)).a == str(2 + place).encode()
        await flush(responses, append(2, 2))
        assert (await heard(other)).a == b"2"
        assert await sent_to_the_log(slow)
        left = 0
        while await slow.next(0) is not None:
            left += 1
        assert left < count / 2  # what it had is dropped, what came after that is kept
        await flush(responses, append(1, 2 + count))
        assert (await heard(slow)).a == str(2 + count).encode()


async def test_nobody_listens_any_more(hub: Hub, responses: Responses) -> None:
    await submit(responses, new(1))
    with hub.listen(rid(1)):
        with hub.listen(rid(1)):
            assert hub.listeners(rid(1)) == 2
        assert hub.listeners(rid(1)) == 1
    assert hub.listeners(rid(1)) == 0


async def test_a_subscription_that_went_dumb_is_made_again(
    valkey: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is answered with a ping, and no pong with a fresh connection."""
    monkeypatch.setattr("shared.hub.SILENCE_S", 0.05)
    monkeypatch.setattr("shared.hub.ANSWER_S", 0.05)
    async with Hub(valkey, INBOX) as hub, asyncio.timeout(WAIT_S):
        await hub.connected.wait()
        before = await _subscriber(redis)
        with hub.listen(rid(1)) as reader:
            await redis.client_pause(300)
            assert await sent_to_the_log(reader)
        assert await _subscriber(redis) != before


async def _subscriber(redis: Redis) -> str:
    (client,) = await redis.client_list(_type="pubsub")
    return client["id"]


async def test_a_message_that_cannot_be_read_costs_a_look_at_the_log(
    hub: Hub, redis: Redis, responses: Responses
) -> None:
    await running(hub, responses, 1)
    with hub.listen(rid(1)) as reader:
        await redis.publish(f"rs:in:{INBOX}", "garbage")
        assert await sent_to_the_log(reader)
        await flush(responses, append(1, 2, b"<2>"))
        assert (await heard(reader)).blob == b"<2>"
