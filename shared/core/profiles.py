"""What one server of Chat Completions wants differently from another, as data. Streams behind them: tests/streams.

A preset is only what was read in a provider's documents or seen on its wire (docs/backends.md names it); whatever differs
by model or by deployment is for ``profile_overrides`` in the model table. The struct is also the table in the docs.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

ReasoningField = Literal["reasoning_content", "reasoning", "thinking", "reasoning_details"]
ToolChoiceValue = Literal["none", "required", "function"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
OptionalParam = Literal[
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "top_k", "repetition_penalty",
    "verbosity", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier", "user",
    "service_tier", "parallel_tool_calls",
]  # fmt: skip
"""What a profile may leave out; all but the last two are sent under their own name."""
Preset = Literal[
    "generic", "openai", "azure", "vllm", "sglang", "llamacpp", "ollama", "deepseek", "dashscope", "groq", "mistral",
    "gemini", "anthropic", "xai", "openrouter", "together", "moonshot", "zai", "minimax", "think-tags",
]  # fmt: skip
Clamped = Literal["temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "repetition_penalty"]
Timeout = Annotated[float, Meta(gt=0, le=86_400)]

OPENAI_PARAMS: frozenset[OptionalParam] = frozenset(
    {
        *("verbosity", "safety_identifier", "user", "service_tier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    }
)
LOCAL_PARAMS: frozenset[OptionalParam] = frozenset({"top_k", "repetition_penalty"})
HOSTED_PARAMS = OPENAI_PARAMS | LOCAL_PARAMS
PENALTIES: frozenset[OptionalParam] = frozenset({"presence_penalty", "frequency_penalty"})


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The first part reaches the server, the second shapes requests, the third reads streams."""

    auth_header: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9-]{1,64}$",
            description="Header with the key; `Authorization` has `Bearer` before it, any other has the key alone.",
        ),
    ] = "Authorization"
    extra_query: Annotated[dict[str, str], Meta(description="Put behind the address, such as `api-version`.")] = {}
    first_byte_timeout_s: Annotated[
        Timeout | None, Meta(description="Stands for the model's where that is not set.")
    ] = None
    idle_timeout_s: Annotated[Timeout | None, Meta(description="Stands for the model's where that is not set.")] = None

    max_tokens_field: Annotated[
        Literal["max_tokens", "max_completion_tokens"], Meta(description="Where `max_output_tokens` goes.")
    ] = "max_tokens"
    system_role: Annotated[
        Literal["system", "developer", "user"], Meta(description="Role of `instructions` and of developer messages.")
    ] = "system"
    single_system: Annotated[bool, Meta(description="Join neighbouring system messages into one.")] = False
    reasoning_out: Annotated[
        Literal["reasoning_content", "reasoning", "reasoning_details", "think_tags", "drop"],
        Meta(description="How earlier reasoning is shown to the model again, in the message that followed it."),
    ] = "drop"
    reasoning_required_with_calls: Annotated[
        bool, Meta(description="Messages with calls carry the reasoning field even when it is empty.")
    ] = False
    family: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9_-]{1,32}$",
            description="Whose provider state this is; another family's is ignored. `text`: reasoning text alone is kept.",
        ),
    ] = "generic"
    unsigned_call: Annotated[
        dict[str, Any],
        Meta(description="Added to an earlier call whose state is lost, where the server insists on it."),
    ] = {}
    refusal_field: Annotated[
        bool, Meta(description="Earlier refusals have a field of their own; else they are text.")
    ] = False
    null_content: Annotated[bool, Meta(description="`content` may be null beside calls; else it is an empty text.")] = (
        True
    )
    vision: Annotated[bool, Meta(description="Takes images.")] = True
    file: Annotated[bool, Meta(description="Takes files.")] = True
    audio: Annotated[bool, Meta(description="Takes audio.")] = False
    fetches: Annotated[
        frozenset[Literal["images", "files"]],
        Meta(description="What may be given by its address, which the backend fetches; it is never fetched here."),
    ] = frozenset({"images"})
    strict_tools: Annotated[bool, Meta(description="Takes `strict` of a function.")] = True
    tool_choices: Annotated[
        frozenset[ToolChoiceValue],
        Meta(
            description="What `tool_choice` may say beside auto. The rest is reached by leaving tools out, and checked."
        ),
    ] = frozenset({"none", "required", "function"})
    call_id_style: Annotated[
        Literal["any", "alnum9"], Meta(description="`alnum9`: ids of calls are sent as 9 letters and digits.")
    ] = "any"
    response_format: Annotated[
        Literal["none", "object", "schema"],
        Meta(description="What `response_format` can say: nothing, `json_object`, or `json_schema` too."),
    ] = "schema"
    effort_path: Annotated[
        tuple[str, ...], Meta(description="Where the body has the reasoning effort; empty: nowhere.")
    ] = ("reasoning_effort",)
    efforts: Annotated[
        frozenset[Effort] | None, Meta(description="The efforts that are taken, others are refused; unset: all.")
    ] = None
    effort_map: Annotated[
        dict[Effort, str], Meta(description="From an effort to the server's word for it, where they differ.")
    ] = {}
    effort_bodies: Annotated[
        dict[Effort, dict[str, Any]],
        Meta(description="What an effort adds to the body, instead of a word at the path."),
    ] = {}
    logprobs: Annotated[bool, Meta(description="Answers with log probabilities.")] = True
    include_usage: Annotated[bool, Meta(description="Ask for `stream_options.include_usage`.")] = True
    drop_params: Annotated[
        frozenset[OptionalParam], Meta(description="Optional parameters that are left out, and named in a header.")
    ] = OPENAI_PARAMS
    refuse_params: Annotated[
        frozenset[OptionalParam], Meta(description="The same, but a request with one is refused (400).")
    ] = frozenset()
    hash_identifiers: Annotated[
        bool, Meta(description="`user` and `safety_identifier` are sent as their SHA-256, 64 hexadecimal digits.")
    ] = False
    clamp: Annotated[
        dict[Clamped, tuple[float, float]], Meta(description="Parameter to least and greatest value.")
    ] = {}
    extra_body: Annotated[dict[str, Any], Meta(description="Merged into each body, over what is there.")] = {}

    reasoning_in: Annotated[
        tuple[ReasoningField, ...],
        Meta(description="The first of these that has text is read; they are never added up."),
    ] = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
    reasoning_kind: Annotated[
        Literal["raw", "summary", "hidden"],
        Meta(description="Shown as `reasoning_text`, as a summary, or not at all (but kept for the next turn)."),
    ] = "raw"
    think_tags: Annotated[
        tuple[str, str] | None, Meta(description="Marks around reasoning at the very start of the content.")
    ] = None
    starts_in_think: Annotated[bool, Meta(description="The prompt already held the opening mark.")] = False
    interleaved_calls: Annotated[
        bool, Meta(description="Fragments of several calls alternate: all but the first wait until it is over.")
    ] = False

    max_tokens_default: Annotated[
        int,
        Meta(ge=1, description="Dialect `anthropic`: its `max_tokens`, which it needs, without `max_output_tokens`."),
    ] = 8192
    thinking: Annotated[
        Literal["adaptive", "budget", "none"],
        Meta(description="Dialect `anthropic`: how an effort is said; `budget` is a number of tokens."),
    ] = "budget"
    thinking_drops: Annotated[
        frozenset[OptionalParam], Meta(description="Left out, and named in a header, when an effort is asked for.")
    ] = frozenset()
    schema_output: Annotated[
        Literal["native", "tool"],
        Meta(description="Dialect `anthropic`: `output_config.format`, or a tool that must be called."),
    ] = "tool"
    responses_trusted: Annotated[
        bool,
        Meta(
            description="Dialect `responses`: a whole one, with custom tools, sealed reasoning, `incomplete` at the limit, "
            "and without keys that are not in that API."
        ),
    ] = False

    responses_logprobs: Annotated[
        bool, Meta(description="Dialect `responses`: answers with log probabilities there, too.")
    ] = True
    responses_chat_format: Annotated[
        bool,
        Meta(
            description="Dialect `responses`: `text.format`, which the server ignores, is said as `response_format` of "
            "Chat Completions, too."
        ),
    ] = False

    def key_header(self, key: str | None) -> dict[str, str]:
        if key is None:
            return {}
        return {self.auth_header: f"Bearer {key}" if self.auth_header.lower() == "authorization" else key}


