"""Conversations against a real Valkey: their own scripts, and what responses do to them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from shared.errors import StoreUnavailable
from shared.ids import conversation_id
from shared.store.conversations import Conversations, Head, NewConversation
from shared.store.redis import Store, connect
from shared.store.responses import Responses
from shared.wire.responses import Status
from support.valkey import (
    KEEP_S,
    LEASE_S,
    LIVE,
    PARTITION,
    PREFIX,
    TENANT,
    WORKER,
    claim,
    due,
    ended,
    flush,
    key,
    new,
    rid,
    settle,
    started,
    submit,
)

CID = conversation_id(0, bytes(20))
MAX_BYTES = 1000
ANSWERED = ("completed", "incomplete")
UNANSWERED = ("failed", "cancelled")


@pytest_asyncio.fixture
async def conversations(valkey: str, redis: Redis) -> AsyncIterator[Conversations]:
    client = connect(valkey)
    yield Conversations(Store(client))
    await client.aclose()


def ckey(kind: str) -> str:
    return f"{PREFIX}{kind}:{CID}"


def batch(*ids: str) -> bytes:
    return msgspec.json.encode([{"id": each} for each in ids])


async def create(conversations: Conversations, *ids: str, tenant: str = TENANT) -> None:
    await conversations.create(NewConversation(CID, tenant, 5, b'{"a":"b"}', KEEP_S, batch(*ids), len(ids)))


async def head(conversations: Conversations) -> Head:
    found = await conversations.read(CID, TENANT)
    assert found is not None
    return found


async def items(conversations: Conversations) -> list[str]:
    """The ids of what is left in it; what responses add in these tests is a text, which is shown as it is."""
    history = await conversations.load(CID, TENANT)
    assert history is not None
    rows = [row for each in history.items for row in msgspec.json.decode(each)]
    return [row if isinstance(row, str) else row["id"] for row in rows]


async def add(conversations: Conversations, *ids: str, call: str = "", seen: Head | None = None) -> str:
    seen = seen or await head(conversations)
    name = call or "-".join(ids)
    return await conversations.add(seen, TENANT, batch(*ids), len(ids), max_bytes=MAX_BYTES, call=name)


async def turn(conversations: Conversations, number: int, **changes: Any) -> Any:
    """A response of the conversation, as the front end that has just read it would submit it."""
    now = await head(conversations)
    return new(number, stream=False, conversation=CID, read=(now.batches, now.deleted), **changes)


async def lifetimes(redis: Redis) -> dict[str, int]:
    return {kind: await redis.ttl(ckey(kind)) for kind in ("c", "ci", "cd") if await redis.exists(ckey(kind))}


def whole(seconds: float = KEEP_S) -> Any:
    return pytest.approx(seconds, abs=5)


# the conversation itself


async def test_only_the_batches_that_are_asked_for_are_read(conversations: Conversations) -> None:
    await create(conversations, "a", "b")
    for each in ("c", "d", "e"):
        await add(conversations, each)
    await conversations.drop(CID, TENANT, "d")
    for first, last, wanted in ((0, 0, ["a", "b"]), (-2, -1, ["e"]), (1, 2, ["c"]), (3, 9, ["e"]), (4, 9, [])):
        history = await conversations.load(CID, TENANT, first, last)
        assert history is not None
        assert [row["id"] for each in history.items for row in msgspec.json.decode(each)] == wanted
        assert (history.head.batches, history.head.deleted) == (4, 1)


async def test_create_and_read(conversations: Conversations, redis: Redis) -> None:
    await create(conversations, "one", "two")
    assert await head(conversations) == Head(CID, 5, b'{"a":"b"}', 2, len(batch("one", "two")), False, 1, 0)
    assert await items(conversations) == ["one", "two"]
    assert await lifetimes(redis) == {"c": whole(), "ci": whole()}
    assert await redis.dbsize() == 2


async def test_create_repeated_changes_nothing(conversations: Conversations) -> None:
    await create(conversations, "one")
    await add(conversations, "two")
    await create(conversations, "one")
    assert await items(conversations) == ["one", "two"]


async def test_an_empty_one_has_no_list(conversations: Conversations, redis: Redis) -> None:
    await create(conversations)
    assert await items(conversations) == []
    assert await redis.keys() == [ckey("c")]


@pytest.mark.parametrize("why", ["unknown", "other tenant", "deleted", "deleted and kept"])
async def test_what_does_not_exist(conversations: Conversations, responses: Responses, redis: Redis, why: str) -> None:
    seen = Head(CID, 5, b"{}", 0, 0, False, 0, 0)
    if why == "other tenant":
        await create(conversations, tenant="other")
    elif why != "unknown":
        await create(conversations)
        if why == "deleted and kept":
            await ended_turn(conversations, responses, 9)
        assert await conversations.delete(CID, TENANT)
    before = {name: await redis.dump(name) for name in await redis.keys()}
    assert await conversations.read(CID, TENANT) is None
    assert await conversations.load(CID, TENANT) is None
    assert await conversations.update(CID, TENANT, b"{}") is None
    assert not await conversations.delete(CID, TENANT)
    assert await conversations.drop(CID, TENANT, "one") == "gone"
    assert await add(conversations, "one", seen=seen) == "gone"
    for store in (True, False):
        assert await responses.submit(new(1, conversation=CID, store=store), max_queue=9, budget_s=3) == "conversation"
    assert {name: await redis.dump(name) for name in await redis.keys()} == before


async def test_update_replaces_the_metadata_and_lengthens_the_life(conversations: Conversations, redis: Redis) -> None:
    await create(conversations, "one")
    for kind in ("c", "ci"):
        await redis.expire(ckey(kind), 10)
    assert await conversations.update(CID, TENANT, b'{"c":"d"}') == 5
    assert (await head(conversations)).metadata == b'{"c":"d"}'
    assert await lifetimes(redis) == {"c": whole(), "ci": whole()}


async def test_delete_leaves_nothing_that_nobody_needs(conversations: Conversations, redis: Redis) -> None:
    await create(conversations, "one", "two")
    await conversations.drop(CID, TENANT, "one")
    assert await conversations.delete(CID, TENANT)
    assert await redis.dbsize() == 0


# its items


async def test_add_in_order(conversations: Conversations, redis: Redis) -> None:
    await create(conversations)
    assert await add(conversations, "one", "two") == "ok"
    assert await add(conversations, "three") == "ok"
    assert await items(conversations) == ["one", "two", "three"]
    assert (await head(conversations)).next_item == 3
    assert await lifetimes(redis) == {"c": whole(), "ci": whole()}
    memos = await redis.keys(f"{PREFIX}cm:*")
    assert len(memos) == 2
    assert all([0 < await redis.ttl(memo) <= 10 for memo in memos])


async def test_add_repeated_adds_once(conversations: Conversations) -> None:
    await create(conversations)
    seen = await head(conversations)
    assert await add(conversations, "one", call="x", seen=seen) == "ok"
    assert await add(conversations, "two") == "ok"
    assert await add(conversations, "one", call="x", seen=seen) == "ok"
    assert await items(conversations) == ["one", "two"]


async def test_add_after_another_one_chooses_ids_again(conversations: Conversations) -> None:
    await create(conversations)
    seen = await head(conversations)
    assert await add(conversations, "one", seen=seen) == "ok"
    assert await add(conversations, "two", seen=seen) == "moved"
    assert await items(conversations) == ["one"]


async def test_add_is_bounded(conversations: Conversations, redis: Redis) -> None:
    await create(conversations)
    fitting = "x" * (MAX_BYTES - len(batch("")))
    assert await add(conversations, fitting + "x") == "long"
    assert await add(conversations, fitting) == "ok"
    assert await add(conversations, "") == "long"
    assert await redis.llen(ckey("ci")) == 1


async def test_new_items_are_refused_at_maxmemory(conversations: Conversations, redis: Redis) -> None:
    await create(conversations)
    seen = await head(conversations)
    await redis.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await add(conversations, "one", seen=seen)
    assert await conversations.delete(CID, TENANT)


async def test_drop(conversations: Conversations, redis: Redis) -> None:
    await create(conversations, "one", "two", "three")
    for name in ("two", "two", "one"):
        assert await conversations.drop(CID, TENANT, name) == "ok"
    assert await items(conversations) == ["three"]
    assert await redis.zrange(ckey("cd"), 0, -1) == ["two", "one"]
    assert await lifetimes(redis) == {"c": whole(), "ci": whole(), "cd": whole()}


# responses in it


@pytest.mark.parametrize("status", [*ANSWERED, *UNANSWERED])
async def test_a_turn_holds_it_and_adds_its_items_at_its_end(
    conversations: Conversations, responses: Responses, redis: Redis, status: Status
) -> None:
    await create(conversations, "one")
    await submit(responses, await turn(conversations, 1))
    assert (await head(conversations)).locked
    assert await lifetimes(redis) == {"c": -1, "ci": -1}
    await conversations.update(CID, TENANT, b"{}")
    assert await lifetimes(redis) == {"c": -1, "ci": -1}
    await claim(responses, 1)
    assert await items(conversations) == ["one"]
    assert await flush(responses, settle(1, 0, status, count=0)) == ["ok"]
    assert await items(conversations) == ["one", *(["in", "out"] if status in ANSWERED else [])]
    assert not (await head(conversations)).locked
    assert await lifetimes(redis) == {"c": whole(), "ci": whole()}
    # Repeated: nothing twice.
    assert await flush(responses, settle(1, 0, status, count=0)) == ["ok"]
    assert len(await items(conversations)) == (3 if status in ANSWERED else 1)


async def test_one_writer_at_a_time(conversations: Conversations, responses: Responses) -> None:
    await create(conversations, "one")
    first, second = await turn(conversations, 1), await turn(conversations, 2)
    await submit(responses, first)
    assert await responses.submit(second, max_queue=9, budget_s=3) == "locked"
    assert await add(conversations, "two") == "locked"
    assert await conversations.drop(CID, TENANT, "one") == "locked"
    assert await responses.submit(first, max_queue=9, budget_s=3) == "ok"  # repeated
    await claim(responses, 1)
    await flush(responses, settle(1, 0, count=0))
    # What the second one had read is not what is there now: its calls and outputs were paired with other items.
    assert await responses.submit(second, max_queue=9, budget_s=3) == "locked"
    await submit(responses, await turn(conversations, 2))


@pytest.mark.parametrize("change", ["added", "deleted"])
async def test_a_turn_that_read_something_else_is_refused(
    conversations: Conversations, responses: Responses, change: str
) -> None:
    await create(conversations, "one")
    late = await turn(conversations, 1)
    if change == "added":
        await add(conversations, "two")
    else:
        await conversations.drop(CID, TENANT, "one")
    assert await responses.submit(late, max_queue=9, budget_s=3) == "locked"
    assert await responses.submit(replace(late, store=False), max_queue=9, budget_s=3) == "ok"


@pytest.mark.parametrize("holder", ["gone", "ended"])
async def test_a_holder_that_is_gone_holds_nothing(
    conversations: Conversations, responses: Responses, redis: Redis, holder: str
) -> None:
    await create(conversations)
    if holder == "ended":
        await ended(responses, 9)
    await redis.hset(ckey("c"), "lock", rid(9))
    assert not (await head(conversations)).locked
    await submit(responses, await turn(conversations, 1))


async def test_one_that_is_not_stored_only_reads(conversations: Conversations, responses: Responses) -> None:
    await create(conversations, "one")
    await submit(responses, await turn(conversations, 1))
    await submit(responses, await turn(conversations, 2, store=False))
    await claim(responses, 1)
    await flush(responses, settle(2, 0, count=0))
    assert (await head(conversations)).locked
    await flush(responses, settle(1, 0, count=0))
    assert await items(conversations) == ["one", "in", "out"]


async def test_cancelled_while_it_waits(conversations: Conversations, responses: Responses) -> None:
    await create(conversations, "one")
    await submit(responses, await turn(conversations, 1))
    answer = await responses.cancel(rid(1), TENANT, "f", seq=0, frames=b"", body=b'{"output":[]}', status="cancelled")
    assert answer == ("settled", "")
    assert not (await head(conversations)).locked
    assert await items(conversations) == ["one"]


async def test_taken_over_after_its_worker_died(
    conversations: Conversations, responses: Responses, redis: Redis
) -> None:
    await create(conversations, "one")
    await submit(responses, await turn(conversations, 1))
    await claim(responses, 1)
    await redis.hset(key("r", 1), "crashes", 1)
    await due(redis, 1)
    (reaped,) = await responses.reap(PARTITION, WORKER, limit=9, lease_s=LEASE_S, max_queue_s=60, max_crashes=2)
    assert reaped.what == "settle"
    assert (await head(conversations)).locked
    assert await flush(responses, settle(1, 0, "failed", count=0, attempt=reaped.attempt)) == ["ok"]
    assert not (await head(conversations)).locked
    assert await items(conversations) == ["one"]


# what responses have read of it


async def read_by(responses: Responses, number: int, *, max_bytes: int = MAX_BYTES) -> list[str] | str:
    chain = await responses.chain(rid(number), TENANT, keep_s=KEEP_S, max_links=9, max_bytes=max_bytes)
    if isinstance(chain, str):
        return chain
    rows = [row for each in chain for row in msgspec.json.decode(each)]
    return [row if isinstance(row, str) else row["id"] for row in rows]


async def ended_turn(conversations: Conversations, responses: Responses, number: int, **changes: Any) -> None:
    await submit(responses, await turn(conversations, number, **changes))
    await claim(responses, worker=f"w-{number}")
    assert await flush(responses, settle(number, 0, count=0), who=f"w-{number}") == ["ok"]


async def test_a_turn_keeps_what_it_has_read(conversations: Conversations, responses: Responses) -> None:
    await create(conversations, "one", "two", "three")
    await ended_turn(conversations, responses, 2, store=False)
    await conversations.drop(CID, TENANT, "one")
    await ended_turn(conversations, responses, 1, store=False)
    await conversations.drop(CID, TENANT, "two")
    await add(conversations, "four")
    assert await read_by(responses, 2) == ["one", "two", "three", "in", "out"]
    assert await read_by(responses, 1) == ["two", "three", "in", "out"]
    assert await items(conversations) == ["three", "four"]


async def test_a_turn_in_an_empty_one(conversations: Conversations, responses: Responses) -> None:
    await create(conversations)
    await ended_turn(conversations, responses, 1)
    assert await read_by(responses, 1) == ["in", "out"]


async def test_a_chain_that_began_in_a_conversation(conversations: Conversations, responses: Responses) -> None:
    await create(conversations, "one")
    await ended_turn(conversations, responses, 1)
    await started(responses, 2, parent=rid(1))
    assert await read_by(responses, 2) == ["one", "in", "out", "in"]
    assert await items(conversations) == ["one", "in", "out"]


async def test_what_was_read_counts_for_the_length_of_a_chain(
    conversations: Conversations, responses: Responses
) -> None:
    await create(conversations, "x" * 500)
    await ended_turn(conversations, responses, 1)
    assert await read_by(responses, 1, max_bytes=500) == "long"
    assert await read_by(responses, 1, max_bytes=600) != "long"


async def test_a_chain_lengthens_the_life_of_what_it_reads(
    conversations: Conversations, responses: Responses, redis: Redis
) -> None:
    await create(conversations, "one", "two")
    await conversations.drop(CID, TENANT, "one")
    await ended_turn(conversations, responses, 1)
    for kind in ("c", "ci", "cd"):
        await redis.expire(ckey(kind), 10)
    await read_by(responses, 1)
    assert await lifetimes(redis) == {"c": whole(), "ci": whole(), "cd": whole()}


async def test_its_items_survive_its_deletion_for_the_responses_that_used_them(
    conversations: Conversations, responses: Responses, redis: Redis
) -> None:
    await create(conversations, "one")
    await ended_turn(conversations, responses, 1)
    await ended_turn(conversations, responses, 2)
    assert await conversations.delete(CID, TENANT)
    assert await conversations.read(CID, TENANT) is None
    assert await read_by(responses, 2) == ["one", "in", "out", "in", "out"]
    assert await responses.delete(rid(1), TENANT) == "ok"
    assert await read_by(responses, 2) == ["one", "in", "out", "in", "out"]
    # A chain that goes on from the last one needs it still.
    await started(responses, 3, parent=rid(2))
    await responses.delete(rid(2), TENANT)
    assert await read_by(responses, 3) == ["one", "in", "out", "in", "out", "in"]
    await flush(responses, settle(3, 2))
    await responses.delete(rid(3), TENANT)
    assert await redis.keys(f"{PREFIX}c*:{CID}") == []


async def test_it_survives_the_deletion_of_its_responses(conversations: Conversations, responses: Responses) -> None:
    await create(conversations, "one")
    await ended_turn(conversations, responses, 1)
    await responses.delete(rid(1), TENANT)
    assert await items(conversations) == ["one", "in", "out"]
    await conversations.delete(CID, TENANT)
    assert await conversations.read(CID, TENANT) is None


async def test_deleted_while_a_turn_runs(conversations: Conversations, responses: Responses, redis: Redis) -> None:
    await create(conversations, "one")
    await submit(responses, await turn(conversations, 1))
    assert await conversations.delete(CID, TENANT)
    await claim(responses, 1)
    assert await read_by(responses, 1) == ["one", "in"]
    assert await flush(responses, settle(1, 0, count=0)) == ["ok"]
    assert await redis.llen(ckey("ci")) == 1
    assert await lifetimes(redis) == {"c": whole(), "ci": whole()}
    await responses.delete(rid(1), TENANT)
    assert await redis.keys(f"{PREFIX}c*:{CID}") == []


async def test_gone_before_one_that_is_not_stored_could_read_it(
    conversations: Conversations, responses: Responses
) -> None:
    await create(conversations, "one")
    await submit(responses, await turn(conversations, 1, store=False))
    await conversations.delete(CID, TENANT)
    await claim(responses, 1)
    assert await read_by(responses, 1) == "gone"
    assert await flush(responses, settle(1, 0, "failed", count=0)) == ["ok"]


async def test_nothing_is_left_without_a_lifetime(
    conversations: Conversations, responses: Responses, redis: Redis
) -> None:
    await create(conversations, "one", "two")
    await add(conversations, "three")
    await conversations.drop(CID, TENANT, "one")
    await ended_turn(conversations, responses, 1)
    await ended_turn(conversations, responses, 2, store=False)
    await submit(responses, await turn(conversations, 3))
    await responses.cancel(rid(3), TENANT, "f", seq=0, frames=b"", body=b'{"output":[]}', status="cancelled")
    await redis.delete(f"{PREFIX}bell")
    assert not await redis.exists(LIVE)
    assert {name: await redis.ttl(name) for name in await redis.keys() if await redis.ttl(name) < 0} == {}
