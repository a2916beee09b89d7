"""A real HTTP server that receives webhooks and answers as it is told: 200 unless something is planned.

async with Receiver() as receiver:                     # receiver.url
    receiver.plan(Answer(500), Answer(gate=gate))      # the first two attempts
    got = await receiver.received(3)                   # the third one: headers, body, as bytes
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

WAIT_S = 20.0
CHUNK = b"x" * 65536


@dataclass(frozen=True, slots=True)
class Answer:
    """``gate``: not before it is set. ``lost``: the connection is dropped instead. ``size_bytes`` of body follow."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    gate: asyncio.Event | None = None
    lost: bool = False


@dataclass(slots=True)
class Got:
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    sent_bytes: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """It was answered, or the sender has gone."""

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.got: list[Got] = []
        self.usual = Answer()
        self._plans: deque[Answer] = deque()
        self._arrived = asyncio.Condition()

    def plan(self, *answers: Answer) -> None:
        self._plans.extend(answers)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._runner.addresses[0][1]}/hooks?token=in-the-query"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def received(self, count: int = 1, timeout_s: float = WAIT_S) -> Got:
        """The *count*-th attempt, as soon as it is there."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= count)
        return self.got[count - 1]

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        got = Got({name.lower(): value for name, value in request.headers.items()}, await request.read())
        answer = self._plans.popleft() if self._plans else self.usual
        async with self._arrived:
            self.got.append(got)
            self._arrived.notify_all()
        try:
            if answer.gate is not None:
                await answer.gate.wait()
            return await self._answer(request, got, answer)
        finally:
            got.over.set()

    async def _answer(self, request: web.Request, got: Got, answer: Answer) -> web.StreamResponse:
        if answer.lost and request.transport is not None:
            request.transport.abort()
        response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
        await response.prepare(request)
        while got.sent_bytes < answer.size_bytes:
            await response.write(CHUNK)
            got.sent_bytes += len(CHUNK)
        await response.write_eof()
        return response
