"""How a response ends when its backend does what it should not: seen by a client, on a front end and a worker."""

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from fakes.upstream import (
    DONE,
    FakeUpstream,
    Script,
    Step,
    call_delta,
    chunk,
    close,
    end,
    hang,
    recut,
    reply,
    send,
    start,
    status,
    usage,
)
from support.clients import RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread
from support.faults import create, ended, streaming, text_of
from support.schemas import Json
from support.stored import PREFIX

KEY = "sk-never-to-be-seen"
HASTY = {"first_byte_timeout_s": 1.0, "idle_timeout_s": 1.0}
RawMaker = Callable[[str], RawClient]


@pytest.fixture(scope="module")
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of the backend, and of one where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield listening, closed


@pytest.fixture(scope="module")
def service(sockets: tuple[socket.socket, socket.socket]) -> Iterator[ClusterThread]:
    """Models: `tiny`, `hasty` (short timers), `closed` (nobody listens), and `calm` and `tired`, whose backend may ask for
    time without an effect on the others."""
    backend, closed = (f"http://127.0.0.1:{each.getsockname()[1]}/v1" for each in sockets)
    rows = [chat_model(backend, "tiny", key_env="BACKEND_KEY")]
    for name, address in (("hasty", backend), ("closed", closed)):
        timers = "\n".join(f"{timer} = {value}" for timer, value in HASTY.items())
        rows.append(f'[models.{name}]\ndialect = "chat"\nbase_url = "{address}"\n{timers}\n')
    rows += [f'[models.{name}]\ndialect = "chat"\nbase_url = "{backend}"\n' for name in ("calm", "tired")]
    with ClusterThread(env={"BACKEND_KEY": KEY}, config="".join(rows)) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, sockets: tuple[socket.socket, socket.socket]) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=sockets[0].dup()) as backend:
        yield backend


@pytest_asyncio.fixture
async def raw(service: ClusterThread, raw_client: RawMaker) -> RawClient:
    return raw_client(service.origin)


async def made(raw: RawClient, **fields: Any) -> Json:
    return await ended(raw, (await create(raw, "r", **fields))["id"])


async def streamed(raw: RawClient, **fields: Any) -> tuple[list[Json], Json]:
    """The events, and the response that the last one holds."""
    async with streaming(raw, "r", **fields) as stream:
        events = [event async for event in stream.events()]
    return events, events[-1]["response"]


async def test_a_backend_that_nobody_runs(service: ClusterThread, raw: RawClient) -> None:
    response = await made(raw, model="closed")
    assert response["status"] == "failed"
    assert response["error"] == {
        "code": "server_error",
        "message": "The backend cannot be reached.",
        "type": "server_error",
        "param": None,
    }
    worker = service.cluster.workers[0]
    await service.logged(worker, "upstream.failed", response_id=response["id"], tries=3)
    assert len(worker.find("upstream.retried", response_id=response["id"])) == 2


