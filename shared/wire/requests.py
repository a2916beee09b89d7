"""The body of ``POST /v1/responses``: as it arrives, and as it is kept for the worker.

``CreateBody`` is decoded from the client's bytes: every key may be null. Keys that it does not know are tolerated.
``input`` and ``tools`` stay raw there, because their members are told apart by rules that a tag cannot express
(messages without ``type``, hosted tools); ``api.validate`` decodes them one by one, so that an error names its path.
"""

from typing import Any, Literal

import msgspec

from shared.wire.conversations import ConversationRef
from shared.wire.items import Format, Tool, ToolChoice
from shared.wire.responses import PromptCacheOptions, PromptEcho, ReasoningEcho, ServiceTier

Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
Verbosity = Literal["low", "medium", "high"]


NULL = msgspec.Raw(b"null")


class TextBody(msgspec.Struct):
    format: Format | None = None
    verbosity: Verbosity | None = None


class ReasoningBody(ReasoningEcho):
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(msgspec.Struct):
    include_obfuscation: bool | None = None


class PromptText(msgspec.Struct, tag_field="type", tag="input_text"):
    text: str


class PromptBody(msgspec.Struct):
    """A template of this server, by the name of its file."""

    id: str
    version: str | None = None
    variables: dict[str, str | PromptText] | None = None


class PromptCacheBody(msgspec.Struct):
    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m"] | None = None


class CreateBody(msgspec.Struct, kw_only=True):
    """Ranges and lengths are checked by ``api.validate``, which can name the API's code for each."""

    model: str | None = None
    input: msgspec.Raw = NULL
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    include: list[Include] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    parallel_tool_calls: bool | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: ToolChoice | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    prompt: PromptBody | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: PromptCacheBody | None = None
    safety_identifier: str | None = None
    user: str | None = None
    # Not in the API: what relays and local servers add. ``stop`` holds at most four texts.
    seed: int | None = None
    stop: str | list[str] | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    # Known to the API, not offered here: a value other than null is refused by name.
    access_programs: Any = None
    background_options: Any = None
    context_management: Any = None
    image: Any = None
    moderation: Any = None
    multi_agent: Any = None


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A validated create request, without its input items; what a worker needs to run it. Stored as JSON."""

    id: str
    created_at: int
    """Unix seconds."""
    model: str
    stream: bool = False
    background: bool = False
    store: bool = True
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    instructions: str | None = None
    include: list[Include] = []
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    parallel_tool_calls: bool | None = None
    tools: list[Tool] = []
    tool_choice: ToolChoice = "auto"
    format: Format | None = None
    verbosity: Verbosity | None = None
    reasoning: ReasoningEcho | None = None
    metadata: dict[str, str] = {}
    truncation: Literal["auto", "disabled"] = "disabled"
    service_tier: ServiceTier = "default"
    """What is used, not what was asked for."""
    prompt: PromptEcho | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    safety_identifier: str | None = None
    user: str | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    obfuscate: bool = False
    """Delta events are padded."""
    channel: str = ""
    """The group of backends that was asked for."""
    generate: bool = True
    """Else it is complete as it is, without output: it only prepares the context of the next turn."""
    items: int = 0
    """How many input items of its own it has: output items are numbered behind them."""
