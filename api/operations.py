"""What each route does, as a table: the source of /openapi.json and of /docs. A test holds it against the routes."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.wire.compaction import CompactBody, Compacted
from shared.wire.conversations import (
    AddItemsBody,
    Conversation,
    ConversationDeleted,
    CreateConversationBody,
    UpdateConversationBody,
)
from shared.wire.events import Event
from shared.wire.items import StoredItem, Tool
from shared.wire.requests import NULL, CreateBody, Include
from shared.wire.responses import Deleted, ItemList, Model, ModelList, Response
from shared.wire.tokens import CountBody, InputTokens


@dataclass(frozen=True, slots=True)
class Field:
    """A query parameter or a header. ``name`` is as it is sent."""

    name: str
    type: Any
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``body`` and ``answer`` are types of JSON documents; ``errors`` only those of its own."""

    method: str
    path: str
    tag: str
    summary: str
    answer: Any = None
    body: Any = None
    needs_body: bool = True
    stream: bool = False
    """It may answer with server-sent events instead."""
    upgrade: bool = False
    """It answers 101, and goes on as a WebSocket."""
    query: tuple[Field, ...] = ()
    headers: tuple[Field, ...] = ()
    """Of the answer, beside those that every answer has."""
    takes: tuple[Field, ...] = ()
    """Headers of the request."""
    errors: tuple[int, ...] = ()
    open: bool = False
    """Served without a key."""
    media: str = "application/json"
    text: str = ""


class About(msgspec.Struct):
    """What this is, and where things are."""

    name: str = "respool"
    description: str = "A self-hosted server for the Responses API. A client's base_url ends in /v1."
    api: str = "/v1/responses"
    models: str = "/v1/models"
    health: str = "/health"
    ready: str = "/ready"
    docs: str = "/docs"
    openapi: str = "/openapi.json"


class Health(msgspec.Struct):
    status: str


def with_types(struct: type[msgspec.Struct], **types: Any) -> Any:
    """*struct* for the description only: fields that are decoded later, by rules of their own, get what they hold."""
    fields: list[Any] = []
    for each in msgspec.structs.fields(struct):
        hint = types.get(each.name, each.type)
        if each.default_factory is not msgspec.NODEFAULT:
            fields.append((each.name, hint, msgspec.field(default_factory=each.default_factory)))
        elif each.required:
            fields.append((each.name, hint))
        else:
            fields.append((each.name, hint, None if each.default == NULL else each.default))
    config = struct.__struct_config__
    made = msgspec.defstruct(struct.__name__, fields, kw_only=True, tag_field=config.tag_field, tag=config.tag)
    made.__doc__ = struct.__doc__
    return made


INPUT = "A text is one user message. Members may also be messages without `type` and `item_reference`s."
TOOLS = "`web_search*` is accepted and left out where the backend has no such tool; other hosted tools are refused."
Input = Annotated[str | list[StoredItem] | None, Meta(description=INPUT)]
Items = Annotated[list[StoredItem], Meta(description="As in `input`.")]
Tools = Annotated[list[Tool] | None, Meta(description=TOOLS)]
Page = with_types(ItemList, data=list[StoredItem])
StreamEvent = Event

LIMIT = Field("limit", Annotated[int, Meta(ge=1, le=100)], "So many items at most; 20 unless given.")
ORDER = Field("order", Literal["asc", "desc"], "`desc` unless given: the newest first.")
AFTER = Field("after", str, "The page begins behind the item with this id.")
INCLUDE = Field("include", list[Include], "Repeated, as `include[]`, or as a comma list.")
DROPPED = Field(
    "x-respool-dropped",
    str,
    "Parts of the request that were accepted but cannot be honoured, and parameters that are unknown.",
)
COUNTED = Field("x-respool-token-count", Literal["exact", "estimate"], "Whether the model's own tokenizer counted.")
IDEMPOTENCY = Field("Idempotency-Key", str, "The same key and body again lead to the same response.")
ATTEMPTS = Field("x-respool-attempts", str, "Calls to backends: name, outcome and seconds of each.")
REPLAYED = Field("x-respool-idempotent-replay", Literal["true"], "The response was created by an earlier call.")
POLL_AFTER = Field("openai-poll-after-ms", int, "While it has not ended: when to ask again.")
POSITION = Field("x-respool-queue-position", Annotated[int, Meta(ge=1)], "While it is queued: its place in the queue.")

CREATE = (
    "Queues a response. The answer comes when it has ended, at once with `background`, or event by event with `stream`. "
    "Keys that are not listed are tolerated unless the server is strict."
)
READ = "With `stream=true`: its events from the start or behind `starting_after`, live if it still runs."
CONNECT = (
    'WebSocket mode, with `Upgrade: websocket`; else 405. Each message of the client is `{"type": "response.create"}` with the keys '
    "of a create call, and perhaps `stream_id` and `generate`; each message of the server is one event of a response, or an error."
)
COUNT = (
    "Nothing is stored or queued. The backend's own tokenizer counts where it has one and the context is plain (text, "
    "function calls and their outputs); else it is an estimate that learns from the usage that the model reported."
)

