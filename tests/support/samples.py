"""Correct objects and streams, to be broken by the tests of the checker and of the plugin."""

import copy
import itertools
from typing import Any

from support.schemas import Json

RESPONSE_ID = "resp_0a7Gk2mVtqzYdX3bQ9wLr5HsE1uJn8Pc"
USAGE: Json = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 21,
}
FUNCTION_TOOL: Json = {
    "type": "function",
    "name": "get_weather",
    "description": None,
    "parameters": None,
    "strict": None,
}
LOGPROB: Json = {"token": "Hel", "logprob": -0.1, "bytes": [72, 101, 108], "top_logprobs": []}
CITATION: Json = {
    "type": "url_citation",
    "url": "https://example.org/",
    "title": "Page",
    "start_index": 0,
    "end_index": 3,
}


def make_response(status: str = "completed", output: list[Json] | None = None, **changes: Any) -> Json:
    """A Response object that breaks no rule, with *changes* made to it."""
    response: Json = {
        "id": RESPONSE_ID,
        "object": "response",
        "created_at": 1790000000,
        "completed_at": 1790000003 if status == "completed" else None,
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": "tiny",
        "previous_response_id": None,
        "instructions": None,
        "output": output or [],
        "error": {"code": "server_error", "message": "the upstream broke off"} if status == "failed" else None,
        "tools": [FUNCTION_TOOL],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "temperature": 1.0,
        "reasoning": {"effort": None, "summary": None},
        "usage": None if status in ("queued", "in_progress") else USAGE,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "store": True,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }
    return copy.deepcopy(response | changes)


def make_stream(status: str = "completed") -> list[Json]:
    """A stream of six items of all kinds; those other than completed end inside a last message."""
    items = [
        reasoning_events(0, "rs_a0", raw=["Let me", " see."], summary=["A ", "thought."]),
        message_events(1, "msg_a1", ["Hel", "lo"], logprobs=True, citation=True),
        refusal_events(2, "msg_a2", ["No", "."]),
        call_events(3, "fc_a3", "call_1", ['{"city":', '"Rome"}']),
        call_events(4, "fc_a4", "call_2", ["{}"]),
        custom_call_events(5, "ctc_a5", "call_3", ["SELECT", " 1"]),
    ]
    if status != "completed":
        items.append(message_events(6, "msg_a6", ["half a sen"], end="incomplete"))
    output = [events[-1]["item"] for events in items]
    tools = [FUNCTION_TOOL, {"type": "custom", "name": "sql", "description": "runs it", "format": {"type": "text"}}]
    event = "failed" if status == "cancelled" else status
    return number(
        {"type": "response.created", "response": make_response("queued", tools=tools)},
        {"type": "response.queued", "response": make_response("queued", tools=tools)},
        {"type": "response.in_progress", "response": make_response("in_progress", tools=tools)},
        *itertools.chain(*items),
        {"type": f"response.{event}", "response": make_response(status, output, tools=tools)},
    )


def number(*events: Json, first: int = 0) -> list[Json]:
    """Deep copies of *events* with sequence numbers from *first*."""
    return [{**copy.deepcopy(event), "sequence_number": place} for place, event in enumerate(events, first)]


