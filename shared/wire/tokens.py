"""``POST /v1/responses/input_tokens``: what it takes and answers."""

from typing import Literal

import msgspec

from shared.wire.conversations import ConversationRef
from shared.wire.items import ToolChoice
from shared.wire.requests import NULL, ReasoningBody, TextBody


class CountBody(msgspec.Struct, kw_only=True):
    """The keys of a create call that say what the model is told. All may be missing or null."""

    model: str | None = None
    input: msgspec.Raw = NULL
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    truncation: Literal["auto", "disabled"] | None = None


class InputTokens(msgspec.Struct, tag_field="object", tag="response.input_tokens"):
    input_tokens: int
