"""One front end and one worker for all tests here, with a scriptable model backend that each test has for itself."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator

import openai
import pytest
import pytest_asyncio

from fakes.upstream import FakeUpstream
from support.clients import RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread

MAX_BODY_BYTES = 1 << 20
QUICK = {"RESPOOL_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}


@pytest.fixture(scope="session")
def upstream_socket() -> Iterator[socket.socket]:
    """The address of the model backend: fixed, while the backend behind it is another one for each test."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="session")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    """A front end and a worker. Models: `tiny` and `other/model` (the test's ``upstream``), and `echo`."""
    address = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    other = f'[models."other/model"]\ndialect = "chat"\nbase_url = "{address}"\n'
    with ClusterThread(env=QUICK, config=chat_model(address, "tiny") + other) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def queue_only() -> Iterator[ClusterThread]:
    """A front end without a worker: what it accepts stays queued. The only model is `echo`."""
    with ClusterThread(workers=0) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


@pytest.fixture
def client(service: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    return openai_client(service.origin)


@pytest_asyncio.fixture
async def raw(service: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(service.origin)
