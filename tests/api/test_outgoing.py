"""The way out of a WebSocket: what several lanes write at once comes whole, one message behind the other."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from api.outgoing import Lane, Outgoing
from api.texts import Texts
from shared.core.frames import PING, render
from shared.wire.events import TextDelta

Script = Callable[[Outgoing], Awaitable[None]]


def frame(text: str, number: int = 0) -> bytes:
    return render(TextDelta(number, "msg_x", 0, 0, text, []))


@asynccontextmanager
async def client_of(script: Script) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A client of a server that does what *script* says, then closes."""

    async def serve(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        out = Outgoing(request, socket, 5.0)
        await out.open()
        await script(out)
        await out.close(1012)
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.make_url("/"), max_msg_size=0) as client,
    ):
        yield client


async def read(script: Script) -> list[tuple[str, str]]:
    """Lane and text of what the client gets."""
    async with client_of(script) as client:
        events = [json.loads(message.data) async for message in client]
        assert client.close_code == 1012
    return [(event.get("stream_id", ""), event.get("delta", "")) for event in events]


async def test_nothing_comes_between_the_fragments_of_an_event() -> None:
    async def script(out: Outgoing) -> None:
        a, b = Lane(out, Texts("a")), Lane(out, Texts("b"))
        large = frame("x" * 1000)
        await a.write(large[:500])
        assert not b.push(frame("pushed too early"))
        writing = asyncio.create_task(b.write(frame("waits")))
        saying = asyncio.create_task(out.say(b'{"type":"error"}'))
        await asyncio.sleep(0)
        await a.write(large[500:])
        await asyncio.gather(writing, saying)
        assert b.push(frame("pushed"))
        assert a.push(frame("after"))
        for lane in (a, b):
            lane.leave()

    expected = [("a", "x" * 1000), ("b", "waits"), ("", ""), ("b", "pushed"), ("a", "after")]
    assert await read(script) == expected


async def test_pings_of_a_stream_are_no_messages() -> None:
    async def script(out: Outgoing) -> None:
        lane = Lane(out, Texts())
        for each in (PING, frame("one"), PING, frame("two", 1)):
            await lane.write(each)
        lane.leave()

    assert await read(script) == [("", "one"), ("", "two")]


async def test_what_is_half_out_is_the_end_of_the_connection() -> None:
    failed: list[type[Exception]] = []

    async def script(out: Outgoing) -> None:
        lane = Lane(out, Texts())
        await lane.write(frame("x" * 1000)[:500])
        lane.leave()
        try:
            await out.say(b"{}")
        except ConnectionResetError as error:
            failed.append(type(error))

    async with client_of(script) as client:
        message = await client.receive(timeout=5)
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)
        assert client.close_code == 1006
    assert failed == [ConnectionResetError]
