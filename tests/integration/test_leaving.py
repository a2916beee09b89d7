"""Clients that wait for an answer, and no stream, of a front end that is told to stop."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import openai
import pytest

from fakes.upstream import hang
from support.clients import Answer, RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import (
    WAIT_S,
    NamedUpstream,
    Watch,
    check_left,
    ended,
    get,
    read_on,
    read_until,
    streaming,
    text_of,
    then,
    words,
)

RawMaker = Callable[[str], RawClient]
SHORT_DRAIN = {"RESPOOL_DRAIN_S": "1", "RESPOOL_DRAIN_NOTICE_S": "0.1"}
UNSTORED = "It is not stored, so it cannot be polled. Please send the request again."


async def asked(raw: RawClient, text: str, key: str = "", **fields: Any) -> Answer:
    headers = {"Idempotency-Key": key} if key else {}
    return await raw.post("/v1/responses", json={"model": "tiny", "input": text, **fields}, headers=headers)


def told(answer: Answer) -> tuple[str, str]:
    """The id and the message of the 503."""
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["type"]) == (503, "server_is_overloaded", "service_unavailable_error")
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
    return error["message"].split("'")[1], error["message"]


async def heard_by(cluster: Cluster, front_ends: int) -> None:
    """Wait until the only response that runs has so many inboxes on its record."""
    async with asyncio.timeout(WAIT_S):
        (key,) = await cluster.redis.keys("rs:{00}:r:*")
        while True:
            inboxes = await cluster.redis.hget(key, "inboxes")
            if len(inboxes.split()) == front_ends:
                return
            await asyncio.sleep(0.03)  # between two polls


async def test_an_answer_that_comes_while_its_front_end_stops(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    gate = asyncio.Event()
    upstream.plan("x", then(gate, "in time"))
    async with running(config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        call = asyncio.create_task(asked(raw_client(front_end.origin), "x"))
        await upstream.arrived("x")
        front_end.send(signal.SIGTERM)
        await front_end.logged("process.draining")
        gate.set()
        answer = await call
        assert (answer.status, text_of(answer.json())) == (200, "in time")
        assert await front_end.ended() == 0


async def test_an_answer_that_does_not_come_before_everything_stops(
    upstream: NamedUpstream, raw_client: RawMaker
) -> None:
    """As `respool up` stops: the worker gives the response back, and the client is told how to get it; so is who has asked
    for the same by its key. It runs when there is a worker again."""
    gate = asyncio.Event()
    upstream.plan("x", [hang()], then(gate, "late"))
    async with running(env=SHORT_DRAIN, config=chat_model(upstream.base_url), front_ends=2) as cluster:
        (front_end, other), (worker,) = cluster.front_ends, cluster.workers
        call = asyncio.create_task(asked(raw_client(front_end.origin), "x", "key"))
        await upstream.arrived("x")
        joined = asyncio.create_task(asked(raw_client(other.origin), "x", "key"))
        await heard_by(cluster, 2)
        for process in (front_end, other, worker):
            process.send(signal.SIGTERM)
        response_id, message = told(await call)
        assert told(await joined) == (response_id, message)
        assert f"poll GET /v1/responses/{response_id} for its answer" in message
        assert [await process.ended() for process in (front_end, other, worker)] == [0] * 3
        assert worker.find("response.released")
        raw = raw_client((await cluster.start_front_end()).origin)
        assert (await get(raw, response_id))["status"] == "in_progress"  # it has run before
        gate.set()
        await cluster.start_worker()
        response = await ended(raw, response_id)
        assert (text_of(response), response["status"]) == ("late", "completed")
        assert (await asked(raw, "x", "key")).json() == response
        assert await check_left(cluster.redis) == 1


async def test_an_answer_that_goes_on_elsewhere(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Only the front end stops: what is stored, or has a key, runs on without a break."""
    gate = asyncio.Event()
    upstream.plan("stored", then(gate, "late"))
    upstream.plan("keyed", then(gate, "late"))
    async with running(env=SHORT_DRAIN, config=chat_model(upstream.base_url), front_ends=2) as cluster:
        stopping, other = cluster.front_ends
        stored = asyncio.create_task(asked(raw_client(stopping.origin), "stored"))
        keyed = asyncio.create_task(asked(raw_client(stopping.origin), "keyed", "key", store=False))
        await upstream.arrived("stored")
        await upstream.arrived("keyed")
        stopping.send(signal.SIGTERM)
        response_id, _ = told(await stored)
        _, message = told(await keyed)
        assert message.endswith(UNSTORED)
        assert await stopping.ended() == 0
        assert ((await stored).headers.get("x-should-retry"), (await keyed).headers.get("x-should-retry")) == (
            "false",
            None,
        )
        gate.set()
        raw = raw_client(other.origin)
        assert text_of(await ended(raw, response_id)) == "late"
        assert text_of((await asked(raw, "keyed", "key", store=False)).json()) == "late"
        assert [call.outcome for name in ("stored", "keyed") for call in upstream.calls_of(name)] == ["ended"] * 2


