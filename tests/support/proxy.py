"""A TCP proxy in front of a server on a Unix socket or port, which holds, delays or refuses what goes through it.

    async with Proxy(str(cluster.socket)) as proxy:
        await cluster.start_worker(REDIS_URL=proxy.redis_url)
        proxy.hold()        # blackholed: nothing arrives on either side; what was sent meanwhile arrives late
        proxy.delay(0.3)    # every read takes so many seconds longer
        proxy.refuse()      # connections are cut, new ones are closed at once
        proxy.heal()

`held`, `delayed` and `refused` count what each fault has met, so that a test can show that it hit.
"""

import asyncio
import contextlib
from typing import Self

PIECE_BYTES = 64 << 10


class Proxy:
    """Listens on a free loopback port. *target* is a path or (host, port)."""

    def __init__(self, target: str | tuple[str, int]) -> None:
        self.held = self.delayed = self.refused = self.accepted = 0
        self._target = target
        self._delay_s = 0.0
        self._refusing = False
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

    def heal(self) -> None:
        """Let everything through again, first of all what was held."""
        self._open.set()
        self._delay_s = 0.0
        self._refusing = False

    def cut(self) -> int:
        """Cut every connection. Returns how many there were."""
        for writer in self._writers:
            writer.transport.abort()
        return len(self._writers)

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
            pumps = [
                asyncio.create_task(self._pump(reader, back_writer)),
                asyncio.create_task(self._pump(back_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            back_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                if not self._open.is_set():
                    self.held += 1
                    await self._open.wait()
                if self._delay_s:
                    self.delayed += 1
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
