"""A request of ours as the body of a Chat Completions call. What cannot be said there was refused at the front end.

The answer is always streamed: that gives cancellation, idle timers and partial output, whatever our client asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from shared.core.profiles import OptionalParam, Profile
from shared.core.tools import Offer, fits, limit, offers
from shared.wire.items import (
    AllowedTools,
    CustomChoice,
    CustomTool,
    FunctionChoice,
    Item,
)
from shared.wire.requests import Request
from worker.translate.bodies import merge, plan_params, plan_response_format, say_schema
from worker.translate.chat_calls import Offered
from worker.translate.chat_messages import NOTHING_KEPT, Json, plan_messages
from worker.translate.custom_tools import plan_function
from worker.translate.state import Kept

# Sent under the same name when the request has them.
_SAME_NAME: tuple[OptionalParam, ...] = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "top_k",
    "repetition_penalty",
    "verbosity",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
    "user",
)
_NO_PARAMETERS: Json = {"type": "object", "properties": {}}


def encode_chat(
    request: Request, items: Sequence[Item], *, model: str, profile: Profile, states: Mapping[int, Kept] = NOTHING_KEPT
) -> bytes:
    """*items* is the whole context in order, without the request's instructions; *model* the backend's own name; *states*
    what its family wants back, by the place of the reasoning item."""
    wanted = [request.instructions, say_schema(request, profile)]
    messages = plan_messages("\n\n".join(text for text in wanted if text), items, profile, states)
    body: Json = {"model": model, "messages": messages, "stream": True}
    if profile.include_usage:
        body["stream_options"] = {"include_usage": True}
    if request.max_output_tokens is not None:
        body[profile.max_tokens_field] = request.max_output_tokens
    body |= plan_params(request, profile, _SAME_NAME)
    if request.service_tier != "default" and "service_tier" not in profile.drop_params:
        body["service_tier"] = request.service_tier
    if profile.logprobs and (request.top_logprobs or "message.output_text.logprobs" in request.include):
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    body |= _tools(request, profile)
    body |= plan_response_format(request, profile)
    merge(body, _effort(request, profile))
    merge(body, profile.extra_body)
    return msgspec.json.encode(body)


def offered_by(request: Request) -> Offered:
    """What the model may call, for whoever reads its answer."""
    offered = list(offers(request.tools))
    named = {offer.name: offer for offer in offered}
    return Offered(named, limit(request.tool_choice, offered), request.parallel_tool_calls is not False)


def _tools(request: Request, profile: Profile) -> Json:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls``. Auto is everybody's default and not sent."""
    tools, choice = list(offers(request.tools)), request.tool_choice
    wanted: Any = None
    if isinstance(choice, FunctionChoice | CustomChoice):
        tools = [tool for tool in tools if fits(choice, tool)]
        if "function" in profile.tool_choices:
            wanted = {"type": "function", "function": {"name": tools[0].name}} if tools else None
        elif "required" in profile.tool_choices:
            wanted = "required"
    elif isinstance(choice, AllowedTools):
        allowed = limit(choice, tools) or ()
        tools = [tool for tool in tools if tool.name in allowed]
        if choice.mode in profile.tool_choices:
            wanted = choice.mode
    elif choice in profile.tool_choices:
        wanted = choice
    elif choice == "none":
        tools = []
    if not tools:
        return {}
    found: Json = {"tools": [_tool(tool, profile) for tool in tools]}
    if wanted is not None:
        found["tool_choice"] = wanted
    if request.parallel_tool_calls is not None and "parallel_tool_calls" not in profile.drop_params:
        found["parallel_tool_calls"] = request.parallel_tool_calls
    return found


def _tool(offer: Offer, profile: Profile) -> Json:
    tool = offer.tool
    if isinstance(tool, CustomTool):
        return {"type": "function", "function": plan_function(tool, offer.name)}
    function: Json = {"name": offer.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    if tool.strict is not None and profile.strict_tools:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _effort(request: Request, profile: Profile) -> Json:
    effort = request.reasoning.effort if request.reasoning is not None else None
    if effort is None:
        return {}
    if effort in profile.effort_bodies:
        return profile.effort_bodies[effort]
    if not profile.effort_path:
        return {}
    said: Any = profile.effort_map.get(effort, effort)
    for name in reversed(profile.effort_path):
        said = {name: said}
    return cast(Json, said)
