"""Below the API: malformed HTTP, foreign expectations, compressed bodies. The envelope, always, and no secret in a log."""

import asyncio
import gzip
import json
import sys
import zlib
from collections.abc import Callable

import pytest

from support.clients import RawClient
from support.cluster_thread import ClusterThread
from support.contract import check_error_answer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SECRET = b"sk-never-to-be-seen"
HOST = b"Host: x\r\n"
BODY = json.dumps({"model": "echo", "input": "echo:words=2"}).encode()

MALFORMED = {
    "nothing": b"\r\n\r\n\x00\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no path": b"GET\r\n\r\n",
    "odd version": b"GET /v1/models HTTP/9.9x\r\n" + HOST + b"\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "space in a name": b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Bad Name: x\r\n\r\n",
    "control in a value": b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Authorization: Bearer " + SECRET + b"\x01\r\n\r\n",
    "long path": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "long header": b"GET /v1/models HTTP/1.1\r\n" + HOST + b"X: " + SECRET + b"a" * 9000 + b"\r\n\r\n",
    "two lengths": b"POST /v1/responses HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "negative length": b"POST /v1/responses HTTP/1.1\r\n" + HOST + b"Content-Length: -3\r\n\r\nabc",
    "length and chunks": b"POST /v1/responses HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "odd chunk": b"POST /v1/responses HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
}


async def answer_of(origin: str, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what comes back until the server closes the connection."""
    host, _, port = origin.removeprefix("http://").partition(":")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        received = await reader.read()
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_http_gets_the_envelope(sent: bytes, service: ClusterThread) -> None:
    status, headers, body = await answer_of(service.origin, sent)
    assert status == 400
    assert headers["x-request-id"].startswith("req_")
    assert check_error_answer(status, headers, json.loads(body)) == []
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    front_end = service.cluster.front_ends[0]
    line = await service.logged(front_end, "request.malformed", request_id=headers["x-request-id"])
    assert line["level"] == "info"
    assert SECRET.decode() not in body.decode() + str(front_end.lines) + str(front_end.text)


async def test_a_foreign_expectation_gets_the_envelope(service: ClusterThread) -> None:
    sent = b"POST /v1/responses HTTP/1.1\r\n" + HOST + b"Expect: a-miracle\r\nContent-Length: 2\r\n\r\n{}"
    status, headers, body = await answer_of(service.origin, sent)
    assert status == 417
    assert check_error_answer(status, headers, json.loads(body)) == []
    assert headers["x-request-id"].startswith("req_")


async def test_clients_may_ask_before_they_send_a_body(raw: RawClient) -> None:
    answer = await raw.post("/v1/responses", data=BODY, expect100=True)
    assert answer.json()["status"] == "completed"


@pytest.mark.parametrize("asks", [b"", b"Expect: 100-continue\r\n"])
async def test_a_body_that_will_be_too_large_is_refused_before_it_comes(asks: bytes, service: ClusterThread) -> None:
    host, _, port = service.origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/responses HTTP/1.1\r\n" + HOST + asks + b"Content-Length: 999999999999\r\n\r\n")
    async with asyncio.timeout(5):  # less than anybody waits for a body, or for its end
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ") for line in lines if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
    writer.close()
    assert (first.split()[1], headers["connection"]) == ("413", "close")
    assert check_error_answer(413, headers, body) == []


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "ZSTD": zstd.compress,
}


@pytest.mark.parametrize("encoding", PACKED)
async def test_packed_bodies_are_taken(encoding: str, raw: RawClient) -> None:
    answer = await raw.post("/v1/responses", data=PACKED[encoding](BODY), headers={"Content-Encoding": encoding})
    assert answer.status == 200
    assert answer.json()["output"][0]["content"][0]["text"] == "w0 w1 "


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", BODY, 415),
        ("gzip, zstd", BODY, 415),
        ("zstd", BODY, 415),
        ("gzip", zstd.compress(BODY), 415),
        ("zstd", zstd.compress(b" " * (1 << 21) + BODY), 413),
        ("zstd", zstd.compress(b"{"), 400),
    ],
)
async def test_what_is_wrong_with_a_packed_body_is_told(
    encoding: str, body: bytes, status: int, raw: RawClient
) -> None:
    answer = await raw.post("/v1/responses", data=body, headers={"Content-Encoding": encoding})
    assert answer.status == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
