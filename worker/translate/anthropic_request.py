"""A request of ours as the body of a Messages call.

System texts stand apart there; turns of user and assistant alternate; the results of calls come first in the turn behind
them; thinking goes back only with its signature, and only in front of what it led to.
"""

from collections.abc import Mapping

import msgspec

from shared.core.profiles import OptionalParam
from shared.core.tools import Offer, fits, limit, offers
from shared.wire.items import (
    AllowedTools,
    CustomChoice,
    CustomTool,
    FunctionChoice,
    JsonObjectFormat,
    JsonSchemaFormat,
)
from worker.translate.anthropic_messages import Json, plan_turns
from worker.translate.bodies import merge, plan_params
from worker.translate.custom_tools import plan_function
from worker.translate.dialect import Ask

BUDGETS: Mapping[str, int] = {
    "minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 24_576, "max": 32_768,
}  # fmt: skip
"""Tokens of thinking, where the server takes a number."""
EFFORTS: Mapping[str, str] = {"minimal": "low"}
"""Ours to theirs, where they differ."""
JSON_TOOL = "json_answer"
"""What a forced tool for structured output is called, unless the format has a name."""
_PARAMS: tuple[OptionalParam, ...] = ("temperature", "top_p", "top_k", "stop", "safety_identifier")
_NO_PARAMETERS: Json = {"type": "object", "properties": {}}


def encode_anthropic(ask: Ask) -> bytes:
    return msgspec.json.encode(plan_body(ask))


def plan_body(ask: Ask) -> Json:
    request, profile = ask.request, ask.profile
    system, messages = plan_turns(ask)
    most = request.max_output_tokens or profile.max_tokens_default
    body: Json = {"model": ask.model, "messages": messages, "max_tokens": most, "stream": True}
    if system:
        body["system"] = system
    tools, choice = _tools(ask)
    thinking = _thinking(ask, messages, forced=choice.get("type") in ("any", "tool"))
    if thinking.get("type") == "enabled" and request.max_output_tokens is None:
        body["max_tokens"] = most + thinking["budget_tokens"]  # it counts thinking, too
    dropped = profile.drop_params
    if thinking.get("type") in ("enabled", "adaptive"):
        dropped = dropped | profile.thinking_drops
    said = plan_params(request, profile, _PARAMS, dropped)
    if stop := said.pop("stop", None):
        said["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if (user := said.pop("safety_identifier", None)) is not None:
        said["metadata"] = {"user_id": user}
    body |= said
    if tools:
        body["tools"] = tools
    if choice:
        body["tool_choice"] = choice
    if thinking:
        body["thinking"] = thinking
    if config := _output_config(ask):
        body["output_config"] = config
    merge(body, profile.extra_body)
    return body


def json_tool(ask: Ask) -> str | None:
    """The name of the tool that stands for structured output, where it does."""
    wanted = ask.request.format
    if isinstance(ask.request.tool_choice, FunctionChoice | CustomChoice):
        return None  # the answer is a call, and its schema is the tool's
    if isinstance(wanted, JsonSchemaFormat):
        return None if ask.profile.schema_output == "native" else wanted.name
    return JSON_TOOL if isinstance(wanted, JsonObjectFormat) else None


def _output_config(ask: Ask) -> Json:
    wanted = ask.request.format
    config: Json = {}
    effort = ask.request.reasoning.effort if ask.request.reasoning else None
    if ask.profile.thinking == "adaptive" and effort not in (None, "none"):
        config["effort"] = ask.profile.effort_map.get(effort, EFFORTS.get(effort, effort))
    if isinstance(wanted, JsonSchemaFormat) and ask.profile.schema_output == "native":
        config["format"] = {"type": "json_schema", "schema": wanted.schema}
    return config


def _thinking(ask: Ask, messages: list[Json], *, forced: bool) -> Json:
    """``thinking``: a forced call and thinking exclude each other, and the call is what the client relies on.

    With a budget, a turn that goes on behind calls must have begun with thinking.
    """
    effort = ask.request.reasoning.effort if ask.request.reasoning else None
    if effort is None or ask.profile.thinking == "none":
        return {}
    if effort == "none" or forced:
        return {"type": "disabled"}
    if ask.profile.thinking == "adaptive":
        return {"type": "adaptive"}
    *_, turn, last = [{"content": [{"type": "text"}]}] * 2 + messages
    if last["content"][0]["type"] == "tool_result" and "thinking" not in turn["content"][0]["type"]:
        return {}
    budget = BUDGETS[effort]
    if (most := ask.request.max_output_tokens) is not None:
        if most <= BUDGETS["minimal"]:
            return {}
        budget = min(budget, max(most * 3 // 4, BUDGETS["minimal"]))  # the rest is for the answer
    return {"type": "enabled", "budget_tokens": budget}


def _tools(ask: Ask) -> tuple[list[Json], Json]:
    """``tools`` and ``tool_choice``; auto is the default, and only said to say more."""
    request, profile = ask.request, ask.profile
    offered, choice = list(offers(request.tools)), request.tool_choice
    wanted: Json = {}
    if isinstance(choice, FunctionChoice | CustomChoice):
        offered = [tool for tool in offered if fits(choice, tool)]
        if offered:
            wanted = (
                {"type": "tool", "name": offered[0].name} if "function" in profile.tool_choices else {"type": "any"}
            )
    elif isinstance(choice, AllowedTools):
        allowed = limit(choice, offered) or ()
        offered = [tool for tool in offered if tool.name in allowed]
        wanted = {"type": "any"} if choice.mode == "required" else {}
    elif choice == "required":
        wanted = {"type": "any"}
    elif choice == "none":
        if "none" in profile.tool_choices and offered:
            wanted = {"type": "none"}
        else:
            offered = []
    tools = [_tool(tool, strict=profile.strict_tools) for tool in offered]
    name = json_tool(ask)
    if name is not None:
        tools = [] if choice == "none" else tools
        tools.append(_json_tool(ask, name))
        wanted = {"type": "any"} if len(tools) > 1 else {"type": "tool", "name": name}
    if not tools:
        return [], {}
    if wanted.get("type") == "any" and "required" not in profile.tool_choices:
        wanted = {}
    if request.parallel_tool_calls is False and "parallel_tool_calls" not in profile.drop_params:
        wanted = wanted or {"type": "auto"}
        if wanted["type"] != "none":
            wanted["disable_parallel_tool_use"] = True
    return tools, wanted


def _tool(offer: Offer, *, strict: bool) -> Json:
    tool = offer.tool
    if isinstance(tool, CustomTool):
        function = plan_function(tool, offer.name)
        function["input_schema"] = function.pop("parameters")
        return function
    plan: Json = {"name": offer.name}
    if tool.description:
        plan["description"] = tool.description
    plan["input_schema"] = {"type": "object", **(tool.parameters or _NO_PARAMETERS)}
    if tool.strict and strict:
        plan["strict"] = True
    return plan


def _json_tool(ask: Ask, name: str) -> Json:
    wanted = ask.request.format
    schema: Json = {"type": "object"}
    description = "Answer by calling this tool: its input is your whole answer."
    if isinstance(wanted, JsonSchemaFormat):
        schema = wanted.schema
        description = f"{description} {wanted.description or ''}".strip()
    return {"name": name, "description": description, "input_schema": schema}
