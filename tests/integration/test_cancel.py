"""Cancels and hang-ups, in every state and against every race."""

import asyncio
import random
from collections.abc import Callable

import pytest

from fakes.upstream import hang
from support.clients import RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import (
    PREFIX,
    WAIT_S,
    NamedUpstream,
    Watch,
    check_left,
    create,
    ended,
    get,
    read_on,
    read_until,
    resume,
    streaming,
    text_of,
    then,
    words,
)
from support.schemas import Json

RawMaker = Callable[[str], RawClient]
RACES = 200
"""1,000 of each are a figure: ./dev soak --figure cancel-races, claim-races."""


async def cancel(raw: RawClient, response_id: str) -> tuple[int, Json]:
    answer = await raw.post(f"/v1/responses/{response_id}/cancel")
    return answer.status, answer.json()


# cancel


async def test_cancel_of_a_queued_response_never_calls_the_backend(
    upstream: NamedUpstream, raw_client: RawMaker
) -> None:
    async with running(config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        quiet = await create(raw, "quiet")
        async with streaming(raw, "streamed", background=True) as stream:
            seen = await read_until(stream, "response.queued")
            for response_id in (quiet["id"], seen[0]["response"]["id"]):
                status, response = await cancel(raw, response_id)
                assert (status, response["status"], response["output"]) == (200, "cancelled", [])
            seen += await read_on(stream)
        assert [event["type"] for event in seen] == ["response.created", "response.queued", "response.failed"]
        assert seen[-1]["response"]["status"] == "cancelled"
        after = await create(raw, "after")
        await cluster.start_worker()
        await ended(raw, after["id"])
        assert upstream.calls_of("quiet") == upstream.calls_of("streamed") == []
        assert await check_left(cluster.redis) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_cancel_of_a_running_response(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient, stream: bool
) -> None:
    """The backend is let go within a second, what there is is kept, and the status stays."""
    upstream.plan("x", [*words("one ", "two"), hang()])
    if stream:
        async with streaming(raw, "x", background=True) as live:
            seen = await read_until(live, "response.output_text.delta", 2)
            response_id, watch = seen[0]["response"]["id"], Watch()
            status, response = await cancel(raw, response_id)
            await upstream.given_up("x")
            assert watch.seconds < 1
            seen += await read_on(live)
        assert seen[-1]["type"] == "response.failed"
        assert seen[-1]["response"] == response
        assert (text_of(response), response["output"][0]["status"]) == ("one two", "incomplete")
    else:
        response_id = (await create(raw, "x"))["id"]
        await upstream.arrived("x")
        watch = Watch()
        status, response = await cancel(raw, response_id)
        await upstream.given_up("x")
        assert watch.seconds < 1
    assert (status, response["status"]) == (200, "cancelled")
    assert await cancel(raw, response_id) == (200, response)
    assert await get(raw, response_id) == response
    assert await check_left(cluster.redis) == 1


async def test_a_cancel_that_the_worker_never_heard_of(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient
) -> None:
    """The call was lost, and the worker is silent: the front end settles in its place within some seconds."""
    upstream.plan("x", [*words("one"), hang()])
    async with streaming(raw, "x", background=True) as stream:
        seen = await read_until(stream, "response.output_text.delta")
        response_id = seen[0]["response"]["id"]
        owner = await cluster.redis.hget(f"{PREFIX}r:{response_id}", "owner")
        cluster.workers[0].child.send_signal(19)  # SIGSTOP
        try:
            watch = Watch()
            status, response = await cancel(raw, response_id)
        finally:
            cluster.workers[0].child.send_signal(18)  # SIGCONT
        assert owner
        assert watch.seconds < 2.5
        assert (status, response["status"], text_of(response)) == (200, "cancelled", "one")
        seen += await read_on(stream)
    assert seen[-1]["response"] == response
    await upstream.given_up("x")
    assert await get(raw, response_id) == response
    assert await check_left(cluster.redis) == 1


async def test_cancel_against_finish(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """Exactly one of them wins, everybody is told the same, and it never changes."""
    chance = random.Random(1)
    outcomes = []
    for start in range(0, RACES, 25):
        rounds = (_cancel_or_finish(upstream, raw, f"r{number}", chance) for number in range(start, start + 25))
        outcomes += await asyncio.gather(*rounds)
    assert await check_left(cluster.redis) == RACES
    assert 5 <= outcomes.count("cancelled") <= RACES - 5  # a race that only one side wins is none


async def _cancel_or_finish(upstream: NamedUpstream, raw: RawClient, name: str, chance: random.Random) -> str:
    gate = asyncio.Event()
    upstream.plan(name, [*words("one "), *then(gate, "two")])
    stream, wait_s = chance.random() < 0.5, chance.uniform(-0.004, 0.012)
    made = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(_read(raw, name, made) if stream else _create(raw, name, made))
    response_id = await made
    await upstream.arrived(name)
    asyncio.get_running_loop().call_later(max(0.0, wait_s), gate.set)
    if wait_s < 0:
        await asyncio.sleep(-wait_s)  # the moments of the two are what is tried out
    status, answer = await cancel(raw, response_id)
    events = await reading
    final = await ended(raw, response_id)
    if status == 200:
        assert answer == final
        assert final["status"] == "cancelled"
    else:
        assert (status, final["status"]) == (400, "completed")
        assert text_of(final) == "one two"
    if stream:
        assert events[-1]["response"] == final
        assert (await resume(raw, response_id, events[-1]["sequence_number"] - 1))[-1]["response"] == final
    return final["status"]


async def _read(raw: RawClient, name: str, made: "asyncio.Future[str]") -> list[Json]:
    async with streaming(raw, name, background=True) as stream:
        seen = await read_until(stream, "response.created")
        made.set_result(seen[0]["response"]["id"])
        return [*seen, *await read_on(stream)]


async def _create(raw: RawClient, name: str, made: "asyncio.Future[str]") -> list[Json]:
    made.set_result((await create(raw, name))["id"])
    return []


async def test_cancel_in_the_claim_window(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """Right behind the create call, while a worker may be taking it."""

    async def one(name: str) -> None:
        response = await create(raw, f"{name} words=3 hold")
        status, answer = await cancel(raw, response["id"])
        assert (status, answer["status"]) == (200, "cancelled")
        assert await get(raw, response["id"]) == answer

    for start in range(0, RACES, 20):
        await asyncio.gather(*(one(f"r{number}") for number in range(start, start + 20)))
    async with asyncio.timeout(WAIT_S):
        for call in upstream.calls:  # of those that a worker was quicker to take
            await call.over.wait()
    assert {call.outcome for call in upstream.calls} <= {"disconnected"}
    assert await check_left(cluster.redis) == RACES


async def test_cancel_twice_at_once(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    upstream.plan("x", [*words("one"), hang()])
    response = await create(raw, "x")
    await upstream.arrived("x")
    answers = await asyncio.gather(*(cancel(raw, response["id"]) for _ in range(10)))
    assert {status for status, _ in answers} == {200}
    assert all(answer == answers[0][1] for _, answer in answers)


# hang-ups


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_foreground_hang_up_cancels(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient, stream: bool, store: bool
) -> None:
    upstream.plan("x", [*words("one"), hang()])
    if stream:
        async with streaming(raw, "x", store=store) as live:
            await read_until(live, "response.output_text.delta")
    else:
        call = asyncio.create_task(raw.post("/v1/responses", json={"model": "tiny", "input": "x", "store": store}))
        await upstream.arrived("x")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    watch = Watch()
    await upstream.given_up("x")
    assert watch.seconds < 1
    await cluster.workers[0].logged("response.settled", status="cancelled")
    assert await check_left(cluster.redis) == 1


async def test_a_hang_up_in_the_queue_never_calls_the_backend(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    async with running(config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "x") as live:
            await read_until(live, "response.created")
        await cluster.front_ends[0].logged("request.served", status=499)
        response = await create(raw, "after")
        await cluster.start_worker()
        await ended(raw, response["id"])
        assert upstream.calls_of("x") == []


async def test_a_background_hang_up_changes_nothing(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with streaming(raw, "x", background=True) as live:
        seen = await read_until(live, "response.output_text.delta")
    await cluster.front_ends[0].logged("request.served", status=499)
    gate.set()
    final = await ended(raw, seen[0]["response"]["id"])
    assert (final["status"], text_of(final)) == ("completed", "one two")
    assert await check_left(cluster.redis) == 1
