"""What a worker makes of a backend that fails, whatever it speaks: another try while nothing was seen, and none afterwards."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from fakes.upstream import FakeUpstream, Step, close, send, start, status
from support.clients import RawClient
from support.cluster_thread import ClusterThread
from support.contract import check_stream
from support.faults import create, ended, streaming, text_of
from support.schemas import Json
from support.wires import DIALECTS, Dialect, wire

RawMaker = Callable[[str], RawClient]
dialects = pytest.mark.parametrize("dialect", DIALECTS)


@pytest.fixture(scope="module")
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def service(listening: socket.socket) -> Iterator[ClusterThread]:
    """Models: each dialect by its name, and `echo`."""
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    rows = [f'[models.{dialect}]\ndialect = "{dialect}"\nbase_url = "{address}"\n' for dialect in DIALECTS]
    with ClusterThread(config="".join([*rows, '[models.echo]\ndialect = "echo"\n'])) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, listening: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=listening.dup()) as backend:
        yield backend


@pytest_asyncio.fixture
async def raw(service: ClusterThread, raw_client: RawMaker) -> RawClient:
    return raw_client(service.origin)


async def streamed(raw: RawClient, model: str, **fields: Any) -> tuple[list[Json], Json]:
    """The events, and the response that the last one holds."""
    async with streaming(raw, "r", model=model, **fields) as stream:
        events = [event async for event in stream.events()]
    assert check_stream(events) == []
    return events, events[-1]["response"]


BEFORE: dict[str, list[Step]] = {
    "503": [status(503)],
    "reset": [close()],
    "hung up behind the headers": [start(), close()],
    "an empty body": [start()],
    "an error in the stream": [
        send(b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"later"}}\n\n')
    ],
}


@dialects
@pytest.mark.parametrize("how", BEFORE)
async def test_a_failure_before_output_is_tried_again_and_not_seen(
    how: str, dialect: Dialect, upstream: FakeUpstream, raw: RawClient
) -> None:
    upstream.queue(*BEFORE[how])
    upstream.queue(send(*wire(dialect, text=["Hel", "lo"])))
    events, response = await streamed(raw, dialect)
    assert (response["status"], text_of(response)) == ("completed", "Hello")
    assert [event["type"] for event in events].count("response.in_progress") == 1
    assert len(upstream.calls) == 2


@dialects
async def test_a_failure_behind_output_that_nobody_saw_is_tried_again(
    dialect: Dialect, upstream: FakeUpstream, raw: RawClient
) -> None:
    upstream.queue(send(*wire(dialect, text=["Hel"])[:-2]), close())
    upstream.queue(send(*wire(dialect, text=["Hello"])))
    response = await ended(raw, (await create(raw, "r", model=dialect))["id"])
    assert (response["status"], text_of(response)) == ("completed", "Hello")
    assert len(response["output"]) == 1
    assert len(upstream.calls) == 2


@dialects
async def test_a_failure_behind_output_is_the_end(dialect: Dialect, upstream: FakeUpstream, raw: RawClient) -> None:
    upstream.queue(send(*wire(dialect, text=["Hel", "lo"])[:-2]), close())
    _, response = await streamed(raw, dialect)
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert text_of(response).startswith("Hel")
    assert [item["status"] for item in response["output"]] == ["incomplete"]
    assert len(upstream.calls) == 1


async def test_the_echo_model_fails_as_it_is_asked(service: ClusterThread, raw: RawClient) -> None:
    _, response = await streamed(raw, "echo", input="echo:fail")
    assert (response["status"], response["output"]) == ("failed", [])
    _, response = await streamed(raw, "echo", input="echo:break")
    assert (response["status"], text_of(response)) == ("failed", "You ")
