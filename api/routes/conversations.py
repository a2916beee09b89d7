"""``/v1/conversations``: a conversation, its metadata, and its items one by one.

Turns are added by responses that name the conversation; what is here works beside them, and waits for none: while a
response holds a conversation, its items cannot be changed.
"""

import os
import secrets
import time
from typing import TypeVar

import msgspec
from aiohttp import web

from api.bodies import read_body
from api.compaction import seal_of
from api.context import conversation_locked, conversation_not_found, conversation_too_long
from api.decoding import decode
from api.items import complete, decode_items
from api.middleware import TENANT
from api.queries import include_of, paging_of
from api.resources import CONVERSATIONS, SETTINGS
from api.strict import check_known
from api.validate import check_metadata
from shared.core.history import item_id_of, split
from shared.errors import NotFound, Overloaded
from shared.ids import HOME_PARTITION, ITEM_NUMBERS, RANDOM_BYTES, conversation_id, is_conversation_id
from shared.settings import Settings
from shared.store.conversations import Head, History, NewConversation
from shared.wire.conversations import (
    NULL,
    AddItemsBody,
    Conversation,
    ConversationDeleted,
    CreateConversationBody,
    UpdateConversationBody,
)
from shared.wire.items import StoredItem
from shared.wire.responses import ItemList

MAX_ITEMS = 20
"""So many items may come with one call."""
MAX_ROUNDS = 20
PAGE_BATCHES = 32
"""So much of a conversation is read first for a page; a batch is what one call or turn has added."""

routes = web.RouteTableDef()
_encode = msgspec.json.Encoder().encode
_decode_create = msgspec.json.Decoder(CreateConversationBody)
_decode_update = msgspec.json.Decoder(UpdateConversationBody)
_decode_add = msgspec.json.Decoder(AddItemsBody)
_metadata = msgspec.json.Decoder(dict[str, str]).decode


def _answer(body: msgspec.Struct) -> web.Response:
    return web.Response(body=_encode(body), content_type="application/json")


Body = TypeVar("Body", CreateConversationBody, UpdateConversationBody, AddItemsBody)


def _decoded(data: bytes, decoder: "msgspec.json.Decoder[Body]", settings: Settings) -> Body:
    body: Body = decode(decoder.decode, data)
    if settings.strict_parameters:
        check_known(data, type(body))
    return body


def _named(request: web.Request) -> str:
    """The id in the path; what has not the form of one does not exist."""
    named = request.match_info["conversation_id"]
    if not is_conversation_id(named):
        raise conversation_not_found(named)
    return named


async def _head(request: web.Request) -> Head:
    named = _named(request)
    head = await request.app[CONVERSATIONS].read(named, request[TENANT])
    if head is None:
        raise conversation_not_found(named)
    return head


async def _history(request: web.Request) -> History:
    named = _named(request)
    history = await request.app[CONVERSATIONS].load(named, request[TENANT])
    if history is None:
        raise conversation_not_found(named)
    return history


def _shown(head: Head) -> Conversation:
    return Conversation(head.id, head.created_at, _metadata(head.metadata))


@routes.post("/v1/conversations")
async def create(request: web.Request) -> web.StreamResponse:
    body = _decoded(await read_body(request) or b"{}", _decode_create, request.app[SETTINGS])
    check_metadata(body.metadata)
    items = decode_items(body.items, "items", MAX_ITEMS, seal_of(request).open) if body.items != NULL else []
    new_id = conversation_id(HOME_PARTITION, os.urandom(RANDOM_BYTES))
    shown = Conversation(new_id, int(time.time()), body.metadata or {})
    new = NewConversation(
        id=new_id, tenant=request[TENANT], created_at=shown.created_at, metadata=_encode(shown.metadata),
        keep_s=request.app[SETTINGS].retention_s, items=_encode(complete(items, new_id)), count=len(items),
    )  # fmt: skip
    await request.app[CONVERSATIONS].create(new)
    return _answer(shown)


@routes.get("/v1/conversations/{conversation_id}")
async def read(request: web.Request) -> web.StreamResponse:
    return _answer(_shown(await _head(request)))


@routes.post("/v1/conversations/{conversation_id}")
async def update(request: web.Request) -> web.StreamResponse:
    named = _named(request)
    body = _decoded(await read_body(request), _decode_update, request.app[SETTINGS])
    check_metadata(body.metadata)
    metadata = body.metadata or {}
    created_at = await request.app[CONVERSATIONS].update(named, request[TENANT], _encode(metadata))
    if created_at is None:
        raise conversation_not_found(named)
    return _answer(Conversation(named, created_at, metadata))


