"""The scripts behind long polls and Idempotency-Keys, against a real Valkey."""

from redis.asyncio import Redis

from shared.store.responses import Responses
from support.valkey import (
    INBOX,
    PARTITION,
    PREFIX,
    TENANT,
    Listener,
    claim,
    ended,
    key,
    new,
    rid,
    submit,
)

KEY, BODY, OTHER = "k" * 64, "b" * 64, "c" * 64
IDEM = f"{PREFIX}idem:{TENANT}:{KEY}"
DAY_S = 86_400


async def word(responses: Responses, number: int, body: str = BODY, **changes: object) -> str:
    made = new(number, idempotency=(KEY, body), **changes)
    return await responses.submit(made, max_queue=100, budget_s=3)


async def test_a_key_is_taken_with_its_response(responses: Responses, redis: Redis) -> None:
    assert await responses.recall(PARTITION, TENANT, KEY, BODY) == ""
    assert [await word(responses, 1), await word(responses, 1)] == ["ok", "ok"]  # repeated: a lost reply
    assert [await word(responses, 2), await word(responses, 3, OTHER)] == ["made", "reused"]
    assert await responses.recall(PARTITION, TENANT, KEY, BODY) == rid(1)
    assert await responses.recall(PARTITION, TENANT, KEY, OTHER) == "reused"
    assert await responses.recall(PARTITION, "other", KEY, OTHER) == ""
    assert not await redis.exists(key("r", 2), key("r", 3))
    assert DAY_S - 60 < await redis.ttl(IDEM) <= DAY_S


async def test_a_key_whose_response_is_gone_is_free(responses: Responses, redis: Redis) -> None:
    await word(responses, 1)
    await redis.delete(key("r", 1))
    assert await responses.recall(PARTITION, TENANT, KEY, OTHER) == ""
    assert await word(responses, 2, OTHER) == "ok"
    assert await responses.recall(PARTITION, TENANT, KEY, OTHER) == rid(2)


async def test_what_is_refused_takes_no_key(responses: Responses, redis: Redis) -> None:
    assert await word(responses, 1, parent=rid(9)) == "parent"
    assert not await redis.exists(IDEM)


async def test_who_attends_hears_that_it_runs(responses: Responses, redis: Redis) -> None:
    await submit(responses, new(1, stream=False, background=True, inbox=""))
    await submit(responses, new(2, stream=False, background=True, inbox=INBOX))
    await responses.attend(rid(1), "other", INBOX)
    assert await redis.hget(key("r", 1), "inboxes") == ""
    await responses.attend(rid(1), TENANT, INBOX)
    await responses.attend(rid(1), TENANT, INBOX)
    assert await redis.hget(key("r", 1), "inboxes") == INBOX
    async with Listener(redis, INBOX) as listener:
        await claim(responses, slots=2)
        assert await listener.rest() == [f"p {rid(1)} in_progress 0 0\n\n"]  # of the other nobody asked


async def test_places_in_the_queue(responses: Responses, redis: Redis) -> None:
    for number in (1, 2, 3):
        await submit(responses, new(number))
    snapshots = [await responses.read(rid(number), TENANT) for number in (1, 2, 3)]
    assert [snapshot and snapshot.place for snapshot in snapshots] == [0, 1, 2]
    await claim(responses, slots=1)
    snapshots = [await responses.read(rid(number), TENANT) for number in (1, 2, 3)]
    assert [snapshot and snapshot.place for snapshot in snapshots] == [None, 0, 1]


async def test_nobody_attends_what_has_ended(responses: Responses, redis: Redis) -> None:
    await ended(responses, 1)
    await responses.attend(rid(1), TENANT, INBOX)
    assert await redis.hget(key("r", 1), "inboxes") == ""
