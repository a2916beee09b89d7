"""``POST /v1/responses/compact``: what it takes and answers."""

from typing import Literal

import msgspec

from shared.wire.items import Compaction, Message
from shared.wire.requests import NULL, PromptCacheBody
from shared.wire.responses import Usage


class CompactBody(msgspec.Struct, kw_only=True):
    """The keys of a create call that this endpoint takes, too; all but ``model`` may be missing or null."""

    model: str
    input: msgspec.Raw = NULL
    previous_response_id: str | None = None
    instructions: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: PromptCacheBody | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None


class Compacted(msgspec.Struct, tag_field="object", tag="response.compaction"):
    """``output`` are the user's messages, then one ``compaction``. ``created_at`` is Unix seconds."""

    id: str
    created_at: int
    output: list[Message | Compaction]
    usage: Usage
