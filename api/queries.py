"""Query parameters, checked by name. An empty one is as good as absent."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
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
_TRUE, _FALSE = {"true", "1"}, {"false", "0"}


class _Id(msgspec.Struct):
    id: str


_id_of = msgspec.json.Decoder(_Id).decode


def streams(request: web.Request) -> bool:
    _flag(request, "include_obfuscation")  # replays are the same bytes, whatever it says
    return _flag(request, "stream")


def starting_after_of(request: web.Request, *, streaming: bool) -> int:
    """The number of the last event that the client has; -1 when it has none."""
    value = request.query.get("starting_after")
    if not value:
        return -1
    after = _integer("starting_after", value, 0, MAX_NUMBER)
    if not streaming:
        raise _invalid("starting_after", "it is the place in a stream (HINT: add stream=true)")
    return after


def wait_of(request: web.Request, *, streaming: bool) -> float:
    """``wait``: seconds to hold the answer until the status changes; 0 when it is not asked for."""
    text = request.query.get("wait") or "0"
    if not _SECONDS.fullmatch(text) or float(text) > MAX_WAIT_S:
        raise _invalid("wait", f"expected seconds from 0 to {MAX_WAIT_S}")
    if streaming and float(text):
        raise _invalid("wait", "a stream waits by itself (HINT: leave out one of wait and stream)")
    return float(text)


def include_of(request: web.Request) -> list[str]:
    """``include``: repeated, as ``include[]``, or as a comma list. Every value must be one that the API knows."""
    given = [*request.query.getall("include", []), *request.query.getall("include[]", [])]
    values = [value for each in given for value in each.split(",") if value]
    for value in values:
        if value not in INCLUDES:
            raise _invalid("include", f"'{value[:80]}' is not one of {', '.join(INCLUDES)}")
    return values


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list is asked for. ``after`` is the id of the item before it, if it is not the first."""

    limit: int
    newest_first: bool
    after: str

    def cut(self, items: Sequence[msgspec.Raw], *, all_read: bool, deleted: Collection[str] = ()) -> ItemList | None:
        """The page, from the start of the list in its own order; ``None`` when more of the list must be read for it.

        The *deleted* ones are among *items*, so that a page can begin behind one, but on no page: whoever deletes what a
        page shows goes on behind its last item.
        """
        start = 0
        if self.after:
            found = (place for place, item in enumerate(items) if _id_of(item).id == self.after)
            start = next(found, -1) + 1
            if not start and all_read:
                raise NotFound(f"Item with id '{self.after[:80]}' not found.", param="after")
        rest = items[start:]
        if deleted:
            gone = frozenset(deleted)
            rest = [item for item in rest if _id_of(item).id not in gone]
        more = len(rest) > self.limit
        if not all_read and (not more or (self.after and not start)):
            return None
        page = list(rest[: self.limit])
        first, last = (_id_of(page[0]).id, _id_of(page[-1]).id) if page else ("", "")
        return ItemList(page, first, last, has_more=more)


def paging_of(request: web.Request) -> Paging:
    """``limit``, ``order`` and ``after``."""
    limit = _integer("limit", request.query.get("limit") or "20", 1, 100)
    order = request.query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise _invalid("order", "expected 'asc' or 'desc'")
    return Paging(limit, order == "desc", request.query.get("after", ""))


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "").lower()
    if value and value not in _TRUE | _FALSE:
        raise _invalid(name, "expected 'true' or 'false'")
    return value in _TRUE


def _integer(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high):
        raise _invalid(name, f"expected an integer from {low} to {high}")
    return int(text)


def _invalid(name: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{name}': {expected}.", param=name, code="invalid_value")
