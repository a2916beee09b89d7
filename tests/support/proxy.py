"""A TCP proxy in front of a server on a Unix socket or port, which holds, delays or refuses what goes through it.

    async with Proxy(str(cluster.socket)) as proxy:     # or (host, port)
        await cluster.start_worker(REDIS_URL=proxy.redis_url)
        proxy.hold()        # blackholed: nothing arrives on either side; what was sent meanwhile arrives late
        proxy.delay(0.3)    # every read takes so many seconds longer
        proxy.refuse()      # connections are cut, new ones are closed at once
        proxy.lose(b"x")    # the next reply that holds x, or that answers a request that holds it, is lost with its connection
        proxy.mute()        # what is published vanishes on its way to its subscribers; everything else goes through
        proxy.switch(path)  # to another server; the connections to the old one are cut
        proxy.heal()

`held`, `delayed`, `refused`, `lost` and `muted` count what each fault has met, so that a test can show that it hit.
"""

import asyncio
import contextlib
from typing import Self

PIECE_BYTES = 64 << 10
PUBLISHED = b"*3\r\n$7\r\nmessage\r\n"


class Proxy:
    """Listens on a free loopback port. *target* is a path or (host, port)."""

    def __init__(self, target: str | tuple[str, int]) -> None:
        self.held = self.delayed = self.refused = self.accepted = self.lost = self.muted = 0
        self.was_lost, self.was_muted = asyncio.Event(), asyncio.Event()
        self._target = target
        self._delay_s = 0.0
        self._refusing = self._refuse_then = self._muting = False
        self._marker = b""
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def hold(self) -> None:
        self._open.clear()

    def delay(self, seconds: float) -> None:
        self._delay_s = seconds

    def refuse(self) -> None:
        self._refusing = True
        self.cut()

    def lose(self, marker: bytes, *, then_refuse: bool = False) -> None:
        """Once: the server does what it is asked, and nobody hears of it. With *then_refuse* it is away from then on.
        *marker* must be in one piece of what is sent, as it is when it belongs to one small command."""
        self._marker, self._refuse_then = marker, then_refuse

    def mute(self) -> None:
        self._muting = True

    def switch(self, target: str | tuple[str, int]) -> None:
        self._target = target
        self.cut()

    def heal(self) -> None:
        """Let everything through again, first of all what was held."""
        self._open.set()
        self._delay_s = 0.0
        self._refusing = self._muting = False

    def cut(self) -> int:
        """Cut every connection. Returns how many there were."""
        for writer in self._writers:
            writer.transport.abort()
        return len(self._writers)

    def _lose(self) -> None:
        self._marker = b""
        self.lost += 1
        if self._refuse_then:
            self.refuse()
        self.was_lost.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._refusing:
                self.refused += 1
                writer.transport.abort()
                return
            self.accepted += 1
            self._writers.add(writer)
            with contextlib.suppress(
                OSError, asyncio.CancelledError
            ):  # the streams' own callback logs a cancelled task
                await self._join(reader, writer)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._target, str):
            back_reader, back_writer = await asyncio.open_unix_connection(self._target)
        else:
            back_reader, back_writer = await asyncio.open_connection(*self._target)
        try:
            asked = asyncio.Event()
            pumps = [
                asyncio.create_task(self._pump(reader, back_writer, asked, reply=False)),
                asyncio.create_task(self._pump(back_reader, writer, asked, reply=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            back_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event, *, reply: bool
    ) -> None:
        """One direction. *asked* is set once the marker has gone to the server: then its reply is what is lost."""
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                if reply and self._muting and data.startswith(PUBLISHED):
                    self.muted += 1
                    self.was_muted.set()
                    continue
                marked = bool(self._marker) and self._marker in data
                if reply and (marked or asked.is_set()):
                    self._lose()
                    return
                if marked:
                    self._marker = b""
                    asked.set()
                if not self._open.is_set():
                    self.held += 1
                    await self._open.wait()
                if self._delay_s:
                    self.delayed += 1
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
