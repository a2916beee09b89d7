"""A client of WebSocket mode on aiohttp: it sorts what comes by response, and holds each stream against the contract."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from support.contract import TERMINAL_EVENTS, StreamChecker
from support.schemas import Json, open_responses

WAIT_S = 20.0
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Socket:
    """One connection. Every message is read by ``next``, which fails on what breaks the contract."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.connection = connection
        self._streams: dict[str, StreamChecker] = {}
        """What runs in each lane."""

    async def send(self, message: Any) -> None:
        await self.connection.send_str(message if isinstance(message, str) else json.dumps(message))

    async def create(self, text: Any = "hi", **fields: Any) -> None:
        await self.send({"type": "response.create", "model": "tiny", "input": text, **fields})

    async def next(self) -> Json:
        """The next event, with its ``stream_id``."""
        message = await self.connection.receive(timeout=WAIT_S)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        event: Json = json.loads(message.data)
        self._check(event)
        return event

    def _check(self, event: Json) -> None:
        if event["type"] == "error":
            assert open_responses().violations("WebSocketErrorEvent", event) == []
            assert set(event["error"]) - {"headers"} == {"type", "code", "message", "param"}
            return
        if event["type"] == "response.steer.failed":
            return
        lane = event.get("stream_id", "")
        bare = {name: value for name, value in event.items() if name != "stream_id"}
        checker = self._streams.setdefault(lane, StreamChecker())
        assert checker.feed(bare) == []
        if event["type"] in TERMINAL_EVENTS:
            assert self._streams.pop(lane).end() == []

    async def until(self, *kinds: str) -> list[Json]:
        """Events up to the first one of these kinds."""
        seen = [await self.next()]
        while seen[-1]["type"] not in kinds:
            seen.append(await self.next())
        return seen

    async def rest(self, stream_id: str = "") -> list[Json]:
        """The events to the end of the next response, or an error, of this lane; those of others are left out."""
        seen: list[Json] = []
        while not seen or seen[-1]["type"] not in {*TERMINAL_EVENTS, "error"}:
            event = await self.next()
            seen += [event] if event.get("stream_id", "") == stream_id else []
        return seen

    async def turn(self, text: Any = "hi", **fields: Any) -> Json:
        """What a turn ends with: the response, or the error event."""
        await self.create(text, **fields)
        last = (await self.rest(fields.get("stream_id", "")))[-1]
        if last["type"] == "error":
            return last
        response: Json = last["response"]
        return response

    async def error(self, text: Any = "hi", **fields: Any) -> tuple[int, str]:
        """The status and the code of a turn that is refused."""
        event = await self.turn(text, **fields)
        assert event.get("type") == "error", event
        return event["status"], event["error"]["code"]

    async def closed(self) -> int | None:
        """The code it is closed with, when nothing else comes before that."""
        message = await self.connection.receive(timeout=WAIT_S)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), message
        return self.connection.close_code


@asynccontextmanager
async def connected(origin: str, *, key: str = "", headers: Mapping[str, str] | None = None) -> AsyncIterator[Socket]:
    """A connection to a front end. Leaving the context closes it, as clients do."""
    sent = {**(headers or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{origin}/v1/responses", headers=sent, max_msg_size=0) as connection,
    ):
        yield Socket(connection)


@asynccontextmanager
async def by_hand(origin: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection whose client does nothing by itself, and has little room for what comes."""
    address = urlsplit(origin)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=connection)
    handshake = "".join(f"{name}: {value}\r\n" for name, value in {"Host": address.netloc, **HANDSHAKE}.items())
    writer.write(f"GET /v1/responses HTTP/1.1\r\n{handshake}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def text_frame(message: Json) -> bytes:
    """A message as a client sends it, behind a mask that changes nothing."""
    text = json.dumps(message).encode()
    return b"\x81\xff" + len(text).to_bytes(8, "big") + bytes(4) + text


async def refused(origin: str, headers: Mapping[str, str]) -> tuple[int, Json]:
    """The status and the error of a handshake that must not succeed."""
    sent = {**HANDSHAKE, **headers}
    async with (
        asyncio.timeout(WAIT_S),
        aiohttp.ClientSession() as session,
        session.get(f"{origin}/v1/responses", headers=sent) as answer,
    ):
        body = await answer.json()
        error: Json = body["error"]
        return answer.status, error
