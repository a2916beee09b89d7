"""Connections to backends: kept ones for the next request, new ones over TCP or TLS. Certificates are verified; there are no proxies."""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import aiohappyeyeballs

from worker.backends.connection import Connection

ADDRESSES_S = 10.0
"""So long a name is not looked up again."""
NEXT_ADDRESS_S = 0.25
"""When a host has several addresses, the next one is tried besides after so long (RFC 8305)."""
Addresses = list[aiohappyeyeballs.AddrInfoType]


class Origin(NamedTuple):
    tls: bool
    host: str
    port: int


class Unreachable(OSError):
    """No connection could be made."""


class Untrusted(Unreachable):
    """The certificate does not vouch for the host."""


class Pool:
    """As many connections as are needed at once; to be closed."""

    def __init__(self) -> None:
        self._kept: defaultdict[Origin, list[Connection]] = defaultdict(list)
        self._all: set[Connection] = set()
        self._found: dict[tuple[str, int], tuple[float, asyncio.Future[Addresses]]] = {}

    async def close(self) -> None:
        for connection in list(self._all):
            connection.drop()
        await asyncio.sleep(0)  # the loop closes them

    def take(self, origin: Origin) -> Connection | None:
        """The connection that was used last, if there is one."""
        kept = self._kept[origin]
        while kept:
            connection = kept.pop()
            if connection.open:
                return connection
        return None

    async def dial(self, origin: Origin, timeout_s: float) -> Connection:
        """A new connection. Raises ``Unreachable``, and ``TimeoutError`` when it takes longer than *timeout_s*, without the
        look-up of its addresses."""
        connection = Connection(functools.partial(self._keep, origin), functools.partial(self._forget, origin))
        try:
            addresses = await self._look_up(origin.host, origin.port)
            async with asyncio.timeout(timeout_s):
                sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S)
                with _closed_on_failure(sock):
                    await asyncio.get_running_loop().create_connection(
                        lambda: connection, sock=sock, ssl=self._tls if origin.tls else None,
                        server_hostname=origin.host.rstrip(".") if origin.tls else None,
                    )  # fmt: skip
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(str(error)) from error
        except (OSError, RuntimeError) as error:  # uvloop raises both
            raise Unreachable(str(error)) from error
        if not connection.open:
            raise Unreachable("closed as soon as it was made")
        self._all.add(connection)
        return connection

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _look_up(self, host: str, port: int) -> Addresses:
        """All who ask at once wait for one look-up."""
        loop = asyncio.get_running_loop()
        until, found = self._found.get((host, port), (0.0, None))
        if found is None or (found.done() and (until < loop.time() or found.cancelled() or found.exception())):
            found = loop.create_task(_addresses(host, port))
            self._found[host, port] = loop.time() + ADDRESSES_S, found
        return await asyncio.shield(found)

    def _keep(self, origin: Origin, connection: Connection) -> None:
        self._kept[origin].append(connection)

    def _forget(self, origin: Origin, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._kept[origin]:
            self._kept[origin].remove(connection)


async def _addresses(host: str, port: int) -> Addresses:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(found)


@contextlib.contextmanager
def _closed_on_failure(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
