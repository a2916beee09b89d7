"""The Response of a request before anything has happened to it."""

import msgspec

from shared.wire.items import Format, JsonSchemaFormat, TextFormat
from shared.wire.requests import Request
from shared.wire.responses import ReasoningEcho, Response, TextEcho

SHOWN_IF_GIVEN = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"),
    *("user", "prompt", "prompt_cache_retention", "prompt_cache_options"),
)
"""Else the Response has the API's default for it, or no such key."""


def draft(request: Request) -> Response:
    """The queued Response: the request echoed, with the API's defaults where it was silent.

    The same for the same request, so that the front end and every attempt of a worker agree. Nothing in it is shared
    with *request* that anyone changes.
    """
    response = Response(
        id=request.id,
        created_at=request.created_at,
        status="queued",
        output=[],
        model=request.model,
        background=request.background,
        store=request.store,
        instructions=request.instructions,
        previous_response_id=request.previous_response_id,
        conversation=request.conversation,
        tools=request.tools,
        tool_choice=request.tool_choice,
        text=TextEcho(_format(request), request.verbosity or "medium"),
        reasoning=ReasoningEcho(),
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        truncation=request.truncation,
        service_tier=request.service_tier,
        metadata=request.metadata,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
    )
    if request.reasoning is not None:
        response.reasoning = ReasoningEcho(request.reasoning.effort, request.reasoning.summary)
    if request.parallel_tool_calls is not None:
        response.parallel_tool_calls = request.parallel_tool_calls
    for name in SHOWN_IF_GIVEN:
        value = getattr(request, name)
        if value is not None:
            setattr(response, name, value)
    return response


def _format(request: Request) -> Format:
    wanted = request.format or TextFormat()
    if isinstance(wanted, JsonSchemaFormat):
        return msgspec.structs.replace(wanted, strict=bool(wanted.strict))
    return wanted
