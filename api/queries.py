"""Query parameters, checked by name."""

import re
from collections.abc import Sequence
from typing import get_args

import msgspec
from aiohttp import web

from shared.errors import InvalidRequest, NotFound
from shared.wire.requests import Include
from shared.wire.responses import ItemList

MAX_NUMBER = 2**31 - 1
MAX_WAIT_S = 60
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")
INCLUDES: tuple[str, ...] = get_args(Include)
_TRUE, _FALSE = {"true", "1"}, {"false", "0", ""}


class _Id(msgspec.Struct):
    id: str


_id_of = msgspec.json.Decoder(_Id).decode


def streams(request: web.Request) -> bool:
    value = request.query.get("stream", "").lower()
    if value not in _TRUE | _FALSE:
        raise _invalid("stream", "expected 'true' or 'false'")
    return value in _TRUE


def starting_after_of(request: web.Request) -> int:
    """The number of the last event that the client has; -1 when it has none."""
    value = request.query.get("starting_after")
    return -1 if value is None else _integer("starting_after", value, 0, MAX_NUMBER)


def wait_of(request: web.Request) -> float:
    """``wait``: seconds to hold the answer until the status changes; 0 when it is not asked for."""
    text = request.query.get("wait", "0")
    if not _SECONDS.fullmatch(text) or float(text) > MAX_WAIT_S:
        raise _invalid("wait", f"expected seconds from 0 to {MAX_WAIT_S}")
    return float(text)


def include_of(request: web.Request) -> list[str]:
    """``include``: repeated, as ``include[]``, or as a comma list. Every value must be one that the API knows."""
    given = [*request.query.getall("include", []), *request.query.getall("include[]", [])]
    values = [value for each in given for value in each.split(",") if value]
    for value in values:
        if value not in INCLUDES:
            raise _invalid("include", f"'{value[:80]}' is not one of {', '.join(INCLUDES)}")
    return values


def page_of(items: Sequence[msgspec.Raw], request: web.Request) -> ItemList:
    """One page of *items* (oldest first) as ``limit``, ``order`` and ``after`` ask."""
    limit = _integer("limit", request.query.get("limit", "20"), 1, 100)
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise _invalid("order", "expected 'asc' or 'desc'")
    ids = [_id_of(item).id for item in items]
    rows = list(zip(ids, items, strict=True))
    if order == "desc":
        rows.reverse()
    after = request.query.get("after")
    if after:
        if after not in ids:
            raise NotFound(f"Item with id '{after[:80]}' not found.", param="after")
        rows = rows[[row[0] for row in rows].index(after) + 1 :]
    page = rows[:limit]
    first, last = (page[0][0], page[-1][0]) if page else ("", "")
    return ItemList([row[1] for row in page], first, last, has_more=len(rows) > limit)


def _integer(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high):
        raise _invalid(name, f"expected an integer from {low} to {high}")
    return int(text)


def _invalid(name: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{name}': {expected}.", param=name, code="invalid_value")
