"""Bodies, ids and parents that are odd, too large or too late: a defined answer each, and nobody else pays for it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from fakes.upstream import chunk, hang, reply, send, start
from support.clients import Answer, RawClient
from support.cluster import Cluster, Process, chat_model, running
from support.cluster_thread import ClusterThread
from support.faults import WAIT_S, NamedUpstream, create, ended, read_until, streaming, text_of, until
from support.stored import PREFIX

RawMaker = Callable[[str], RawClient]
LIMIT_BYTES = 1 << 20
PIECE_BYTES = 64 << 10
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service() -> Iterator[ClusterThread]:
    """The only model is `echo`."""
    with ClusterThread(env={"RESPOOL_MAX_BODY_BYTES": str(LIMIT_BYTES)}) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def plain(service: ClusterThread, raw_client: RawMaker) -> RawClient:
    return raw_client(service.origin)


@pytest_asyncio.fixture
async def redis(service: ClusterThread) -> AsyncIterator[Redis]:
    async with Redis.from_url(service.cluster.redis_url) as redis:
        yield redis


# bodies


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Sent in chunks: nothing says beforehand how long it is."""
    for at in range(0, len(body), PIECE_BYTES):
        yield body[at : at + PIECE_BYTES]


def padded(length: int) -> bytes:
    body = json.dumps({"model": "echo", "input": "echo:words=1"}).encode()
    return body + b" " * (length - len(body))


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
@pytest.mark.parametrize(("length", "status"), [(LIMIT_BYTES, 200), (LIMIT_BYTES + 1, 413)])
async def test_a_body_about_the_limit(length: int, status: int, declared: bool, plain: RawClient) -> None:
    """To the byte, whether or not it says its length."""
    body = padded(length)
    answer = await plain.post("/v1/responses", data=BytesIO(body) if declared else in_pieces(body), headers=JSON)
    assert answer.status == status, answer.body
    assert ("error" in answer.json() and answer.json()["error"] is not None) == (status == 413)


