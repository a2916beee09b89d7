"""A scriptable backend and, for tests that need no more, a cluster with one process of each room."""

from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from support.clients import RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import NamedUpstream


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[NamedUpstream]:
    async with NamedUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture
async def cluster(upstream: NamedUpstream) -> AsyncIterator[Cluster]:
    async with running(config=chat_model(upstream.base_url)) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def raw(cluster: Cluster, raw_client: Callable[[str], RawClient]) -> RawClient:
    return raw_client(cluster.front_ends[0].origin)
