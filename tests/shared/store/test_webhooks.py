"""What settles is noted for who wants to hear of it, in the same step; it is taken by one worker at a time, until it is done."""

import pytest
from redis.asyncio import Redis

from shared.core.diagnosis import Backlog
from shared.core.lifecycle import SCHEMA
from shared.core.webhooks import EVENT_TYPES, Delivery, rule_of
from shared.store.responses import Responses
from shared.store.survey import survey
from shared.store.webhooks import Deliveries, Wish
from shared.wire.responses import Status
from support.valkey import KEEP_S, PARTITION, PREFIX, TENANT, ended, key, new, object_of, rid, submit

ALL = rule_of("", EVENT_TYPES)
HOOKS = f"{PREFIX}hooks"
BACKGROUND = {"lane": "background", "background": True}


@pytest.fixture
def deliveries(responses: Responses) -> Deliveries:
    return Deliveries(responses._store, PARTITION)


def due(endpoint: str = "ci") -> str:
    return f"{HOOKS}:{endpoint}"


async def take(deliveries: Deliveries, rule: str = ALL, *, room: int = 10, endpoint: str = "ci") -> list[Delivery]:
    return list((await deliveries.take([Wish(endpoint, rule, 5, room)])).deliveries)


async def over(responses: Responses, number: int, status: Status = "completed", **changes: object) -> None:
    await ended(responses, number, status, **{**BACKGROUND, **changes})


async def lease_over(redis: Redis, number: int, endpoint: str = "ci") -> None:
    await redis.zadd(due(endpoint), {rid(number): 1})


async def test_nothing_is_noted_while_nobody_asks(responses: Responses, redis: Redis) -> None:
    await over(responses, 1)
    assert await redis.keys(f"{HOOKS}*") == []


async def test_an_outcome_is_noted_once_for_each_who_wants_it(
    responses: Responses, redis: Redis, deliveries: Deliveries
) -> None:
    await take(deliveries)
    await take(deliveries, rule_of("", ["response.failed"]), endpoint="failures")
    await take(deliveries, rule_of(TENANT, EVENT_TYPES), endpoint="theirs")
    await take(deliveries, rule_of("other", EVENT_TYPES), endpoint="others")
    await over(responses, 1)
    await over(responses, 2, "incomplete")
    await over(responses, 3, "failed")
    await ended(responses, 4)  # in the foreground
    every = [rid(1), rid(2), rid(3)]
    assert await redis.zrange(due(), 0, -1) == await redis.zrange(due("theirs"), 0, -1) == every
    assert await redis.zrange(due("failures"), 0, -1) == [rid(3)]
    assert not await redis.exists(due("others"))
    assert 259_000 < await redis.ttl(due()) <= 259_200
    taken = await take(deliveries)
    assert [(each.endpoint, each.response_id, each.status, each.tries) for each in taken] == [
        ("ci", rid(1), "completed", 1), ("ci", rid(2), "incomplete", 1), ("ci", rid(3), "failed", 1),
    ]  # fmt: skip
    assert taken[0].ended_ms == int(await redis.hget(key("r", 1), "ended"))


async def test_what_is_cancelled_in_the_queue_is_noted_too(
    responses: Responses, redis: Redis, deliveries: Deliveries
) -> None:
    await take(deliveries)
    await submit(responses, new(1, stream=False, **BACKGROUND))
    answer = await responses.cancel(
        rid(1), TENANT, "f-1", seq=0, frames=b"", body=object_of("cancelled", "[]"), status="cancelled"
    )
    assert answer[0] == "settled"
    (taken,) = await take(deliveries)
    assert taken.status == "cancelled"


async def test_taken_by_one_at_a_time_until_its_lease_is_over(
    responses: Responses, redis: Redis, deliveries: Deliveries
) -> None:
    await take(deliveries)
    for number in (1, 2, 3):
        await over(responses, number)
    assert await take(deliveries, room=0) == []
    first = await take(deliveries, room=2)
    assert [each.response_id for each in first] == [rid(1), rid(2)]
    assert [each.response_id for each in await take(deliveries)] == [rid(3)]
    assert await take(deliveries) == []
    await lease_over(redis, 1)
    (again,) = await take(deliveries)
    assert (again.response_id, again.tries, again.event_id) == (rid(1), 2, first[0].event_id)


async def test_done_with_when_it_is_acknowledged(responses: Responses, redis: Redis, deliveries: Deliveries) -> None:
    await take(deliveries)
    await over(responses, 1)
    (taken,) = await take(deliveries)
    assert await deliveries.done(taken, again_s=None) == await deliveries.done(taken, again_s=None) == "ok"
    assert not await redis.exists(due())
    assert await redis.hget(key("r", 1), "hook:ci") is None
    assert 0 < await redis.ttl(key("r", 1)) <= KEEP_S


async def test_comes_again_when_it_failed(responses: Responses, redis: Redis, deliveries: Deliveries) -> None:
    await take(deliveries)
    await over(responses, 1)
    (taken,) = await take(deliveries)
    assert await deliveries.done(taken, again_s=100) == "again"
    assert await take(deliveries) == []
    ahead_ms = await redis.zscore(due(), rid(1)) - taken.ended_ms
    assert 100_000 <= ahead_ms < 110_000


