"""Lost connections are repeated within the budget, whatever the event loop makes of them."""

import asyncio

import pytest
import uvloop

from shared.errors import StoreUnavailable
from shared.store.redis import within

BUDGET_S = 0.2


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
async def test_a_write_on_a_closed_connection_is_a_lost_one(run: object) -> None:
    """uvloop raises a RuntimeError there, which once ended a worker in its wait for the bell."""

    async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def main() -> int:
        server = await asyncio.start_server(closes, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
        await writer.wait_closed()
        tries = 0

        async def attempt() -> None:
            nonlocal tries
            tries += 1
            writer.writelines([b"PING\r\n"])
            await writer.drain()  # where asyncio's own loop says it

        try:
            with pytest.raises(StoreUnavailable):
                await within(attempt, BUDGET_S)
        finally:
            server.close()
        return tries

    assert await asyncio.to_thread(run, main()) > 1
