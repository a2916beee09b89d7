"""Tenants take turns in a queue, whoever has more waiting; what one tenant has waiting keeps its order."""

import random

from redis.asyncio import Redis

from shared.core.tiers import HEAD_START_MS
from shared.store.responses import Lane, Responses
from support.valkey import claim, flush, new, rid, settle

NUMBERS = {rid(number): number for number in range(1, 2000)}
PRIORITY_MS, FLEX_MS = HEAD_START_MS["priority"], HEAD_START_MS["flex"]


async def offer(responses: Responses, tenant: str, *numbers: int, lane: Lane = "background", ahead_ms: int = 0) -> None:
    for number in numbers:
        made = new(number, tenant=tenant, lane=lane, head_start_ms=ahead_ms)
        assert await responses.submit(made, max_queue=1000, budget_s=3.0) == "ok"


async def taken(responses: Responses, call: int = 1, *, slots: int = 100) -> list[int]:
    return [NUMBERS[each.id] for each in await claim(responses, call, slots=slots, lanes=("foreground", "background"))]


async def test_who_has_little_waiting_does_not_wait_for_who_has_much(responses: Responses, redis: Redis) -> None:
    await offer(responses, "flood", *range(1, 7))
    await offer(responses, "other", 11, 12)
    await offer(responses, "third", 21)
    assert await taken(responses) == [1, 11, 21, 2, 12, 3, 4, 5, 6]


async def test_whoever_asks_again_and_again_has_one_turn_in_each_round(responses: Responses, redis: Redis) -> None:
    await offer(responses, "flood", *range(1, 6))
    await offer(responses, "other", 11)
    await offer(responses, "third", 21)
    order = []
    for turn in range(12):
        (number,) = await taken(responses, turn + 1, slots=1)
        order.append(number)
        if number > 10:  # it has its answer, and asks for the next one
            await offer(responses, "other" if number < 20 else "third", number + 1)
    assert order == [1, 11, 21, 2, 12, 22, 3, 13, 23, 4, 14, 24]


async def test_a_turn_that_is_over_counts(responses: Responses, redis: Redis) -> None:
    """Those that ask for the next one when they have their answer keep nobody waiting who has two."""
    await offer(responses, "flood", *range(1, 4))
    await offer(responses, "other", 11)
    await offer(responses, "third", 21)
    order = []
    for turn in range(9):
        (number,) = await taken(responses, turn + 1, slots=1)
        order.append(number)
        await flush(responses, settle(number, 2))
        if number > 10:
            await offer(responses, "other" if number < 20 else "third", number + 1)
    assert order == [1, 11, 21, 2, 12, 22, 3, 13, 23]


async def test_one_tenant_alone_is_served_as_it_comes(responses: Responses, redis: Redis) -> None:
    await offer(responses, "one", 1, 2)
    await offer(responses, "one", 3, ahead_ms=FLEX_MS)
    await offer(responses, "one", 4)
    await offer(responses, "one", 5, 6, ahead_ms=PRIORITY_MS)
    await offer(responses, "one", 7)
    await offer(responses, "one", 8, lane="foreground")
    assert await taken(responses) == [8, 5, 6, 1, 2, 4, 7, 3]


async def test_no_tier_comes_before_the_turns_of_others(responses: Responses, redis: Redis) -> None:
    await offer(responses, "flood", *range(1, 5), ahead_ms=PRIORITY_MS)
    await offer(responses, "other", 11, 12)
    await offer(responses, "third", 21, ahead_ms=FLEX_MS)
    assert await taken(responses) == [1, 11, 2, 12, 3, 4, 21]


async def test_nobody_passes_his_own(responses: Responses, redis: Redis) -> None:
    """Tenants come and workers take at random."""
    chance, number, taken_of = random.Random(5), 0, dict[str, list[int]]()
    owner: dict[int, str] = {}
    for call in range(1, 400):
        for _ in range(chance.choice((0, 0, 1, 5))):
            number += 1
            owner[number] = chance.choice("aaaaaabbc") if call < 300 else "a"
            await offer(responses, owner[number], number)
        for each in await taken(responses, call, slots=chance.choice((1, 1, 2))):
            taken_of.setdefault(owner[each], []).append(each)
    for each in await taken(responses, 400, slots=2000):
        taken_of.setdefault(owner[each], []).append(each)
    assert sum(map(len, taken_of.values())) == number
    assert all(numbers == sorted(numbers) for numbers in taken_of.values())