@pytest.mark.parametrize("code", [408, 429, 500, 503, 529])
async def test_a_failure_that_passes_is_not_seen(code: int, upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.queue(status(code))
    upstream.queue(reply("Hi"))
    _, response = await streamed(raw)
    assert (response["status"], text_of(response)) == ("completed", "Hi")
    assert len(upstream.calls) == 2


@pytest.mark.parametrize(("code", "said"), [(429, "rate_limit_exceeded"), (500, "server_error")])
async def test_a_failure_that_stays_ends_after_three_tries(
    code: int, said: str, upstream: FakeUpstream, raw: RawClient
) -> None:
    upstream.respond = lambda _: [status(code, headers={"Retry-After": "0"})]
    response = await made(raw)
    assert (response["status"], response["error"]["code"]) == ("failed", said)
    assert len(upstream.calls) == 3


async def test_time_that_was_asked_for_is_given(upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.queue(status(429, headers={"Retry-After": "2"}))
    upstream.queue(reply("Hi"))
    assert (await made(raw, model="calm"))["status"] == "completed"
    first, second = upstream.calls
    assert 2.0 <= second.at - first.at < 20.0


async def test_too_much_time_is_not_given_and_holds_no_slot(
    upstream: FakeUpstream, service: ClusterThread, raw: RawClient
) -> None:
    upstream.queue(status(503, headers={"Retry-After": "999999"}))
    response = await create(raw, "r", model="tired")
    await service.logged(service.cluster.workers[0], "response.released", response_id=response["id"])
    async with Redis.from_url(service.cluster.redis_url) as redis:
        seconds, microseconds = await redis.time()
        due_ms = await redis.zscore(f"{PREFIX}live", response["id"])
        assert due_ms is not None
        assert 30 < due_ms / 1000 - seconds - microseconds / 1e6 <= 60
    cancelled = await raw.post(f"/v1/responses/{response['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert len(upstream.calls) == 1


async def test_retry_after_that_means_nothing_is_ignored(upstream: FakeUpstream, raw: RawClient) -> None:
    for junk in ("soon", "-5"):
        upstream.queue(status(503, headers={"Retry-After": junk}))
    upstream.queue(reply("Hi"))
    assert (await made(raw))["status"] == "completed"


OVERFLOW = {"error": {"message": "maximum context length is 8 tokens", "type": "x", "code": "context_length_exceeded"}}


async def test_a_context_that_is_too_long_is_not_sent_again(upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.queue(status(400, OVERFLOW))
    response = await made(raw)
    assert (response["status"], response["error"]["code"]) == ("failed", "invalid_prompt")
    assert "maximum context length is 8 tokens" in response["error"]["message"]
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("code", [401, 403])
async def test_a_key_that_is_refused_is_told_to_nobody(
    code: int, upstream: FakeUpstream, service: ClusterThread, raw: RawClient
) -> None:
    upstream.queue(status(code, {"error": {"message": f"Incorrect API key provided: {KEY}"}}))
    response = await made(raw)
    assert upstream.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert len(upstream.calls) == 1
    await service.settled(response["id"])
    logged = [part for process in service.cluster.processes for part in (*process.lines, *process.text)]
    assert KEY not in json.dumps([response, logged])


@pytest.mark.parametrize("steps", [[hang()], [start(), hang()]], ids=["nothing", "headers only"])
async def test_no_first_byte_is_tried_once_more(steps: Script, upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.respond = lambda _: steps
    response = await made(raw, model="hasty")
    assert response["error"] == {
        "code": "server_error",
        "message": "The backend did not answer in time.",
        "type": "server_error",
        "param": None,
    }
    for number in range(2):
        await upstream.disconnected(number)
    assert len(upstream.calls) == 2


CUT: dict[str, tuple[Sequence[Step], str]] = {
    "hangs": ([hang()], "The backend did not answer in time."),
    "closes": ([close()], "The connection to the backend broke."),
    "ends without a word of why": ([end()], "The model backend's stream ended without saying why."),
    "ends in a line": ([send(b'data: {"choices":[{"index":0,"del'), end()], "The model backend's stream ended without saying why."),
    "is no JSON": ([send(b"data: {nonsense\n\n"), hang()], "The model backend sent something that cannot be read."),
}  # fmt: skip


@pytest.mark.parametrize("fault", CUT)
async def test_what_was_shown_is_kept_and_not_made_again(fault: str, upstream: FakeUpstream, raw: RawClient) -> None:
    steps, message = CUT[fault]
    upstream.queue(start(), send(chunk("Hel"), chunk("lo")), *steps)
    events, response = await streamed(raw, model="hasty" if fault == "hangs" else "tiny")
    assert events[-1]["type"] == "response.failed"
    assert response["error"] == {"code": "server_error", "message": message, "type": "server_error", "param": None}
    assert text_of(response) == "Hello"
    assert response["output"][0]["status"] == "incomplete"
    assert text_of((await raw.get(f"/v1/responses/{response['id']}")).json()) == "Hello"
    assert len(upstream.calls) == 1


async def test_characters_in_pieces(upstream: FakeUpstream, raw: RawClient) -> None:
    text = "naïve 日本 👩‍👩‍👧"
    halves = b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'
    other = b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00"}}]}\n\n'
    whole = send(chunk(text)).data + halves + other + send(chunk(finish="stop"), DONE).data
    upstream.queue(start(), *map(send, recut(whole, 1)))
    _, response = await streamed(raw)
    assert (response["status"], text_of(response)) == ("completed", text + "😀")


async def test_a_line_without_end(upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.queue(start(), send(chunk("Hi")), send(b"data: "), *[send(b"x" * (1 << 20))] * 50)
    _, response = await streamed(raw)
    assert response["error"]["message"] == "The backend sent a line that is too long."
    assert text_of(response) == "Hi"
    await upstream.disconnected(0)


async def test_usage_that_is_never_sent(upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.queue(send(chunk("Hi"), chunk(finish="stop"), DONE))
    response = await made(raw)
    assert (response["status"], response["usage"]) == ("completed", None)


ENDS: dict[str, tuple[str, object]] = {
    "length": ("incomplete", {"reason": "max_output_tokens"}),
    "content_filter": ("incomplete", {"reason": "content_filter"}),
    "tool_calls": ("completed", None),
}


@pytest.mark.parametrize("finish", ENDS)
async def test_why_it_stopped(finish: str, upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.queue(reply("Hi", calls=[call_delta(0, call_id="c", name="f", arguments="{}")], finish=finish))
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}]
    response = await made(raw, tools=tools)
    assert (response["status"], response["incomplete_details"]) == ENDS[finish]
    assert [item["type"] for item in response["output"]] == ["message", "function_call"]


async def test_calls_out_of_order_are_told_apart(upstream: FakeUpstream, raw: RawClient) -> None:
    deltas = [
        call_delta(3, call_id="c3", name="f", arguments='{"a":'),
        call_delta(0, call_id="c0", name="f", arguments='{"b":2}'),
        call_delta(0, call_id="c1", name="f", arguments='{"c":3}'),
    ]
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}]
    upstream.respond = lambda _: [reply(calls=deltas)]
    outputs = []
    for _ in range(2):
        response = await made(raw, tools=tools)
        outputs.append([(item["call_id"], item["arguments"]) for item in response["output"]])
    assert outputs[0] == outputs[1] == [("c3", '{"a":'), ("c0", '{"b":2}'), ("c1", '{"c":3}')]


async def test_a_flood_of_tiny_deltas(upstream: FakeUpstream, service: ClusterThread, raw: RawClient) -> None:
    count, step = 100_000, 1_000
    block = send(*[chunk("a")] * step)
    upstream.queue(start(), *[block] * (count // step), send(chunk(finish="stop"), chunk(usage=usage(9, count)), DONE))
    seen, numbers = 0, 0
    async with streaming(raw, "r", stream_options={"include_obfuscation": False}) as stream:
        async for event in stream.events():
            assert event["sequence_number"] == numbers
            numbers += 1
            if event["type"] == "response.output_text.delta":
                seen += len(event["delta"])
    assert event["type"] == "response.completed"
    assert seen == len(text_of(event["response"])) == count
    async with Redis.from_url(service.cluster.redis_url) as redis:
        assert 0 < await redis.xlen(f"{PREFIX}e:{event['response']['id']}") < count / 20  # many in one entry
