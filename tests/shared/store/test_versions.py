"""Records of a newer version: nothing of them is read or written, and they stay where they are."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from shared.core.lifecycle import SCHEMA
from shared.errors import NewerRecord
from shared.store.conversations import Conversations, NewConversation
from shared.store.redis import Store
from shared.store.responses import Responses
from support.valkey import PARTITION, PREFIX, TENANT, claim, due, ended, key, new, queue, rid, started, submit


async def lift(redis: Redis, number: int) -> None:
    """A newer version has written it."""
    for kind in ("r", "b"):
        assert await redis.hget(key(kind, number), "v") == str(SCHEMA)
        await redis.hset(key(kind, number), "v", SCHEMA + 1)


async def everything(redis: Redis) -> dict[str, bytes]:
    return {name: await redis.dump(name) for name in await redis.keys()}


Verb = Callable[[Responses], Awaitable[object]]
VERBS: list[Verb] = [
    lambda responses: responses.read(rid(1), TENANT),
    lambda responses: responses.watch(rid(1), TENANT, "f-2", -1),
    lambda responses: responses.attend(rid(1), TENANT, "f-2"),
    lambda responses: responses.leave(rid(1), "f-1"),
    lambda responses: responses.cancel(rid(1), TENANT, "f-2", seq=1, frames=b"", body=b"", status="cancelled"),
    lambda responses: responses.take_over(rid(1), "f-2", 5.0),
    lambda responses: responses.delete(rid(1), TENANT),
    lambda responses: responses.items_of(rid(1), TENANT),
    lambda responses: responses.chain(rid(1), TENANT, keep_s=10, max_links=9, max_bytes=99),
    lambda responses: responses.pack(rid(1), log=b"x"),
    lambda responses: responses.requeue(rid(1)),
    lambda responses: responses.submit(new(2, parent=rid(1)), max_queue=9, budget_s=1),
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("has_ended", [False, True])
async def test_every_verb_refuses_and_changes_nothing(
    responses: Responses, redis: Redis, verb: Verb, has_ended: bool
) -> None:
    await (ended(responses, 1) if has_ended else submit(responses, new(1)))
    await lift(redis, 1)
    before = await everything(redis)
    with pytest.raises(NewerRecord):
        await verb(responses)
    assert await everything(redis) == before


async def test_a_claim_leaves_it_and_takes_what_is_behind_it(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1), new(2), new(3))
    for number in (1, 3):
        await lift(redis, number)
    before = await redis.zrange(queue(), 0, -1, withscores=True)
    assert [each.id for each in await claim(responses, 1)] == [rid(2)]
    assert await redis.zrange(queue(), 0, -1, withscores=True) == [before[0], before[2]]
    assert await redis.exists(f"{PREFIX}bell") == 0  # nobody is woken in vain
    assert await claim(responses, 2) == []
    await redis.hset(key("r", 1), "v", SCHEMA)
    assert [each.id for each in await claim(responses, 3)] == [rid(1)]


async def test_many_of_them_hide_what_is_behind_but_cost_a_claim_little(responses: Responses, redis: Redis) -> None:
    for number in range(1, 130):
        await responses.submit(new(number), max_queue=1000, budget_s=3.0)
        if number < 129:
            await lift(redis, number)
    assert await claim(responses, 1) == []
    assert await redis.zcard(queue()) == 129


async def test_the_reaper_leaves_it_to_others(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await submit(responses, new(2))
    for number in (1, 2):
        await lift(redis, number)
        await due(redis, number)
    records = [await redis.hgetall(key("r", number)) for number in (1, 2)]
    reaped = await responses.reap(PARTITION, "w-2", limit=9, lease_s=5, max_queue_s=0, max_crashes=1)
    assert reaped == []
    assert [await redis.hgetall(key("r", number)) for number in (1, 2)] == records
    assert await redis.zcount(f"{PREFIX}live", "-inf", 10) == 0  # they are looked at again later
    assert await redis.zcard(f"{PREFIX}live") == 2


async def test_conversations_too(responses: Responses, redis: Redis) -> None:
    store = Store(responses.client)
    conversations = Conversations(store)
    conversation = rid(7).replace("resp_", "conv_")
    await conversations.create(NewConversation(conversation, TENANT, 1, b"{}", 100, b"[]", 0))
    head = await conversations.read(conversation, TENANT)
    assert head is not None
    await redis.hset(f"{PREFIX}c:{conversation}", "v", SCHEMA + 1)
    before = await everything(redis)
    for call in (
        lambda: conversations.read(conversation, TENANT),
        lambda: conversations.load(conversation, TENANT),
        lambda: conversations.update(conversation, TENANT, b"{}"),
        lambda: conversations.delete(conversation, TENANT),
        lambda: conversations.add(head, TENANT, b"[1]", 1, max_bytes=99, call="c"),
        lambda: conversations.drop(conversation, TENANT, "msg_1"),
        lambda: responses.submit(new(1, conversation=conversation), max_queue=9, budget_s=1),
    ):
        with pytest.raises(NewerRecord):
            await call()
    assert await everything(redis) == before