def message_events(
    index: int,
    item_id: str,
    deltas: list[str],
    *,
    logprobs: bool = False,
    citation: bool = False,
    end: str = "completed",
) -> list[Json]:
    at = {"output_index": index, "item_id": item_id, "content_index": 0}
    item = {"type": "message", "id": item_id, "role": "assistant", "status": "in_progress", "content": []}
    entries = [LOGPROB for _ in deltas] if logprobs else []
    notes = [CITATION] if citation else []
    part = {"type": "output_text", "text": "".join(deltas), "annotations": notes, "logprobs": entries}
    texts = [
        {"type": "response.output_text.delta", **at, "delta": delta, "logprobs": [LOGPROB] if logprobs else []}
        for delta in deltas
    ]
    annotations = [
        {"type": "response.output_text.annotation.added", **at, "annotation_index": place, "annotation": note}
        for place, note in enumerate(notes)
    ]
    done = {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": entries}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    closed = [*texts, *annotations, done]
    return _around(index, item, _in_part(at, empty, closed, part), {"content": [part], "status": end})


def refusal_events(index: int, item_id: str, deltas: list[str]) -> list[Json]:
    at = {"output_index": index, "item_id": item_id, "content_index": 0}
    item = {"type": "message", "id": item_id, "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "refusal", "refusal": "".join(deltas)}
    closed = [
        *({"type": "response.refusal.delta", **at, "delta": delta} for delta in deltas),
        {"type": "response.refusal.done", **at, "refusal": part["refusal"]},
    ]
    events = _in_part(at, {"type": "refusal", "refusal": ""}, closed, part)
    return _around(index, item, events, {"content": [part], "status": "completed"})


def reasoning_events(index: int, item_id: str, *, raw: list[str], summary: list[str]) -> list[Json]:
    where = {"output_index": index, "item_id": item_id}
    item = {"type": "reasoning", "id": item_id, "status": "in_progress", "summary": []}
    thought = {"type": "reasoning_text", "text": "".join(raw)}
    short = {"type": "summary_text", "text": "".join(summary)}
    at: Json = {**where, "summary_index": 0}
    summed = [
        {"type": "response.reasoning_summary_part.added", **at, "part": {"type": "summary_text", "text": ""}},
        *({"type": "response.reasoning_summary_text.delta", **at, "delta": delta} for delta in summary),
        {"type": "response.reasoning_summary_text.done", **at, "text": short["text"]},
        {"type": "response.reasoning_summary_part.done", **at, "part": short},
    ]
    at = {**where, "content_index": 0}
    texts = [
        *({"type": "response.reasoning_text.delta", **at, "delta": delta} for delta in raw),
        {"type": "response.reasoning_text.done", **at, "text": thought["text"]},
    ]
    events = [*summed, *_in_part(at, {"type": "reasoning_text", "text": ""}, texts, thought)]
    return _around(index, item, events, {"summary": [short], "content": [thought], "status": "completed"})


def call_events(index: int, item_id: str, call_id: str, deltas: list[str]) -> list[Json]:
    at = {"output_index": index, "item_id": item_id}
    name = "get_weather"
    item = {"type": "function_call", "id": item_id, "call_id": call_id, "name": name, "arguments": ""}
    full = "".join(deltas)
    events = [
        *({"type": "response.function_call_arguments.delta", **at, "delta": delta} for delta in deltas),
        {"type": "response.function_call_arguments.done", **at, "arguments": full, "name": name},
    ]
    return _around(index, {**item, "status": "in_progress"}, events, {"arguments": full, "status": "completed"})


def custom_call_events(index: int, item_id: str, call_id: str, deltas: list[str]) -> list[Json]:
    at = {"output_index": index, "item_id": item_id}
    item = {"type": "custom_tool_call", "id": item_id, "call_id": call_id, "name": "sql", "input": ""}
    full = "".join(deltas)
    events = [
        *({"type": "response.custom_tool_call_input.delta", **at, "delta": delta} for delta in deltas),
        {"type": "response.custom_tool_call_input.done", **at, "input": full},
    ]
    return _around(index, {**item, "status": "in_progress"}, events, {"input": full, "status": "completed"})


def _in_part(at: Json, empty: Json, events: list[Json], part: Json) -> list[Json]:
    return [
        {"type": "response.content_part.added", **at, "part": empty},
        *events,
        {"type": "response.content_part.done", **at, "part": part},
    ]


def _around(index: int, item: Json, events: list[Json], end: Json) -> list[Json]:
    return [
        {"type": "response.output_item.added", "output_index": index, "item": item},
        *events,
        {"type": "response.output_item.done", "output_index": index, "item": item | end},
    ]
