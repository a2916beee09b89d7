"""``Idempotency-Key`` on create: the same key and body is the same response, on any front end, as often as it is sent."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import openai
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from fakes.upstream import FakeUpstream, chunk, hang, reply, send, wait
from support.clients import Answer, RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread

REPLAYED = "x-respool-idempotent-replay"
HI: Mapping[str, Any] = {"model": "tiny", "input": "hi"}
_keys = itertools.count()


@pytest.fixture(scope="module")
def address() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def pair(address: socket.socket) -> Iterator[ClusterThread]:
    """Two front ends, one worker."""
    config = chat_model(f"http://127.0.0.1:{address.getsockname()[1]}/v1", "tiny")
    with ClusterThread(front_ends=2, config=config, env={"RESPOOL_UNSTORED_FOREGROUND_S": "1"}) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(pair: ClusterThread, address: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=address.dup()) as backend:
        yield backend


@pytest_asyncio.fixture
async def first(pair: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(pair.cluster.front_ends[0].origin)


@pytest_asyncio.fixture
async def second(pair: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(pair.cluster.front_ends[1].origin)


@pytest.fixture
def key() -> str:
    return f"key {next(_keys)}"


async def post(client: RawClient, key: str, body: Mapping[str, Any] = HI, **headers: str) -> Answer:
    return await client.post("/v1/responses", json=dict(body), headers={"Idempotency-Key": key, **headers})


def id_of(stream: bytes) -> str:
    created = json.loads(stream.partition(b"data: ")[2].partition(b"\n")[0])
    return str(created["response"]["id"])


@pytest.mark.parametrize("more", [{}, {"store": False}, {"background": True}, {"stream": True},
                                  {"stream": True, "store": False}, {"stream": True, "background": True}], ids=str)  # fmt: skip
async def test_the_same_call_again_is_the_same_response(
    more: dict[str, Any], key: str, first: RawClient, second: RawClient, pair: ClusterThread, upstream: FakeUpstream
) -> None:
    body = {**HI, **more}
    made = await post(first, key, body)
    assert made.status == 200
    assert REPLAYED not in made.headers
    if more == {"background": True}:
        await pair.settled(made.json()["id"])
    for client in (first, second):
        again = await post(client, key, body)
        assert (again.status, again.headers[REPLAYED]) == (200, "true")
        if more == {"background": True}:
            assert (again.json()["id"], again.json()["status"]) == (made.json()["id"], "completed")
        else:
            assert again.body == made.body
    assert len(upstream.calls) == 1


async def test_another_body_is_refused(key: str, first: RawClient, second: RawClient, upstream: FakeUpstream) -> None:
    assert (await post(first, key)).status == 200
    for client in (first, second):
        answer = await post(client, key, {**HI, "input": "ho"})
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["type"]) == (422, "idempotency_key_reused", "invalid_request_error")
        assert (await post(client, key)).headers[REPLAYED] == "true"
    assert len(upstream.calls) == 1


async def test_the_body_is_compared_byte_by_byte(key: str, first: RawClient, upstream: FakeUpstream) -> None:
    headers = {"Idempotency-Key": key}
    assert (await first.post("/v1/responses", data=b'{"model":"tiny","input":"hi"}', headers=headers)).status == 200
    assert (await first.post("/v1/responses", data=b'{"model":"tiny", "input":"hi"}', headers=headers)).status == 422


async def test_while_it_runs_a_foreground_call_waits_for_it(
    key: str, first: RawClient, second: RawClient, upstream: FakeUpstream, pair: ClusterThread
) -> None:
    gate = asyncio.Event()
    upstream.queue(wait(gate), reply("Done."))
    calls = [asyncio.create_task(post(client, key)) for client in (first, second, first, second)]
    await upstream.called()
    done, _ = await asyncio.wait(calls, timeout=0.2)
    assert not done
    gate.set()
    answers = await asyncio.gather(*calls)
    assert len({answer.body for answer in answers}) == 1
    assert [answer.headers.get(REPLAYED) for answer in answers].count("true") == 3
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("background", [True, False])
async def test_while_it_runs_a_stream_is_followed_from_its_start(
    background: bool, key: str, first: RawClient, second: RawClient, upstream: FakeUpstream
) -> None:
    gate = asyncio.Event()
    upstream.queue(send(chunk("Once "), chunk("upon ")), wait(gate), reply("a ", "time."))
    body = {**HI, "stream": True, "background": background}
    headers = {"Idempotency-Key": key}
    async with (
        first.stream("POST", "/v1/responses", json=body, headers=headers) as one,
        second.stream("POST", "/v1/responses", json=body, headers=headers) as two,
    ):
        seen = []
        for stream in (one, two):
            events = stream.events()
            seen.append([await anext(events) for _ in range(6)])
        gate.set()
        for stream, events_so_far in zip((one, two), seen, strict=True):
            events_so_far += [event async for event in stream.events()]
    assert seen[0] == seen[1]
    assert seen[0][-1]["type"] == "response.completed"
    assert len(upstream.calls) == 1


async def test_while_it_runs_a_background_call_tells_how_it_is(
    key: str, first: RawClient, second: RawClient, upstream: FakeUpstream
) -> None:
    upstream.queue(hang())
    body = {**HI, "background": True}
    made = (await post(first, key, body)).json()
    await upstream.called()
    again = await post(second, key, body)
    assert (again.json()["id"], again.json()["status"]) == (made["id"], "in_progress")
    assert again.headers["openai-poll-after-ms"]
    await second.post(f"/v1/responses/{made['id']}/cancel")
    assert (await post(first, key, body)).json()["status"] == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
async def test_fifty_at_once_are_one(
    stream: bool, key: str, first: RawClient, second: RawClient, upstream: FakeUpstream
) -> None:
    body = {**HI, "stream": stream}
    answers = await asyncio.gather(*(post((first, second)[n % 2], key, body) for n in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert [answer.headers.get(REPLAYED) for answer in answers].count("true") == 49
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_does_not_cancel_it(
    stream: bool, key: str, first: RawClient, second: RawClient, pair: ClusterThread, upstream: FakeUpstream
) -> None:
    gate = asyncio.Event()
    upstream.queue(send(chunk("Once ")), wait(gate), reply("more."))
    body = {**HI, "stream": stream}
    call = asyncio.create_task(post(first, key, body, **{"X-Client-Request-Id": key}))
    await upstream.called()
    call.cancel()
    await asyncio.wait([call])
    await pair.logged(pair.cluster.front_ends[0], "request.served", status=499, client_request_id=key)
    gate.set()
    answer = await post(second, key, body)
    assert answer.headers[REPLAYED] == "true"
    assert (await upstream.over()).outcome == "ended"
    assert b"Once more." in answer.body
    assert len(upstream.calls) == 1


async def test_a_key_of_a_response_that_is_gone_is_free(
    key: str, first: RawClient, second: RawClient, upstream: FakeUpstream
) -> None:
    made = (await post(first, key)).json()
    await first.delete(f"/v1/responses/{made['id']}")
    other = await post(second, key, {**HI, "input": "ho"})
    assert other.status == 200
    assert REPLAYED not in other.headers
    assert other.json()["id"] != made["id"]
    assert (await post(first, key)).status == 422


async def test_what_was_refused_takes_no_key(key: str, first: RawClient, upstream: FakeUpstream) -> None:
    assert (await post(first, key, {**HI, "temperature": 9})).status == 400
    assert (await post(first, key, {**HI, "previous_response_id": "resp_x"})).status == 400
    assert (await post(first, key)).status == 200


async def test_it_lives_a_day_at_most_and_holds_no_secret(
    key: str, first: RawClient, pair: ClusterThread, upstream: FakeUpstream
) -> None:
    made = (await post(first, key)).json()
    async with Redis.from_url(pair.cluster.redis_url) as redis:
        values = {name: await redis.get(name) async for name in redis.scan_iter("rs:*:idem:*")}
        (mine,) = [name for name, value in values.items() if value and made["id"].encode() in value]
        assert 86_000 < await redis.ttl(mine) <= 86_400
    assert key.encode() not in mine + values[mine]


async def test_a_turn_is_taken_once(key: str, first: RawClient, second: RawClient, upstream: FakeUpstream) -> None:
    """The context has moved on since the first call: a replay must not be checked against it."""
    made = await first.post("/v1/conversations", json={})
    assert made.status == 200
    conversation = made.json()["id"]
    body = {**HI, "conversation": conversation}
    answers = await asyncio.gather(*(post((first, second)[n % 2], key, body) for n in range(10)))
    assert {answer.status for answer in answers} == {200}, [answer.body for answer in answers]
    assert len({answer.body for answer in answers}) == 1
    items = (await first.get(f"/v1/conversations/{conversation}/items")).json()["data"]
    assert len(items) == 2
    parent = (await post(first, key + " parent")).json()["id"]
    chained = {**HI, "previous_response_id": parent}
    second_turn = await post(first, key + " chained", chained)
    await first.delete(f"/v1/responses/{parent}")
    assert (await post(second, key + " chained", chained)).body == second_turn.body
    assert len(upstream.calls) == 3


@pytest.mark.parametrize("key", ["", "   "])
async def test_an_empty_key_is_none(key: str, first: RawClient, upstream: FakeUpstream) -> None:
    answers = [await post(first, key) for _ in range(2)]
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert not any(REPLAYED in answer.headers for answer in answers)


async def test_a_long_key_is_refused(first: RawClient, upstream: FakeUpstream) -> None:
    assert (await post(first, "k" * 255)).status == 200
    answer = await post(first, "k" * 256)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["type"]) == (400, "string_above_max_length", "invalid_request_error")
    assert "Idempotency-Key" in error["message"]


async def test_the_official_client_may_send_it(
    pair: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI], upstream: FakeUpstream, key: str
) -> None:
    headers = {"Idempotency-Key": key}
    one, two = [openai_client(each.origin) for each in pair.cluster.front_ends]
    made = await one.responses.create(model="tiny", input="hi", extra_headers=headers)
    again = await two.responses.create(model="tiny", input="hi", extra_headers=headers)
    assert again.to_dict() == made.to_dict()
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await two.responses.create(model="tiny", input="ho", extra_headers=headers)
    assert caught.value.code == "idempotency_key_reused"


async def test_another_front_end_can_take_over_for_a_dead_one(
    upstream: FakeUpstream, raw_client: Callable[..., RawClient]
) -> None:
    """The front end that took the call is killed: the client's retry elsewhere finds what it has begun."""
    gate = asyncio.Event()
    upstream.queue(wait(gate), reply("Done."))
    with ClusterThread(front_ends=2, config=chat_model(upstream.base_url, "tiny")) as cluster:
        dying, other = [raw_client(each.origin) for each in cluster.cluster.front_ends]
        call = asyncio.create_task(post(dying, "k"))
        await upstream.called()
        cluster.cluster.front_ends[0].child.kill()
        with pytest.raises(Exception, match=r"."):  # whatever the client says of a lost connection
            await call
        again = asyncio.create_task(post(other, "k"))
        gate.set()
        assert (await again).json()["output"][0]["content"][0]["text"] == "Done."
    assert len(upstream.calls) == 1
