"""One attempt to deliver a webhook over HTTP: signed, bounded, and never to an address that the operator has not meant.

The address is checked where the connection is made, on what the name was resolved to: neither a name that changes its mind
nor a redirect (none is followed) leads into the own network.
"""

import asyncio
import errno
import functools
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import Webhook as Signer

from shared.config import MAX_WEBHOOKS
from shared.core.webhooks import ACKNOWLEDGED, is_public
from shared.settings import Secret, Webhook

FORBIDDEN = "the address is of a private network; set allow_private = true if that is meant"


def sign(secrets: Sequence[Secret], event_id: str, body: bytes, at: datetime) -> dict[str, str]:
    """The headers of one attempt, made at *at* (UTC): receivers refuse what was signed minutes ago. Each secret signs."""
    text = body.decode()
    signatures = [Signer(secret.reveal()).sign(event_id, at, text) for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _public_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, place = address
    if not is_public(str(place[0])):
        raise OSError(errno.EACCES, FORBIDDEN)
    return socket.socket(family, kind, protocol)


class _Names(AbstractResolver):
    """Looks names up as the system does, in threads of its own: where a name server is silent for long, neither the names of
    backends wait for that nor, as one name takes one thread, other receivers."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_WEBHOOKS, thread_name_prefix="receivers")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        kind, flags = socket.SOCK_STREAM, socket.AI_ADDRCONFIG
        look = functools.partial(socket.getaddrinfo, host, port, family, kind, flags=flags)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        return [
            ResolveResult(
                hostname=host,
                host=f"{place[0]}%{place[3]}" if len(place) == 4 and place[3] else str(place[0]),
                port=port,
                family=each,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for each, _, protocol, _, place in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Sender:
    """To be opened and closed. Each attempt has a connection of its own."""

    async def __aenter__(self) -> Self:
        self._open = AsyncExitStack()
        names = _Names()
        self._open.push_async_callback(names.close)
        self._anywhere = await self._open.enter_async_context(_session(resolver=names))
        self._public = await self._open.enter_async_context(_session(resolver=names, socket_factory=_public_socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def post(self, hook: Webhook, headers: Mapping[str, str], body: bytes) -> str:
        """Empty when the receiver has acknowledged, else why not. What it says beside its status is not read."""
        session = self._anywhere if hook.allow_private else self._public
        try:
            async with asyncio.timeout(hook.timeout_s):
                async with session.post(hook.url, data=body, headers=headers, allow_redirects=False) as reply:
                    status = reply.status
                    reply.close()
        except TimeoutError:
            return f"no acknowledgement within {hook.timeout_s:g} s"
        except aiohttp.ClientConnectorCertificateError:
            return "the certificate does not vouch for the host"
        except aiohttp.ClientConnectorError as error:
            return f"no connection: {error.os_error.strerror or 'refused'}"
        except (
            aiohttp.ClientError,
            OSError,
            RuntimeError,
        ) as error:  # uvloop raises all; their texts may hold the address
            return f"no answer: {type(error).__name__}"
        return "" if status in ACKNOWLEDGED else f"status {status}"


def _session(**connector: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0, **connector),
        timeout=aiohttp.ClientTimeout(total=None),  # the caller's is one for everything
        headers={"User-Agent": "respool", "Content-Type": "application/json"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )
