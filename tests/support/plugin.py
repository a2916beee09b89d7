"""A pytest plugin: every stream and object that a test sees through these clients is checked when the test ends.

    async def test_x(openai_client, raw_client):
        client = openai_client(base_url)      # official client, asynchronous; openai_sync_client likewise
        raw = raw_client(base_url)            # support.clients.RawClient

A violation makes the test fail at its teardown. `@pytest.mark.expects_violation` switches that off for tests whose
server is broken on purpose; they may look at `recorder.violations()` themselves.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import openai
import pytest
import pytest_asyncio

from support.clients import RawClient, RecordingAsyncTransport, RecordingTransport, api_root
from support.recorder import Recorder

SHOWN = 20  # violations named when a test fails
KEY = "test-key"


def pytest_configure(config: pytest.Config) -> None:
    line = "expects_violation: the server of this test breaks the contract on purpose; do not fail the test for it"
    config.addinivalue_line("markers", line)


@pytest.fixture
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Everything that the clients of this test exchange; checked when they are closed."""
    recorder = Recorder()
    yield recorder
    if request.node.get_closest_marker("expects_violation") is None and (found := recorder.violations()):
        more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        pytest.fail("\n".join(["the contract was broken:", *found[:SHOWN], *more]), pytrace=False)


@pytest_asyncio.fixture
async def openai_client(recorder: Recorder) -> AsyncIterator[Callable[..., openai.AsyncOpenAI]]:
    """Make an official asynchronous client: `openai_client(base_url, **options of AsyncOpenAI)`."""
    clients: list[openai.AsyncOpenAI] = []

    def make(base_url: str, **options: Any) -> openai.AsyncOpenAI:
        http = openai.DefaultAsyncHttpxClient(transport=RecordingAsyncTransport(recorder), trust_env=False)
        options = {"api_key": KEY, "max_retries": 0, "timeout": 30.0, **options}
        clients.append(openai.AsyncOpenAI(base_url=api_root(base_url), http_client=http, **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def openai_sync_client(recorder: Recorder) -> Iterator[Callable[..., openai.OpenAI]]:
    """Make an official synchronous client; its server must not live in the event loop of the test."""
    clients: list[openai.OpenAI] = []

    def make(base_url: str, **options: Any) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(transport=RecordingTransport(recorder), trust_env=False)
        options = {"api_key": KEY, "max_retries": 0, "timeout": 30.0, **options}
        clients.append(openai.OpenAI(base_url=api_root(base_url), http_client=http, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest_asyncio.fixture
async def raw_client(recorder: Recorder) -> AsyncIterator[Callable[..., RawClient]]:
    """Make a plain client: `raw_client(base_url, headers=None)`; sends a bearer key unless told otherwise."""
    clients: list[RawClient] = []

    def make(base_url: str, *, headers: Mapping[str, str] | None = None) -> RawClient:
        known = {"Authorization": f"Bearer {KEY}"} if headers is None else headers
        clients.append(RawClient(base_url, recorder, headers=known))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()
