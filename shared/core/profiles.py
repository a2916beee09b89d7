"""What one server of Chat Completions wants differently from another, as data. Streams behind them: tests/streams."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

ReasoningField = Literal["reasoning_content", "reasoning", "reasoning_details"]
ToolChoiceValue = Literal["none", "required", "function"]

OPENAI_PARAMS = frozenset(
    {
        *("verbosity", "safety_identifier", "user", "service_tier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    }
)
LOCAL_PARAMS = frozenset({"top_k", "repetition_penalty"})


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The first half shapes requests, the second half reads streams."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    system_role: Literal["system", "developer"] = "system"
    """The role of ``instructions`` and of developer messages."""
    single_system: bool = False
    """Join neighbouring system messages into one."""
    reasoning_out: Literal["reasoning_content", "reasoning", "think_tags", "drop"] = "drop"
    """How earlier reasoning is shown to the model again, within the assistant message that followed it."""
    reasoning_required_with_calls: bool = False
    """Assistant messages with calls carry the reasoning field even when it is empty."""
    refusal_field: bool = False
    """Earlier refusals have a field of their own; else they are text."""
    null_content: bool = True
    """``content`` may be null beside calls; else it is an empty text."""
    strict_tools: bool = True
    tool_choices: frozenset[ToolChoiceValue] = frozenset({"none", "required", "function"})
    """What ``tool_choice`` may say beside auto. The rest is reached by leaving tools out, as far as that goes."""
    call_id_style: Literal["any", "alnum9"] = "any"
    response_format: Literal["none", "object", "schema"] = "schema"
    effort_path: tuple[str, ...] = ("reasoning_effort",)
    """Where the body has the reasoning effort; empty: nowhere."""
    effort_map: dict[str, Any] = {}
    """From our words for the effort to the server's values, where they differ."""
    logprobs: bool = True
    include_usage: bool = True
    """Ask for ``stream_options.include_usage``."""
    drop_params: frozenset[str] = OPENAI_PARAMS
    """Optional parameters that are not sent."""
    clamp: dict[str, tuple[float, float]] = {}
    """Parameter -> least and greatest value."""
    extra_body: dict[str, Any] = {}
    """Merged into each body, over what is there."""

    reasoning_in: tuple[ReasoningField, ...] = ("reasoning_content", "reasoning")
    """The first of these that has text is read; they are never added up."""
    reasoning_kind: Literal["raw", "summary", "hidden"] = "raw"
    think_tags: tuple[str, str] | None = None
    """Marks around reasoning at the very start of the content."""
    starts_in_think: bool = False
    """The prompt already held the opening mark."""
    interleaved_calls: bool = False
    """Fragments of several calls alternate: all but the first wait until it is over."""


PROFILES: Mapping[str, Profile] = {
    "generic": Profile(),
    "openai": Profile(
        max_tokens_field="max_completion_tokens",
        system_role="developer",
        refusal_field=True,
        drop_params=LOCAL_PARAMS,
    ),
    "vllm": Profile(reasoning_in=("reasoning", "reasoning_content"), reasoning_out="reasoning"),
    "llamacpp": Profile(
        reasoning_out="reasoning_content",
        effort_path=("chat_template_kwargs", "reasoning_effort"),
    ),
    "ollama": Profile(
        reasoning_in=("reasoning", "reasoning_content"),
        reasoning_out="reasoning",
        strict_tools=False,
        tool_choices=frozenset(),
        effort_map={"minimal": "low", "xhigh": "high", "max": "high"},
        drop_params=OPENAI_PARAMS | LOCAL_PARAMS,
    ),
    # A reasoning model behind a server that does not take its thoughts out of the content.
    "think-tags": Profile(think_tags=("<think>", "</think>"), reasoning_out="think_tags"),
}
