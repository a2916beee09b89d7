"""The proxy's faults, each on a real connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from support.faults import Watch
from support.proxy import Proxy

SILENT_S = 0.2
CUT = (ConnectionError, asyncio.IncompleteReadError)


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy(server.sockets[0].getsockname()[:2]) as proxy:
        yield proxy
    server.close()


async def connected(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_everything_goes_through(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    data = b"x" * 300_000
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    assert (proxy.accepted, proxy.held, proxy.delayed, proxy.refused) == (1, 0, 0, 0)
    writer.close()


async def test_what_is_held_arrives_late(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    proxy.hold()
    writer.write(b"late")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(4), SILENT_S)
    assert proxy.held == 1
    proxy.heal()
    assert await reader.readexactly(4) == b"late"
    writer.close()


async def test_what_is_delayed_takes_longer_both_ways(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    proxy.delay(0.1)
    watch = Watch()
    writer.write(b"slow")
    assert await reader.readexactly(4) == b"slow"
    assert watch.seconds >= 0.2
    assert proxy.delayed == 2
    writer.close()


async def test_connections_are_cut_and_refused(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    writer.write(b"x")
    await reader.readexactly(1)
    proxy.refuse()
    with pytest.raises(CUT):
        await reader.readexactly(1)
    other, refused = await connected(proxy)
    with pytest.raises(CUT):
        await other.readexactly(1)
    assert proxy.refused == 1
    proxy.heal()
    again, third = await connected(proxy)
    third.write(b"y")
    assert await again.readexactly(1) == b"y"
    for each in (writer, refused, third):
        each.close()


async def test_a_reply_is_lost_once_and_what_was_asked_is_done(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    proxy.lose(b"this")
    writer.write(b"that")
    assert await reader.readexactly(4) == b"that"
    writer.write(b"this")
    with pytest.raises(CUT):
        await reader.readexactly(4)
    assert proxy.lost == 1
    again, other = await connected(proxy)
    other.write(b"this")
    assert await again.readexactly(4) == b"this"
    for each in (writer, other):
        each.close()


async def test_after_a_lost_reply_it_can_be_away(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    proxy.lose(b"this", then_refuse=True)
    writer.write(b"this")
    with pytest.raises(CUT):
        await reader.readexactly(4)
    late, refused = await connected(proxy)
    with pytest.raises(CUT):
        await late.readexactly(1)
    assert (proxy.lost, proxy.refused) == (1, 1)
    for each in (writer, refused):
        each.close()
