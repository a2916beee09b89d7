"""The Response object and its parts, as clients see them. Every key is always written, but the last few."""

from typing import Literal

import msgspec

from shared.wire.conversations import ConversationRef
from shared.wire.items import Format, OutputItem, TextFormat, Tool, ToolChoice

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ServiceTier = Literal["default", "flex", "priority"]
ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
_TYPES: dict[ErrorCode, str] = {
    "server_error": "server_error",
    "rate_limit_exceeded": "rate_limit_error",
    "invalid_prompt": "invalid_request_error",
}


class ResponseError(msgspec.Struct):
    """Why a response failed. ``code`` stays within the API's closed list; ``type`` and ``param`` are those of the error
    envelope, which some clients want here, too."""

    code: ErrorCode
    message: str
    type: str = ""
    param: None = None

    def __post_init__(self) -> None:
        self.type = self.type or _TYPES[self.code]


class IncompleteDetails(msgspec.Struct):
    reason: Literal["max_output_tokens", "content_filter"]


class InputTokensDetails(msgspec.Struct):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class PromptTokensDetails(msgspec.Struct):
    """Zero stands for what is not known."""

    cached_tokens: int
    text_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct):
    reasoning_tokens: int
    text_tokens: int = 0
    audio_tokens: int = 0


class Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokensDetails = msgspec.field(default_factory=InputTokensDetails)
    output_tokens_details: OutputTokensDetails = msgspec.field(default_factory=OutputTokensDetails)
    # The names of Chat Completions, beside the API's own: only where a setting asks for them.
    prompt_tokens: int | msgspec.UnsetType = msgspec.UNSET
    completion_tokens: int | msgspec.UnsetType = msgspec.UNSET
    prompt_tokens_details: PromptTokensDetails | msgspec.UnsetType = msgspec.UNSET
    completion_tokens_details: CompletionTokensDetails | msgspec.UnsetType = msgspec.UNSET

    def with_legacy(self) -> "Usage":
        """The same, under both names."""
        return msgspec.structs.replace(
            self,
            prompt_tokens=self.input_tokens,
            completion_tokens=self.output_tokens,
            prompt_tokens_details=PromptTokensDetails(self.input_tokens_details.cached_tokens),
            completion_tokens_details=CompletionTokensDetails(self.output_tokens_details.reasoning_tokens),
        )


class TextConfig(msgspec.Struct, omit_defaults=True):
    format: Format = msgspec.field(default_factory=TextFormat)
    verbosity: Literal["low", "medium", "high"] | None = None


class TextEcho(msgspec.Struct):
    """``text`` as a Response shows it: both keys, always."""

    format: Format
    verbosity: Literal["low", "medium", "high"] = "medium"


class ReasoningEcho(msgspec.Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class PromptEcho(msgspec.Struct):
    """Which template was used: with the version that was found, and the variables as they were put in."""

    id: str
    version: str | None = None
    variables: dict[str, str] = {}


class PromptCacheOptions(msgspec.Struct):
    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m"] = "30m"


class Response(msgspec.Struct, tag_field="object", tag="response", kw_only=True):
    """Times are Unix seconds. ``output`` is never null. ``usage`` is null until (and unless) the backend told it."""

    id: str
    created_at: int
    status: Status
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    output: list[OutputItem] = []
    usage: Usage | None = None
    model: str
    background: bool = False
    store: bool = True
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    tools: list[Tool] = []
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    text: TextEcho
    reasoning: ReasoningEcho
    truncation: Literal["auto", "disabled"] = "disabled"
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    service_tier: ServiceTier = "default"
    metadata: dict[str, str] = {}
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | msgspec.UnsetType = msgspec.UNSET
    prompt: PromptEcho | msgspec.UnsetType = msgspec.UNSET
    prompt_cache_retention: Literal["in_memory", "24h"] | msgspec.UnsetType = msgspec.UNSET
    prompt_cache_options: PromptCacheOptions | msgspec.UnsetType = msgspec.UNSET


class Deleted(msgspec.Struct, tag_field="object", tag="response.deleted"):
    id: str
    deleted: bool = True


class ItemList(msgspec.Struct, tag_field="object", tag="list"):
    """One page of items. The ids are empty strings when the page is empty."""

    data: list[msgspec.Raw]
    first_id: str
    last_id: str
    has_more: bool


class Model(msgspec.Struct, tag_field="object", tag="model"):
    id: str
    created: int
    owned_by: str


class ModelList(msgspec.Struct, tag_field="object", tag="list"):
    data: list[Model]


class ErrorBody(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(msgspec.Struct):
    error: ErrorBody