@routes.delete("/v1/conversations/{conversation_id}")
async def delete(request: web.Request) -> web.StreamResponse:
    named = _named(request)
    if not await request.app[CONVERSATIONS].delete(named, request[TENANT]):
        raise conversation_not_found(named)
    return _answer(ConversationDeleted(named))


@routes.post("/v1/conversations/{conversation_id}/items")
async def add_items(request: web.Request) -> web.StreamResponse:
    include_of(request)
    _named(request)
    body = _decoded(await read_body(request), _decode_add, request.app[SETTINGS])
    added = await _add(request, decode_items(body.items, "items", MAX_ITEMS, seal_of(request).open, min_items=1))
    rows = split([_encode(added)])
    return _answer(ItemList(rows, item_id_of(rows[0]), item_id_of(rows[-1]), has_more=False))


async def _add(request: web.Request, items: list[StoredItem]) -> list[StoredItem]:
    """The items as they are stored. Each round chooses ids again, because another call was quicker."""
    conversations, tenant = request.app[CONVERSATIONS], request[TENANT]
    max_bytes, call = request.app[SETTINGS].max_context_bytes, secrets.token_hex(16)
    for _ in range(MAX_ROUNDS):
        head, taken = await _head_to_add(request, items)
        chosen = complete([msgspec.structs.replace(item) for item in items], head.id, first=head.next_item, taken=taken)
        if head.next_item + len(items) > ITEM_NUMBERS:
            raise conversation_too_long()
        word = await conversations.add(head, tenant, _encode(chosen), len(chosen), max_bytes=max_bytes, call=call)
        match word:
            case "ok":
                return chosen
            case "gone":
                raise conversation_not_found(head.id)
            case "locked":
                raise conversation_locked()
            case "long":
                raise conversation_too_long()
    raise Overloaded("Too many calls add to this conversation at once. Please retry.", retry_after_s=1)


async def _head_to_add(request: web.Request, items: list[StoredItem]) -> tuple[Head, frozenset[str]]:
    """The conversation, and the ids that are taken: that only matters for items that bring their own."""
    if all(item.id is None for item in items):
        return await _head(request), frozenset()
    history = await _history(request)
    return history.head, frozenset(item_id_of(item) for item in split(history.everything))


@routes.get("/v1/conversations/{conversation_id}/items")
async def list_items(request: web.Request) -> web.StreamResponse:
    """Read is only as much of the conversation as the page needs, from the end where it begins."""
    include_of(request)
    paging, named, size = paging_of(request), _named(request), PAGE_BATCHES
    items: list[msgspec.Raw] = []
    first, last = (-size, -1) if paging.newest_first else (0, size - 1)
    while True:
        history = await request.app[CONVERSATIONS].load(named, request[TENANT], first, last)
        if history is None:
            raise conversation_not_found(named)
        rows = split(history.everything)
        items += reversed(rows) if paging.newest_first else rows
        first = first if first >= 0 else max(0, history.head.batches + first)
        all_read = first == 0 if paging.newest_first else last + 1 >= history.head.batches
        page = paging.cut(items, all_read=all_read, deleted=history.deleted)
        if page is not None:
            return _answer(page)
        size *= 2  # so that a page far behind costs few calls
        first, last = (max(0, first - size), first - 1) if paging.newest_first else (last + 1, last + size)


@routes.get("/v1/conversations/{conversation_id}/items/{item_id}")
async def read_item(request: web.Request) -> web.StreamResponse:
    include_of(request)
    item = _find(await _history(request), request.match_info["item_id"])
    return web.Response(body=bytes(item), content_type="application/json")


@routes.delete("/v1/conversations/{conversation_id}/items/{item_id}")
async def delete_item(request: web.Request) -> web.StreamResponse:
    history, item_id = await _history(request), request.match_info["item_id"]
    _find(history, item_id)
    word = await request.app[CONVERSATIONS].drop(history.head.id, request[TENANT], item_id)
    if word == "gone":
        raise conversation_not_found(history.head.id)
    if word == "locked":
        raise conversation_locked()
    return _answer(_shown(history.head))


def _find(history: History, item_id: str) -> msgspec.Raw:
    for item in split(history.items):
        if item_id_of(item) == item_id:
            return item
    raise NotFound(f"Item with id '{item_id[:80]}' not found.")