THINK = ("<think>", "</think>")
_OPENAI = Profile(
    family="openai",
    max_tokens_field="max_completion_tokens",
    system_role="developer",
    refusal_field=True,
    audio=True,
    drop_params=LOCAL_PARAMS,
    extra_body={"store": False},
    reasoning_kind="summary",
    responses_trusted=True,
)
_DISABLED = {"thinking": {"type": "disabled"}}


def _each(body: dict[str, Any]) -> dict[Effort, dict[str, Any]]:
    """*body* for every effort that is one."""
    efforts: tuple[Effort, ...] = ("minimal", "low", "medium", "high", "xhigh", "max")
    return dict.fromkeys(efforts, body)


PROFILES: Mapping[Preset, Profile] = {
    "generic": Profile(),
    "openai": _OPENAI,
    "azure": msgspec.structs.replace(_OPENAI, auth_header="api-key"),
    "vllm": Profile(
        family="text", reasoning_in=("reasoning", "reasoning_content"), reasoning_out="reasoning", file=False
    ),
    "sglang": Profile(family="text", reasoning_out="reasoning_content", file=False),
    "llamacpp": Profile(
        family="text",
        file=False,
        reasoning_out="reasoning_content",
        effort_path=("chat_template_kwargs", "reasoning_effort"),
        responses_logprobs=False,
        responses_chat_format=True,  # llama.cpp issue 21922; what is no field of that API goes on to its Chat Completions
    ),
    "ollama": Profile(
        family="text",
        file=False,
        reasoning_in=("reasoning", "reasoning_content"),
        reasoning_out="reasoning",
        strict_tools=False,
        fetches=frozenset(),
        tool_choices=frozenset(),
        effort_map={"minimal": "low", "xhigh": "high", "max": "high"},
        drop_params=HOSTED_PARAMS,
    ),
    "deepseek": Profile(
        family="text",
        file=False,
        reasoning_out="reasoning_content",
        reasoning_required_with_calls=True,
        tool_choices=frozenset({"none", "function"}),
        response_format="object",
        effort_map={"minimal": "high", "low": "high", "medium": "high", "xhigh": "max"},
        effort_bodies={"none": _DISABLED},
        drop_params=HOSTED_PARAMS,
    ),
    "dashscope": Profile(
        file=False,
        family="dashscope",
        effort_path=(),
        effort_bodies={"none": {"enable_thinking": False}, **_each({"enable_thinking": True})},
        drop_params=HOSTED_PARAMS,
    ),
    "groq": Profile(
        family="text",
        reasoning_in=("reasoning", "reasoning_content"),
        logprobs=False,
        drop_params=HOSTED_PARAMS,
    ),
    "mistral": Profile(family="mistral", call_id_style="alnum9", effort_path=(), drop_params=HOSTED_PARAMS),
    "gemini": Profile(
        family="gemini",
        audio=True,
        reasoning_kind="summary",
        unsigned_call={"extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}},
        drop_params=HOSTED_PARAMS,
    ),
    # Most of this is Anthropic's endpoint for clients of OpenAI; its own API is the dialect with its name (`spoken`).
    "anthropic": Profile(
        family="anthropic-chat",
        reasoning_kind="summary",
        max_tokens_default=32_000,
        thinking="adaptive",
        schema_output="native",
        single_system=True,
        strict_tools=False,
        response_format="none",
        effort_path=(),
        logprobs=False,
        clamp={"temperature": (0.0, 1.0)},
        drop_params=HOSTED_PARAMS | PENALTIES | {"seed"},
    ),
    "xai": Profile(family="xai", reasoning_kind="summary", drop_params=HOSTED_PARAMS | PENALTIES | {"stop"}),
    "openrouter": Profile(
        family="openrouter",
        fetches=frozenset({"images", "files"}),
        reasoning_in=("reasoning", "reasoning_details", "reasoning_content"),
        reasoning_out="reasoning_details",
        effort_path=("reasoning", "effort"),
        drop_params=OPENAI_PARAMS,
    ),
    "together": Profile(family="text", drop_params=OPENAI_PARAMS),
    "moonshot": Profile(
        family="text",
        reasoning_out="reasoning_content",
        reasoning_required_with_calls=True,
        strict_tools=False,
        tool_choices=frozenset({"none", "function"}),
        effort_bodies={"none": _DISABLED},
        drop_params=HOSTED_PARAMS,
    ),
    "zai": Profile(
        family="text",
        reasoning_out="reasoning_content",
        tool_choices=frozenset(),
        response_format="object",
        effort_path=(),
        effort_bodies={"none": _DISABLED, **_each({"thinking": {"type": "enabled"}})},
        include_usage=False,
        idle_timeout_s=600,
        extra_body={"tool_stream": True},
        drop_params=HOSTED_PARAMS,
    ),
    "minimax": Profile(
        family="text",
        think_tags=THINK,
        reasoning_out="think_tags",
        tool_choices=frozenset(),
        strict_tools=False,
        response_format="none",
        effort_path=(),
        drop_params=HOSTED_PARAMS,
    ),
    # A reasoning model behind a server that does not take its thoughts out of the content.
    "think-tags": Profile(family="text", think_tags=THINK, reasoning_out="think_tags"),
}


_MESSAGES_PARAMS: frozenset[OptionalParam] = frozenset(
    {"temperature", "top_p", "top_k", "stop", "safety_identifier", "parallel_tool_calls"}
)
_RESPONSES_LACKS: frozenset[OptionalParam] = PENALTIES | LOCAL_PARAMS | {"seed", "stop"}


def spoken(profile: Profile, dialect: str) -> Profile:
    """*profile* as it is in another dialect than Chat Completions: what that API has or lacks, whoever serves it."""
    if dialect == "anthropic":
        return msgspec.structs.replace(
            profile,
            auth_header="x-api-key" if profile.auth_header == "Authorization" else profile.auth_header,
            audio=False,
            fetches=profile.fetches | {"files"},
            strict_tools=True,
            response_format="schema",
            effort_path=() if profile.thinking == "none" else ("thinking",),
            effort_bodies={},
            logprobs=False,
            drop_params=frozenset(get_args(OptionalParam)) - _MESSAGES_PARAMS,
            thinking_drops=frozenset({"temperature", "top_p", "top_k"}),
        )
    if dialect == "responses":
        return msgspec.structs.replace(
            profile,
            fetches=profile.fetches | {"files"},
            logprobs=profile.logprobs and profile.responses_logprobs,
            effort_path=("reasoning", "effort"),
            effort_bodies={},
            drop_params=profile.drop_params | (_RESPONSES_LACKS if profile.responses_trusted else frozenset()),
        )
    return profile