async def test_the_official_client_does_not_run_it_twice(
    upstream: NamedUpstream, openai_client: Callable[..., openai.AsyncOpenAI], raw_client: RawMaker
) -> None:
    """It retries what fails with 503, unless it is told not to: then it raises that error, with the id to poll."""
    gate = asyncio.Event()
    upstream.plan("x", then(gate, "late"))
    async with running(env=SHORT_DRAIN, config=chat_model(upstream.base_url), front_ends=2) as cluster:
        stopping, other = cluster.front_ends
        client = openai_client(stopping.origin, max_retries=2)
        call = asyncio.create_task(client.responses.create(model="tiny", input="x"))
        await upstream.arrived("x")
        stopping.send(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError, match="has not ended yet") as caught:
            await call
        gate.set()
        response_id = str(caught.value.body["message"]).split("'")[1]  # type: ignore[index]  # the error of the envelope
        assert text_of(await ended(raw_client(other.origin), response_id)) == "late"
        assert len(upstream.calls_of("x")) == 1


async def test_an_answer_that_nobody_could_get_any_more_is_cancelled(
    upstream: NamedUpstream, raw_client: RawMaker
) -> None:
    upstream.plan("x", [*words("one"), hang()])
    async with running(env=SHORT_DRAIN, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        call = asyncio.create_task(asked(raw_client(front_end.origin), "x", store=False))
        await upstream.arrived("x")
        front_end.send(signal.SIGTERM)
        _, message = told(await call)
        assert message.endswith(UNSTORED)
        await upstream.given_up("x")
        assert await front_end.ended() == 0


@pytest.mark.parametrize("drain_s", ["0", "3"])
async def test_a_stream_is_cut_when_the_time_is_over(
    upstream: NamedUpstream, raw_client: RawMaker, drain_s: str
) -> None:
    upstream.plan("x", [*words("one"), hang()])
    async with running(env=SHORT_DRAIN | {"RESPOOL_DRAIN_S": drain_s}, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        async with streaming(raw_client(front_end.origin), "x") as stream:
            await read_until(stream, "response.output_text.delta")
            watch = Watch()
            front_end.send(signal.SIGTERM)
            assert await read_on(stream) == []
            assert await front_end.ended() == 0
        assert float(drain_s) <= watch.seconds < float(drain_s) + 2.5
        assert not cluster.workers[0].find("response.settled")  # the client is gone, but did not hang up


async def test_a_stream_that_nobody_could_get_any_more_is_cancelled(
    upstream: NamedUpstream, raw_client: RawMaker
) -> None:
    upstream.plan("x", [*words("one"), hang()])
    async with running(env=SHORT_DRAIN, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        async with streaming(raw_client(front_end.origin), "x", store=False) as stream:
            await read_until(stream, "response.output_text.delta")
            front_end.send(signal.SIGTERM)
            assert await read_on(stream) == []
        await upstream.given_up("x")
        assert await front_end.ended() == 0


async def test_a_body_that_does_not_come_keeps_no_front_end(upstream: NamedUpstream) -> None:
    async with running(env=SHORT_DRAIN | {"RESPOOL_DRAIN_S": "0"}, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        host, port = front_end.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"  # it waits for the body
        writer.write(b'{"model"')
        front_end.send(signal.SIGTERM)
        assert await front_end.ended() == 0  # long before the 60 s of body_timeout_s
        writer.close()


async def test_a_second_signal_tells_those_who_wait(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """Although a stream is still open, which is cut."""
    upstream.plan("x", [hang()])
    upstream.plan("y", [*words("one"), hang()])
    async with running(config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        raw = raw_client(front_end.origin)
        call = asyncio.create_task(asked(raw, "x"))
        await upstream.arrived("x")
        async with streaming(raw, "y") as stream:
            await read_until(stream, "response.output_text.delta")
            front_end.send(signal.SIGTERM)
            await front_end.logged("process.draining")
            watch = Watch()
            front_end.send(signal.SIGTERM)
            response_id, _ = told(await call)
            assert await read_on(stream) == []
            assert await front_end.ended() == 0
        assert watch.seconds < 10  # not the 30 s of drain_s
        raw = raw_client((await cluster.start_front_end()).origin)
        assert (await get(raw, response_id))["status"] == "in_progress"
