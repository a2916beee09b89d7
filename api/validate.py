"""Bytes of a create call -> an accepted request, or ``InvalidRequest`` that names the parameter.

Shapes are msgspec's to check (``shared.wire``); what a type cannot say stands in the tables here.
Source of codes and messages: the contract's error catalogue (section 1.5).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from api.decoding import MAX_TEXT_CHARS, check_length, decode, missing_parameter
from api.items import decode_input
from api.prompts import Filled, fill_prompt
from api.schemas import GivenSchema, given_schema
from api.strict import check_known
from api.tools import check_choice, check_name, decode_tools, schemas_of
from shared.core.compaction import Open
from shared.core.fitness import left_out
from shared.core.tiers import tier_of
from shared.errors import InvalidRequest
from shared.models import find_model
from shared.settings import ModelRow, Settings
from shared.wire.conversations import ConversationRef
from shared.wire.items import InputText, JsonSchemaFormat, Message, StoredItem, Tool
from shared.wire.requests import NULL, CreateBody, Request
from shared.wire.responses import PromptCacheOptions, ReasoningEcho

MAX_INT = 2**31 - 1
MAX_INT64 = 2**63 - 1
GIVEN_ID = re.compile(r"[A-Za-z0-9_-]+")
MAX_ID_CHARS = 128

RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_output_tokens", 16, MAX_INT),
    ("max_tool_calls", 1, MAX_INT),
    ("top_logprobs", 0, 20),
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("seed", -MAX_INT64, MAX_INT64),
    ("top_k", -1, MAX_INT),
    ("repetition_penalty", 0, 10),
)
LENGTHS: tuple[tuple[str, int], ...] = (
    ("instructions", MAX_TEXT_CHARS),
    ("model", 256),
    ("safety_identifier", 128),
    ("prompt_cache_key", 1024),
    ("user", 1024),
)
ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "access_programs": (None, {}),
    "background_options": (None, {}, {"completion_window": "soonest"}),
    "context_management": (None, []),
    "image": (None, {}, {"context_compression": "auto"}, {"context_compression": "disabled"}),
    "moderation": (None,),
    "multi_agent": (None, {"enabled": False}),
}
"""What is not offered here, and the values with which nobody asks for it."""
MAX_STOPS = 4
KNOWN = frozenset(CreateBody.__struct_fields__)
_NOTHING = re.compile(rb"null|\[\s*\]")
"""As ``input``."""
MAX_SHOWN_CHARS = 64

_decode_body = msgspec.json.Decoder(CreateBody).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Accepted:
    """A create call that can be submitted. ``request.id`` and ``created_at`` are still to be filled in."""

    request: Request
    row: ModelRow
    """Of its model."""
    items: list[StoredItem]
    references: dict[int, str] = field(default_factory=dict)
    """Ids of items that stand in the input by reference, by their place in it; ``items`` is without them at first."""
    dropped: list[str] = field(default_factory=list)
    """Paths of what was accepted but cannot be honoured."""
    unknown: list[str] = field(default_factory=list)
    """Parameters that nobody knows, as they can be shown in a header: ignored."""
    schemas: list[GivenSchema] = field(default_factory=list)
    """Still to be examined, by ``api.schemas.check_schemas``."""


def accept(body: bytes, settings: Settings, channel: str, open_sealed: Open, *, needs_input: bool = True) -> Accepted:
    """Decode and check a create call. *body* is at most ``max_body_bytes`` long; the model must be one of *channel*.
    Unless it *needs_input*, there may be nothing to answer."""
    create = decode(_decode_body, body)
    unknown = [name for name, value in decode(_decode_keys, body).items() if name not in KNOWN and value != NULL]
    _check_numbers(create)
    check_metadata(create.metadata)
    if isinstance(create.stop, list) and len(create.stop) > MAX_STOPS:
        message = (
            f"Invalid 'stop': array too long. Expected at most {MAX_STOPS} items, but got {len(create.stop)} instead."
        )
        raise InvalidRequest(message, param="stop", code="array_above_max_length")
    _check_offered(create)
    filled = fill_prompt(create.prompt, settings.prompts_dir) if create.prompt is not None else None
    if filled is not None:
        create.model = create.model or filled.model
    if not create.model:
        raise missing_parameter("model")
    row = find_model(settings.models, create.model, channel)
    if row is None:
        message = f"The requested model '{create.model}' does not exist. (HINT: GET /v1/models lists those that do)"
        raise InvalidRequest(message, param="model", code="model_not_found")
    conversation = _conversation(create.conversation)
    if create.previous_response_id is not None:
        _check_id(create.previous_response_id, "previous_response_id")
        if conversation is not None:
            message = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Send only one of them."
            raise InvalidRequest(message, param="previous_response_id", code="mutually_exclusive_parameters")
    stands_alone = (create.previous_response_id, conversation, filled) == (None, None, None)
    if needs_input and stands_alone and _NOTHING.fullmatch(create.input):
        raise missing_parameter("input", "send 'messages' as 'input'" if "messages" in unknown else "")
    tools, dropped = decode_tools(create.tools or ())
    check_choice(create.tool_choice, tools)
    schemas = schemas_of(tools)
    if create.text is not None and isinstance(create.text.format, JsonSchemaFormat):
        check_name(create.text.format.name, "text.format.name", 64)
        schema = create.text.format.schema
        schemas.append(given_schema(schema, "'text.format.schema'", "text.format.schema", "invalid_json_schema"))
    items, references = (
        decode_input(create.input, settings.max_input_items, open_sealed) if create.input != NULL else ([], {})
    )
    if filled is not None and filled.input:
        items.insert(0, Message("user", [InputText(filled.input)]))
        references = {place + 1: item_id for place, item_id in references.items()}
    request = _request(create, tools, len(items) + len(references), filled)
    request.conversation = conversation
    request.channel = channel
    if row.dialect != "echo":
        dropped += left_out(request, row.quirks)
    if settings.strict_parameters:  # last, for the other errors have hints
        check_known(body, CreateBody)
    return Accepted(request, row, items, references, dropped, [_shown(name) for name in unknown], schemas)


def _shown(name: str) -> str:
    """*name* in a header: percent-encoded, and cut when it is long."""
    shown = quote(name[: MAX_SHOWN_CHARS + 1], safe="")
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}..."


def _check_numbers(create: CreateBody) -> None:
    for name, low, high in RANGES:
        value = getattr(create, name)
        if value is None or low <= value <= high:
            continue
        kind = "integer" if isinstance(value, int) else "decimal"
        side, word, limit = ("below_min", "minimum", low) if value < low else ("above_max", "maximum", high)
        sign = ">=" if value < low else "<="
        message = f"Invalid '{name}': {kind} {side.split('_')[0]} {word} value. Expected a value {sign} {limit}, but got {value} instead."
        raise InvalidRequest(message, param=name, code=f"{kind}_{side}_value")
    for name, limit in LENGTHS:
        check_length(getattr(create, name), name, limit)


def check_metadata(metadata: dict[str, str] | None) -> None:
    if not metadata:
        return
    if len(metadata) > 16:
        message = f"Invalid 'metadata': too many properties. Expected at most 16, but got {len(metadata)} instead."
        raise InvalidRequest(message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        check_length(key, "metadata", 64)
        check_length(value, f"metadata.{key}", 512)


def _check_offered(create: CreateBody) -> None:
    for name in ASKS_NOTHING:
        if getattr(create, name) not in ASKS_NOTHING[name]:
            message = f"Unsupported parameter: '{name}' is not offered by this server."
            raise InvalidRequest(message, param=name, code="unsupported_parameter")


def _check_id(given_id: str, path: str) -> None:
    check_length(given_id, path, MAX_ID_CHARS)
    if not given_id:
        message = f"Invalid '{path}': empty string. Expected an ID."
        raise InvalidRequest(message, param=path, code="invalid_value")
    if not GIVEN_ID.fullmatch(given_id):
        message = (
            f"Invalid '{path}': '{given_id[:80]}'. Expected an ID that contains letters, numbers, "
            "underscores, or dashes, but this value contained additional characters."
        )
        raise InvalidRequest(message, param=path, code="invalid_value")


def _conversation(given: str | ConversationRef | None) -> ConversationRef | None:
    if isinstance(given, ConversationRef):
        _check_id(given.id, "conversation.id")
        return given
    if given is None:
        return None
    _check_id(given, "conversation")
    return ConversationRef(given)


SAME = [
    "background",
    "stream",
    "store",
    "instructions",
    "previous_response_id",
    "include",
    "max_output_tokens",
    "max_tool_calls",
    "temperature",
    "top_p",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "tool_choice",
    "truncation",
    "metadata",
    "prompt_cache_key",
    "safety_identifier",
    "user",
    "seed",
    "stop",
    "top_k",
    "repetition_penalty",
]
"""Kept under their own name; null means the default."""


def _request(create: CreateBody, tools: list[Tool], items: int, filled: Filled | None) -> Request:
    given = {name: value for name in SAME if (value := getattr(create, name)) is not None}
    text, reasoning, stream_options = create.text, create.reasoning, create.stream_options
    retention, options = create.prompt_cache_retention, create.prompt_cache_options
    if filled is not None and filled.instructions and create.instructions is None:
        given["instructions"] = filled.instructions
    return Request(
        id="",
        created_at=0,
        model=create.model or "",
        tools=tools,
        format=text.format if text else None,
        verbosity=text.verbosity if text else None,
        reasoning=ReasoningEcho(reasoning.effort, reasoning.summary or reasoning.generate_summary)
        if reasoning
        else None,
        service_tier=tier_of(create.service_tier),
        prompt=filled.echo if filled else None,
        prompt_cache_retention="in_memory" if retention == "in-memory" else retention,
        prompt_cache_options=PromptCacheOptions(options.mode or "implicit", options.ttl or "30m") if options else None,
        obfuscate=bool(stream_options and stream_options.include_obfuscation),
        items=items,
        **given,
    )
