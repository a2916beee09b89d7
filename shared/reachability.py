"""Whether backends answer, take our keys and know their models: for `respool check`, and behind the start of `respool up`.
And whether receivers of webhooks can be reached, and may be: for `respool check`."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec

from shared.core.webhooks import is_public
from shared.models import fits
from shared.settings import ModelRow, Webhook

LIMIT_S = 10.0  # for each call
MAX_LIST_BYTES = 8 * 1024 * 1024


class Row(msgspec.Struct, omit_defaults=True):
    """One line of `respool check`. ``lists``: the names that fit the pattern, as the backend has them."""

    part: str
    state: Literal["ok", "warning", "error", "unreachable"]
    message: str
    lists: tuple[str, ...] = ()


class _Named(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Named]


def open_http() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S))


async def reach_all(http: aiohttp.ClientSession, models: Mapping[str, ModelRow]) -> list[Row]:
    """A row for each backend of each model, all asked at once."""
    return await asyncio.gather(
        *(
            reach(http, name, target, several=len(row.targets) > 1)
            for name, row in models.items()
            for target in row.targets
        )
    )


async def reach(http: aiohttp.ClientSession, name: str, row: ModelRow, *, several: bool) -> Row:
    """Ask the backend for its models: is it there, does it take the key, does it know the model?"""
    part = f"models.{name} ({row.backend})" if several else f"models.{name}"
    if row.dialect == "echo":
        return Row(part, "ok", "embedded")
    try:
        status, body = await _list(http, row, row.base_url)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Row(part, "unreachable", f"{row.base_url} does not answer: {str(error) or 'timeout'}")
    if status in (401, 403):
        return Row(part, "error", f"{row.base_url} refuses the key in {row.key_env or '(none: set key_env)'}")
    if status != 200:
        if not row.base_url.endswith("/v1") and await _begins_at(http, row, f"{row.base_url}/v1"):
            return Row(part, "error", f"{row.base_url} is not the whole address: base_url must be {row.base_url}/v1")
        return Row(part, "warning", f"{row.base_url} answers, but GET /models gives {status}: is the path right?")
    wanted = row.model or ("" if "*" in name else name)
    names = _names(body)
    if wanted and names is not None and wanted not in names:
        return Row(part, "warning", f"{row.base_url} does not list a model {wanted}")
    offered = () if row.model or "*" not in name else tuple(each for each in names or () if _is_offered(name, each))
    return Row(part, "ok", row.base_url, offered)


async def _list(http: aiohttp.ClientSession, row: ModelRow, base_url: str) -> tuple[int, bytes]:
    headers = dict(row.headers) | row.quirks.key_header(row.key.reveal() if row.key else None)
    if row.dialect == "anthropic":
        headers["anthropic-version"] = "2023-06-01"
    query = row.quirks.extra_query
    async with http.get(f"{base_url}/models", params=query, headers=headers, allow_redirects=False) as reply:
        body = bytearray()
        while len(body) < MAX_LIST_BYTES and (part := await reply.content.read(MAX_LIST_BYTES - len(body))):
            body += part  # each read gives only what has come by then
        return reply.status, bytes(body)


async def _begins_at(http: aiohttp.ClientSession, row: ModelRow, base_url: str) -> bool:
    """Whether the list of models is there."""
    try:
        status, body = await _list(http, row, base_url)
        return status == 200 and _names(body) is not None
    except (aiohttp.ClientError, TimeoutError):
        return False


def _names(body: bytes) -> list[str] | None:
    """What the answer lists; ``None`` for an answer of another form, which is not judged."""
    try:
        return [named.id for named in msgspec.json.decode(body, type=_List).data]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_offered(pattern: str, name: str) -> bool:
    return name.isprintable() and fits(pattern, name)


async def reach_receiver(hook: Webhook) -> Row:
    """Whether the receiver can be reached, and may be: nothing is sent."""
    part, parts = f"webhooks.{hook.name}", urlsplit(hook.url)
    host, port = parts.hostname or "", parts.port or {"https": 443}.get(parts.scheme, 80)
    try:
        async with asyncio.timeout(LIMIT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = [str(place[0]) for *_, place in found]
            if not (hook.allow_private or any(map(is_public, addresses))):
                remedy = "nothing is sent there; set allow_private = true if that is meant"
                return Row(part, "error", f"{host} is at {addresses[0]}, which is no public address: {remedy}")
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    except OSError as error:  # TimeoutError is one
        return Row(part, "unreachable", f"{hook.place} cannot be reached: {error.strerror or 'timeout'}")
    return Row(part, "ok", hook.place)
