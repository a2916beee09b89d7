"""Long polls, and what an answer tells about when to ask again."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from fakes.upstream import FakeUpstream, chunk, hang, reply, send, wait
from support.clients import Answer, RawClient
from support.cluster import chat_model, running
from support.cluster_thread import ClusterThread

AFTER, POSITION = "openai-poll-after-ms", "x-respool-queue-position"
LONG = 30


async def start(raw: RawClient, **more: Any) -> str:
    answer = await raw.post("/v1/responses", json={"model": "tiny", "input": "hi", "background": True, **more})
    assert answer.status == 200, answer.body
    if more.get("stream"):
        return answer.body.partition(b'"id":"')[2].partition(b'"')[0].decode()
    assert int(answer.headers[AFTER]) > 0
    return str(answer.json()["id"])


def poll(raw: RawClient, response_id: str, wait_s: object) -> "asyncio.Task[Answer]":
    return asyncio.create_task(raw.get(f"/v1/responses/{response_id}?wait={wait_s}"))


async def test_it_returns_when_the_status_changes(
    raw: RawClient, upstream: FakeUpstream, service: ClusterThread
) -> None:
    gate = asyncio.Event()
    upstream.queue(send(chunk("Once ")), wait(gate), reply("more."))
    response_id = await start(raw)
    await upstream.called()
    polls = [poll(raw, response_id, LONG) for _ in range(3)]
    done, _ = await asyncio.wait(polls, timeout=0.3)
    assert not done
    gate.set()
    answers = await asyncio.gather(*polls)
    assert {answer.json()["status"] for answer in answers} == {"completed"}
    assert len({answer.body for answer in answers}) == 1
    assert AFTER not in answers[0].headers
    assert answers[0].headers["cache-control"] == "no-store"


async def test_it_returns_when_the_time_is_over(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(hang())
    response_id = await start(raw)
    await upstream.called()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    answer = await poll(raw, response_id, 0.4)
    assert 0.4 <= loop.time() - begun < 4
    assert answer.json()["status"] == "in_progress"
    assert int(answer.headers[AFTER]) > 0
    assert POSITION not in answer.headers
    await raw.post(f"/v1/responses/{response_id}/cancel")


async def test_one_that_has_ended_is_told_at_once(raw: RawClient, service: ClusterThread) -> None:
    response_id = await start(raw, model="echo")
    await service.settled(response_id)
    async with asyncio.timeout(5):
        assert (await poll(raw, response_id, LONG)).json()["status"] == "completed"


async def test_a_cancel_ends_it(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(hang())
    response_id = await start(raw)
    await upstream.called()
    waiting = poll(raw, response_id, LONG)
    await asyncio.wait([waiting], timeout=0.1)
    assert (await raw.post(f"/v1/responses/{response_id}/cancel")).status == 200
    async with asyncio.timeout(5):
        assert (await waiting).json()["status"] == "cancelled"


async def test_a_delete_ends_it(raw: RawClient, service: ClusterThread) -> None:
    response_id = await start(raw, model="echo")
    await service.settled(response_id)
    await raw.delete(f"/v1/responses/{response_id}")
    assert (await poll(raw, response_id, LONG)).status == 404


@pytest.mark.parametrize("text", ["-1", "61", "x", "1e1", "nan", "60.5", "1" * 30])
async def test_bad_waits_are_refused(text: str, raw: RawClient) -> None:
    answer = await raw.get(f"/v1/responses/resp_x?wait={text}")
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "invalid_value", "wait")


@pytest.mark.parametrize("stream", [True, False])
async def test_from_queued_to_running_on_another_front_end(
    stream: bool, upstream: FakeUpstream, raw_client: Callable[..., RawClient]
) -> None:
    """With its place in the queue, and told by the hub: not by asking again."""
    upstream.queue(hang())
    async with running(front_ends=2, workers=0, config=chat_model(upstream.base_url, "tiny")) as cluster:
        here, there = (raw_client(each.origin) for each in cluster.front_ends)
        first = await start(here)
        if stream:
            second = await stream_id(here)
        else:
            second = await start(here)
        shown = [await there.get(f"/v1/responses/{each}") for each in (first, second)]
        assert [answer.headers[POSITION] for answer in shown] == ["1", "2"]
        waiting = poll(there, second, LONG)
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        await there.post(f"/v1/responses/{first}/cancel")
        assert (await there.get(f"/v1/responses/{second}")).headers[POSITION] == "1"
        await cluster.start_worker()
        async with asyncio.timeout(4):  # sooner than the look after silence
            answer = await waiting
        assert answer.json()["status"] == "in_progress"
        assert POSITION not in answer.headers
        waiting = poll(there, second, LONG)
        await asyncio.wait([waiting], timeout=0.2)
        assert (await here.post(f"/v1/responses/{second}/cancel")).status == 200
        async with asyncio.timeout(4):
            assert (await waiting).json()["status"] == "cancelled"


async def stream_id(raw: RawClient) -> str:
    body = {"model": "tiny", "input": "hi", "background": True, "stream": True}
    async with raw.stream("POST", "/v1/responses", json=body) as stream:
        return str((await anext(stream.events()))["response"]["id"])


async def reads(redis: Any, response_id: str) -> int:
    """How often that response was read, since everything is in Redis' log of slow commands."""
    commands = [entry["command"].split() for entry in await redis.slowlog_get(-1)]
    return sum(words[0] == b"EVALSHA" and words[4:] == [response_id.encode(), b"default", b"1"] for words in commands)


async def test_a_poll_of_a_busy_stream_reads_nothing(
    upstream: FakeUpstream, raw_client: Callable[..., RawClient]
) -> None:
    gates = [asyncio.Event() for _ in range(20)]
    upstream.queue(*(step for n, gate in enumerate(gates) for step in (send(chunk(f"{n} ")), wait(gate))), reply("."))
    async with running(front_ends=2, config=chat_model(upstream.base_url, "tiny")) as cluster:
        here, there = (raw_client(each.origin) for each in cluster.front_ends)
        body = {"model": "tiny", "input": "hi", "background": True, "stream": True}
        async with here.stream("POST", "/v1/responses", json=body) as stream:
            events = stream.events()
            response_id = (await anext(events))["response"]["id"]
            async for event in events:
                if event["type"] == "response.output_text.delta":
                    break
            await cluster.redis.config_set("slowlog-max-len", 100_000)
            await cluster.redis.config_set("slowlog-log-slower-than", 0)
            waiting = poll(there, response_id, LONG)
            async with asyncio.timeout(LONG):
                while await reads(cluster.redis, response_id) < 2:  # noqa: ASYNC110  # Redis' log gives no signal
                    await asyncio.sleep(0.02)
            for gate in gates[:-1]:
                gate.set()
                async for event in events:
                    if event["type"] == "response.output_text.delta":
                        break
            assert not waiting.done()
            assert await reads(cluster.redis, response_id) == 2  # when it began
            gates[-1].set()
            assert (await waiting).json()["status"] == "completed"
            assert await reads(cluster.redis, response_id) == 3
            assert [event async for event in events][-1]["type"] == "response.completed"


async def test_a_stopping_front_end_lets_its_polls_go(raw_client: Callable[..., RawClient]) -> None:
    async with running(workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response_id = await start(raw, model="echo")
        waiting = poll(raw, response_id, LONG)
        await asyncio.wait([waiting], timeout=0.3)
        cluster.front_ends[0].send(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert (await waiting).json()["status"] == "queued"
            assert await cluster.front_ends[0].ended() == 0


async def test_polls_leave_nothing_behind(raw: RawClient, upstream: FakeUpstream, service: ClusterThread) -> None:
    upstream.queue(hang())
    response_id = await start(raw)
    await upstream.called()
    key = f"rs:{{00}}:r:{response_id}"
    async with Redis.from_url(service.cluster.redis_url) as redis:
        left = asyncio.create_task(raw.get(f"/v1/responses/{response_id}?wait={LONG}"))
        async with asyncio.timeout(5):
            while True:
                if await redis.hget(key, "inboxes"):
                    break
                await asyncio.sleep(0.02)  # between two looks
            left.cancel()
            while True:
                if not await redis.hget(key, "inboxes"):
                    break
                await asyncio.sleep(0.02)  # between two looks
    await raw.post(f"/v1/responses/{response_id}/cancel")