@pytest.mark.parametrize("head", [f"Content-Length: {LIMIT_BYTES * 1000}", "Transfer-Encoding: chunked"])
async def test_what_is_far_too_large_is_not_read(head: str, service: ClusterThread) -> None:
    """It is refused when the limit is passed, while nearly all of it is still to come."""
    host, _, port = service.origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST /v1/responses HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
    piece = b" " * PIECE_BYTES
    framed = piece if "Length" in head else f"{PIECE_BYTES:x}\r\n".encode() + piece + b"\r\n"
    for _ in range(LIMIT_BYTES // PIECE_BYTES + 1):
        writer.write(framed)
    async with asyncio.timeout(WAIT_S):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


def cpu_s(process: Process) -> float:
    """What it has used so far. Unlike a clock, this does not go by what else the machine does."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


COSTLY: dict[str, tuple[bytes, float, str | None]] = {
    "a million items": (b'{"model":"echo","input":[' + b"1," * 1_000_000 + b"1]}", 0.3, "array_above_max_length"),
    "deep": (b'{"model":"echo","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0.05, None),
}


@pytest.mark.parametrize("kind", COSTLY)
async def test_what_would_be_costly_to_decode_is_refused_first(kind: str, raw_client: RawMaker) -> None:
    body, most_s, code = COSTLY[kind]
    times = 10
    async with running(workers=0) as cluster:
        front_end = cluster.front_ends[0]
        raw = raw_client(front_end.origin)
        before = cpu_s(front_end)
        for _ in range(times):
            answer = await raw.post("/v1/responses", data=BytesIO(body), headers=JSON)
            assert (answer.status, answer.json()["error"]["code"]) == (400, code)
        used_s = (cpu_s(front_end) - before) / times
        assert used_s < most_s, used_s


ODD: dict[str, tuple[bytes, int, str]] = {
    "the last of two equal keys counts": (b'"input": "one", "input": "two"', 200, "two"),
    "NUL": (b'"input": "a\\u0000b"', 200, "a\0b"),
    "unknown keys": (b'"input": "x", "later": {"a": [1, null]}', 200, "x"),
    "a huge number where nobody looks": (b'"input": "x", "later": 1' + b"0" * 4000, 200, "x"),
    "a huge number where somebody looks": (b'"input": "x", "top_logprobs": 1' + b"0" * 4000, 400, "top_logprobs"),
    "a number that is not whole": (b'"input": "x", "max_output_tokens": 16.5', 400, "max_output_tokens"),
}


@pytest.mark.parametrize("kind", ODD)
async def test_bodies_that_are_odd(kind: str, plain: RawClient) -> None:
    fields, status, said = ODD[kind]
    answer = await plain.post("/v1/responses", data=b'{"model": "echo", ' + fields + b"}", headers=JSON)
    assert answer.status == status, answer.body
    assert said in (text_of(answer.json()) if status == 200 else str(answer.json()["error"]["param"]))


# ids


@pytest.mark.parametrize(
    "odd", ["*", "resp_*", "%7B00%7D", "x%0Ars:", "%0D%0ADEL%20x", "%00", "..%2F..%2Fhealthz", "%C3%28", "resp_" + "a" * 5000]
)  # fmt: skip
async def test_ids_that_could_mean_more(odd: str, plain: RawClient, redis: Redis) -> None:
    """They are names of nothing: no pattern, no second command, no other path."""
    made = (await plain.post("/v1/responses", json={"model": "echo", "input": "echo:words=1"})).json()
    before = set(await redis.keys(f"{PREFIX}*"))
    answers = [
        await plain.get(f"/v1/responses/{odd}"),
        await plain.get(f"/v1/responses/{odd}?stream=true"),
        await plain.get(f"/v1/responses/{odd}/input_items"),
        await plain.post(f"/v1/responses/{odd}/cancel"),
        await plain.delete(f"/v1/responses/{odd}"),
    ]
    for answer in answers:
        assert answer.status == 404, answer.body
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert set(await redis.keys(f"{PREFIX}*")) == before
    assert (await plain.get(f"/v1/responses/{made['id']}")).json() == made


# parents


async def going_on(raw: RawClient, parent: str) -> Answer:
    body = {"model": "tiny", "input": "go on", "previous_response_id": parent}
    return await raw.post("/v1/responses", json=body)


async def test_parents_that_ended_otherwise_can_be_continued(
    upstream: NamedUpstream, cluster: Cluster, raw: RawClient
) -> None:
    """Failed, incomplete and cancelled ones: what they had said is part of the next turn."""
    upstream.plan("failed", [start(), send(chunk("half "))])
    upstream.plan("incomplete", [reply("cut ", finish="length")])
    upstream.plan("cancelled", [start(), send(chunk("begun ")), hang()])
    said = {"failed": "half ", "incomplete": "cut ", "cancelled": "begun "}
    for status, text in said.items():
        async with streaming(raw, status, background=True) as stream:
            seen = await read_until(stream, "response.output_text.delta")
            response_id = seen[0]["response"]["id"]
            if status == "cancelled":
                assert (await raw.post(f"/v1/responses/{response_id}/cancel")).status == 200
        assert (await ended(raw, response_id))["status"] == status
        answer = await going_on(raw, response_id)
        assert (answer.status, answer.json()["status"]) == (200, "completed")
        messages: list[dict[str, Any]] = upstream.calls_of("go")[-1].body["messages"]
        assert [message["content"] for message in messages] == [status, text, "go on"]


async def test_a_parent_that_has_expired(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    env = {"RESPOOL_RETENTION_S": "1"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        parent = await ended(raw, (await create(raw, "parent"))["id"])

        async def expired() -> bool:
            return (await raw.get(f"/v1/responses/{parent['id']}")).status == 404

        await until(expired)
        answer = await going_on(raw, parent["id"])
    assert (answer.status, answer.json()["error"]["code"]) == (400, "previous_response_not_found")
    assert answer.json()["error"]["param"] == "previous_response_id"
