"""A request of ours as the body of a call to another server of the Responses API.

It keeps nothing for us (``store: false``), gets the whole history, and none of our ids. Tools of a namespace are offered
flat, under joined names: not every such server knows namespaces.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.core.profiles import OptionalParam, Profile
from shared.core.tools import Offer, fits, joined_name, limit, offers
from shared.wire.items import (
    AllowedTools,
    CustomChoice,
    CustomTool,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    FunctionChoice,
    InputPart,
    InputText,
    Item,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    OutputText,
    Reasoning,
    Refusal,
)
from worker.translate.bodies import merge, plan_params, plan_response_format, say_schema
from worker.translate.custom_tools import plan_function, wrap
from worker.translate.dialect import Ask
from worker.translate.state import Kept, open_states

Json = dict[str, Any]

_PARAMS: tuple[OptionalParam, ...] = (
    "temperature",
    "top_p",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
    "user",
    # Not in that API: profiles of servers that refuse them drop them.
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "top_k",
    "repetition_penalty",
)
LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
_NO_PARAMETERS: Json = {"type": "object", "properties": {}}


def encode_responses(ask: Ask) -> bytes:
    request, profile = ask.request, ask.profile
    body: Json = {"model": ask.model, "input": plan_input(ask), "stream": True, "store": False}
    told = [request.instructions, say_schema(request, profile)]
    if instructions := "\n\n".join(text for text in told if text):
        body["instructions"] = instructions
    if request.max_output_tokens is not None:
        body["max_output_tokens"] = request.max_output_tokens
    body |= plan_params(request, profile, _PARAMS)
    if request.service_tier != "default" and "service_tier" not in profile.drop_params:
        body["service_tier"] = request.service_tier
    if request.truncation == "auto" and profile.responses_trusted:
        body["truncation"] = "auto"
    body |= _tools(request.tool_choice, list(offers(request.tools)), profile)
    if "tools" in body and request.parallel_tool_calls is not None and "parallel_tool_calls" not in profile.drop_params:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if text := _text(ask):
        body["text"] = text
    if profile.responses_chat_format:
        body |= plan_response_format(request, profile)
    if request.reasoning is not None:
        effort = request.reasoning.effort
        wanted = {"effort": profile.effort_map.get(effort, effort) if effort else None}
        wanted["summary"] = request.reasoning.summary
        if said := {name: value for name, value in wanted.items() if value is not None}:
            body["reasoning"] = said
    include = [ENCRYPTED] if profile.responses_trusted else []
    if profile.logprobs and (request.top_logprobs or LOGPROBS in request.include):
        include.append(LOGPROBS)
        body["top_logprobs"] = request.top_logprobs or 0
    if include:
        body["include"] = include
    merge(body, profile.extra_body)
    return msgspec.json.encode(body)


def plan_input(ask: Ask) -> list[Json]:
    kept = open_states(ask.items, family_of(ask.profile), ask.state)
    answered = {item.call_id for item in ask.items if isinstance(item, FunctionCallOutput | CustomToolCallOutput)}
    planned = (
        _item(item, kept.get(place), ask.profile)
        for place, item in enumerate(ask.items)
        if not (
            isinstance(item, FunctionCall | CustomToolCall)
            and item.status == "incomplete"  # what is left of an answer that was cut: nobody ran it
            and item.call_id not in answered
        )
    )
    return [item for item in planned if item is not None]


def family_of(profile: Profile) -> str:
    """Whose state it is that is kept."""
    return f"responses/{profile.family}"


def _item(item: Item, kept: Kept | None, profile: Profile) -> Json | None:
    """*item* without what is ours; ``None`` for what that server could not make sense of."""
    match item:
        case Message():
            return _message(item, profile)
        case Reasoning():
            return _reasoning(item, kept, profile)
        case FunctionCall():
            name = joined_name(item.name, item.namespace)
            return {"type": "function_call", "call_id": item.call_id, "name": name, "arguments": item.arguments}
        case CustomToolCall():
            name = joined_name(item.name, item.namespace)
            if profile.responses_trusted:
                return {"type": "custom_tool_call", "call_id": item.call_id, "name": name, "input": item.input}
            return {"type": "function_call", "call_id": item.call_id, "name": name, "arguments": wrap(item.input)}
        case FunctionCallOutput() | CustomToolCallOutput():
            native = isinstance(item, CustomToolCallOutput) and profile.responses_trusted
            kind = "custom_tool_call_output" if native else "function_call_output"
            return {"type": kind, "call_id": item.call_id, "output": _output(item.output)}


def _message(message: Message, profile: Profile) -> Json:
    role = profile.system_role if message.role == "developer" else message.role
    planned: Json = {"type": "message", "role": role}
    if message.role == "assistant":
        parts = [OutputText(message.content)] if isinstance(message.content, str) else message.content
        planned["content"] = [said for part in parts if (said := _said(part, profile)) is not None]
        planned["status"] = "completed"  # what llama.cpp knows an answer of before by
        if message.phase is not None and profile.responses_trusted:
            planned["phase"] = message.phase
    elif isinstance(message.content, str):
        planned["content"] = message.content
    else:
        planned["content"] = [
            part if not isinstance(part, OutputText | Refusal) else InputText(_words(part)) for part in message.content
        ]
    return planned


def _said(part: Any, profile: Profile) -> Json | None:
    if isinstance(part, Refusal) and profile.refusal_field:
        return {"type": "refusal", "refusal": part.refusal}
    text = _words(part)
    return {"type": "output_text", "text": text, "annotations": []} if text else None


def _words(part: Any) -> str:
    if isinstance(part, Refusal):
        return part.refusal
    return part.text if isinstance(part, InputText | OutputText) else ""


def _reasoning(item: Reasoning, kept: Kept | None, profile: Profile) -> Json | None:
    planned: Json = {"type": "reasoning", "summary": item.summary or []}
    if kept is not None and isinstance(kept.data, str):
        return planned | {"encrypted_content": kept.data}
    text = "".join(part.text for part in item.content or item.summary or [])
    if profile.reasoning_out == "drop" or not text:
        return None
    return planned | {"content": [{"type": "reasoning_text", "text": text}]}


def _output(output: str | Sequence[InputPart]) -> Any:
    """A plain text where that says it all: not every server takes parts."""
    if isinstance(output, str) or not all(isinstance(part, InputText) for part in output):
        return output
    return "\n".join(part.text for part in output if isinstance(part, InputText))


def _tools(choice: Any, offered: list[Offer], profile: Profile) -> Json:
    wanted: Any = None
    if isinstance(choice, FunctionChoice | CustomChoice):
        offered = [tool for tool in offered if fits(choice, tool)]
        if offered and "function" in profile.tool_choices:
            wanted = {"type": _tool(offered[0], profile)["type"], "name": offered[0].name}
        elif "required" in profile.tool_choices:
            wanted = "required"
    elif isinstance(choice, AllowedTools):
        allowed = limit(choice, offered) or ()
        offered = [tool for tool in offered if tool.name in allowed]
        wanted = choice.mode if choice.mode in profile.tool_choices else None
    elif choice in profile.tool_choices:
        wanted = choice
    elif choice == "none":
        offered = []
    if not offered:
        return {}
    found: Json = {"tools": [_tool(tool, profile) for tool in offered]}
    return found | ({"tool_choice": wanted} if wanted is not None else {})


def _tool(offer: Offer, profile: Profile) -> Json:
    tool = offer.tool
    if isinstance(tool, CustomTool):
        if not profile.responses_trusted:
            return {"type": "function", **plan_function(tool, offer.name)}
        planned: Json = {"type": "custom", "name": offer.name, "format": {"type": "text"}}
    else:
        planned = {"type": "function", "name": offer.name, "parameters": tool.parameters or _NO_PARAMETERS}
        if tool.strict is not None and profile.strict_tools:
            planned["strict"] = tool.strict
    return planned | ({"description": tool.description} if tool.description is not None else {})


def _text(ask: Ask) -> Json:
    wanted, profile = ask.request.format, ask.profile
    found: Json = {}
    if ask.request.verbosity is not None and "verbosity" not in profile.drop_params:
        found["verbosity"] = ask.request.verbosity
    if isinstance(ask.request.tool_choice, FunctionChoice | CustomChoice):
        return found  # some clients ask for both; the answer is a call then, and its schema is the tool's
    if isinstance(wanted, JsonSchemaFormat) and profile.response_format == "schema":
        found["format"] = wanted
    elif isinstance(wanted, JsonObjectFormat | JsonSchemaFormat) and profile.response_format != "none":
        found["format"] = {"type": "json_object"}
    return found