async def test_who_lost_a_delivery_has_no_say_in_it(responses: Responses, redis: Redis, deliveries: Deliveries) -> None:
    await take(deliveries)
    await over(responses, 1)
    (late,) = await take(deliveries)
    await lease_over(redis, 1)
    (current,) = await take(deliveries)
    assert await deliveries.done(late, again_s=0) == "lost"
    assert await take(deliveries) == []
    assert await deliveries.done(current, again_s=None) == "ok"
    assert await deliveries.done(late, again_s=0) == "lost"
    assert not await redis.exists(due())


@pytest.mark.parametrize(("keep_s", "most_s"), [(KEEP_S, KEEP_S), (30 * 86_400, 72 * 3600)])
async def test_given_up_after_72_hours_or_with_its_response(
    responses: Responses, redis: Redis, deliveries: Deliveries, keep_s: int, most_s: int
) -> None:
    await take(deliveries)
    await over(responses, 1, keep_s=keep_s)
    (taken,) = await take(deliveries)
    assert await deliveries.done(taken, again_s=most_s - 60) == "again"
    await lease_over(redis, 1)
    (taken,) = await take(deliveries)
    assert await deliveries.done(taken, again_s=most_s + 1) == "again"
    left_ms = taken.ended_ms + most_s * 1000 - await redis.zscore(due(), rid(1))
    assert left_ms == 60_000  # the last attempt, however long the wait would have been
    await redis.hset(key("r", 1), "ended", taken.ended_ms - (most_s - 59) * 1000)
    await lease_over(redis, 1)
    (taken,) = await take(deliveries)
    assert await deliveries.done(taken, again_s=3600) == "over"
    assert not await redis.exists(due())
    assert await redis.hget(key("r", 1), "hook:ci") is None


async def test_given_up_too_where_no_attempt_comes_to_an_end(
    responses: Responses, redis: Redis, deliveries: Deliveries
) -> None:
    await take(deliveries)
    for number in (1, 2):
        await over(responses, number, keep_s=30 * 86_400)
    (taken,) = await take(deliveries, room=1)
    await redis.hset(key("r", 1), "ended", taken.ended_ms - 72 * 3_600_000 - 1000)
    await lease_over(redis, 1)
    found = await deliveries.take([Wish("ci", ALL, 5, 1)])
    assert [each.response_id for each in found.given_up] == [rid(1)]
    assert [each.response_id for each in found.deliveries] == [rid(2)]
    assert await redis.zrange(due(), 0, -1) == [rid(2)]
    assert await redis.hget(key("r", 1), "hook:ci") is None


async def test_nobody_hears_of_what_was_deleted(responses: Responses, redis: Redis, deliveries: Deliveries) -> None:
    await take(deliveries)
    await over(responses, 1)
    await over(responses, 2)
    (taken,) = await take(deliveries, room=1)
    for number in (1, 2):
        assert await responses.delete(rid(number), TENANT) == "ok"
    assert await deliveries.done(taken, again_s=0) == "lost"
    await lease_over(redis, 1)
    assert await take(deliveries) == []
    assert not await redis.exists(due())
    assert not await redis.exists(key("r", 1))


async def test_records_of_a_newer_version_are_left_alone(
    responses: Responses, redis: Redis, deliveries: Deliveries
) -> None:
    await take(deliveries)
    await over(responses, 1)
    await redis.hset(key("r", 1), "v", SCHEMA + 1)
    before = await redis.hgetall(key("r", 1))
    assert await take(deliveries) == []
    assert await redis.hgetall(key("r", 1)) == before
    assert await redis.zcard(due()) == 1


async def test_an_endpoint_counts_for_a_day_behind_the_last_who_asked(
    responses: Responses, redis: Redis, deliveries: Deliveries
) -> None:
    await take(deliveries)
    till = (await redis.hget(HOOKS, "ci")).partition(" ")[0]
    assert 86_300 < await redis.ttl(HOOKS) <= 86_400
    await take(deliveries)
    assert await redis.hget(HOOKS, "ci") == f"{till} {ALL}"  # not written again each time
    await redis.hset(HOOKS, "ci", f"1000 {ALL}")
    await over(responses, 1)
    assert not await redis.exists(due())
    await take(deliveries, endpoint="other")  # and it clears up
    assert list(await redis.hgetall(HOOKS)) == ["other"]


async def test_the_latest_configuration_counts(responses: Responses, redis: Redis, deliveries: Deliveries) -> None:
    await take(deliveries)
    await take(deliveries, rule_of("", ["response.failed"]))
    await over(responses, 1)
    assert not await redis.exists(due())


async def test_the_doctor_sees_what_waits(responses: Responses, redis: Redis, deliveries: Deliveries) -> None:
    await take(deliveries)
    for number in (1, 2, 3):
        await over(responses, number)
    (taken,) = await take(deliveries, room=1)
    assert list((await survey(responses._store, PARTITION)).webhooks) == [Backlog("ci", 3, 0, 0)]
    await deliveries.done(taken, again_s=200)
    await lease_over(redis, 3)
    assert list((await survey(responses._store, PARTITION)).webhooks) == [Backlog("ci", 3, 1, 1)]


async def test_what_is_gone_takes_nobodys_place_within_a_bound(
    responses: Responses, redis: Redis, deliveries: Deliveries
) -> None:
    await take(deliveries)
    await over(responses, 1)
    await redis.zadd(due(), {f"resp_gone{number}": number for number in range(1, 2501)})
    assert [await take(deliveries, room=1) for _ in range(2)] == [[], []]
    assert await redis.zcard(due()) == 501
    assert [each.response_id for each in await take(deliveries, room=1)] == [rid(1)]
    assert await redis.zcard(due()) == 1