COMPACT = (
    "The model summarizes the context. The answer is the input of later calls: the user's messages, and the summary as a "
    "`compaction` item that this server alone can open. It takes as long as a response, and is cancelled when the client goes."
)

_RESPONSE, _CONVERSATION = "/v1/responses/{response_id}", "/v1/conversations/{conversation_id}"
_ITEM = f"{_CONVERSATION}/items/{{item_id}}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST", "/v1/responses", "Responses", "Create a response", Response, with_types(CreateBody, input=Input, tools=Tools),
        stream=True, takes=(IDEMPOTENCY,), headers=(DROPPED, REPLAYED, POLL_AFTER, ATTEMPTS), errors=(400, 404, 413, 415, 422, 429), text=CREATE,
    ),
    Operation("GET", "/v1/responses", "Responses", "Open a WebSocket", upgrade=True, errors=(400, 403, 405), text=CONNECT),
    Operation(
        "POST", "/v1/responses/input_tokens", "Responses", "Count input tokens", InputTokens,
        with_types(CountBody, input=Input, tools=Tools), needs_body=False, headers=(COUNTED,), errors=(400, 404, 413, 415), text=COUNT,
    ),
    Operation(
        "POST", "/v1/responses/compact", "Responses", "Compact a context", Compacted, with_types(CompactBody, input=Input),
        errors=(400, 404, 413, 415, 429), text=COMPACT,
    ),
    Operation(
        "GET", _RESPONSE, "Responses", "Read or stream a response", Response, stream=True, errors=(400, 404), text=READ,
        query=(
            Field("stream", bool, "Answer with events; only for responses created with `stream`."),
            Field("starting_after", Annotated[int, Meta(ge=0)], "The `sequence_number` of the last event seen."),
            Field("include_obfuscation", bool, "Without effect: events are replayed as they were first sent."),
            Field("wait", Annotated[float, Meta(ge=0, le=60)], "Seconds to wait for another status; not with `stream`."),
            INCLUDE,
        ),
        headers=(POLL_AFTER, POSITION),
    ),
    Operation("DELETE", _RESPONSE, "Responses", "Delete a response", Deleted, errors=(400, 404), text="It must have ended."),
    Operation("POST", f"{_RESPONSE}/cancel", "Responses", "Cancel a background response", Response, errors=(400, 404)),
    Operation(
        "GET", f"{_RESPONSE}/input_items", "Responses", "List input items", Page, errors=(400, 404),
        query=(LIMIT, ORDER, AFTER, INCLUDE),
    ),
    Operation(
        "POST", "/v1/conversations", "Conversations", "Create a conversation", Conversation,
        with_types(CreateConversationBody, items=Items | None), needs_body=False, errors=(400, 413, 415),
    ),
    Operation("GET", _CONVERSATION, "Conversations", "Read a conversation", Conversation, errors=(404,)),
    Operation(
        "POST", _CONVERSATION, "Conversations", "Replace the metadata", Conversation, UpdateConversationBody, errors=(400, 404, 413, 415)
    ),
    Operation("DELETE", _CONVERSATION, "Conversations", "Delete a conversation", ConversationDeleted, errors=(404,)),
    Operation(
        "GET", f"{_CONVERSATION}/items", "Conversations", "List items", Page, errors=(400, 404),
        query=(LIMIT, ORDER, AFTER, INCLUDE),
    ),
    Operation(
        "POST", f"{_CONVERSATION}/items", "Conversations", "Add 1 to 20 items", Page, with_types(AddItemsBody, items=Items),
        query=(INCLUDE,), errors=(400, 404, 413, 415),
    ),
    Operation("GET", _ITEM, "Conversations", "Read an item", StoredItem, query=(INCLUDE,), errors=(400, 404)),
    Operation("DELETE", _ITEM, "Conversations", "Delete an item", Conversation, errors=(400, 404)),
    Operation("GET", "/v1/models", "Models", "List models", ModelList, text="Patterns are not listed."),
    Operation("GET", "/v1/models/{model}", "Models", "Read a model", Model, errors=(404,)),
    Operation("GET", "/", "Server", "What this is, and where the API is", About, open=True),
    Operation("GET", "/health", "Server", "The process runs", Health, open=True),
    Operation("GET", "/healthz", "Server", "The process runs", Health, open=True),
    Operation("GET", "/ready", "Server", "It can take work", Health, open=True, errors=(503,)),
    Operation("GET", "/metrics", "Server", "Counters for Prometheus", str, open=True, media="text/plain", errors=(404,)),
    Operation("GET", "/openapi.json", "Server", "This description", dict[str, Any], open=True),
    Operation("GET", "/docs", "Server", "This description to read", str, open=True, media="text/html"),
)  # fmt: skip
