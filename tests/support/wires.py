"""The frames of one answer as each dialect has them: the same scenario, in the words of a good server of that API."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from fakes.upstream import frame

Dialect = Literal["chat", "responses", "anthropic"]
DIALECTS: tuple[Dialect, ...] = ("chat", "responses", "anthropic")
ENDS = {
    "chat": {"stop": "stop", "calls": "tool_calls", "length": "length", "filter": "content_filter"},
    "anthropic": {"stop": "end_turn", "calls": "tool_use", "length": "max_tokens", "filter": "refusal"},
}


def wire(dialect: Dialect, *, reasoning: Sequence[str] = (), text: Sequence[str] = (), calls: Sequence[Sequence[str]] = (),
         refusal: str = "", end: str = "stop") -> list[bytes]:  # fmt: skip
    """The frames of an answer: calls are (name, fragment, ...); 9 tokens in, 2 out."""
    makers: dict[Dialect, Callable[..., list[dict[str, Any]]]] = {
        "chat": _chat,
        "responses": _responses,
        "anthropic": _anthropic,
    }
    return [frame(one) for one in makers[dialect](reasoning, text, calls, refusal, end)]


def _chat(
    reasoning: Sequence[str], text: Sequence[str], calls: Sequence[Sequence[str]], refusal: str, end: str
) -> list[Any]:
    deltas: list[Any] = [{"reasoning_content": one} for one in reasoning] + [{"content": one} for one in text]
    for index, (name, *fragments) in enumerate(calls):
        deltas.append(
            {"tool_calls": [{"index": index, "id": f"c{index}", "function": {"name": name, "arguments": ""}}]}
        )
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": one}}]} for one in fragments]
    deltas += [{"refusal": refusal}] if refusal else []
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": ENDS["chat"][end]}]}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    return [*({"choices": [{"index": 0, "delta": one}]} for one in deltas), finish, {"choices": [], "usage": usage}]


def _anthropic(
    reasoning: Sequence[str], text: Sequence[str], calls: Sequence[Sequence[str]], refusal: str, end: str
) -> list[Any]:
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if reasoning:
        blocks.append(
            ({"type": "thinking", "thinking": ""}, [{"type": "thinking_delta", "thinking": one} for one in reasoning])
        )
    if text:
        blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": one} for one in text]))
    for index, (name, *fragments) in enumerate(calls):
        started = {"type": "tool_use", "id": f"c{index}", "name": name, "input": {}}
        blocks.append((started, [{"type": "input_json_delta", "partial_json": one} for one in fragments]))
    events: list[Any] = [{"type": "message_start", "message": {"usage": {"input_tokens": 9}}}]
    for index, (started, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": started})
        events += [{"type": "content_block_delta", "index": index, "delta": one} for one in deltas]
        events.append({"type": "content_block_stop", "index": index})
    stop: dict[str, Any] = {"stop_reason": ENDS["anthropic"][end]}
    if refusal:
        stop = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "explanation": refusal}}
    return [*events, {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 2}}, {"type": "message_stop"}]


def _responses(
    reasoning: Sequence[str], text: Sequence[str], calls: Sequence[Sequence[str]], refusal: str, end: str
) -> list[Any]:
    events: list[Any] = []

    def item(kind: str, way: str, pieces: Sequence[str], **more: Any) -> None:
        place = len([one for one in events if one["type"] == "response.output_item.added"])
        where = {"item_id": f"i{place}", "output_index": place}
        added = {"type": kind, "id": f"i{place}", **more}
        events.append({"type": "response.output_item.added", "output_index": place, "item": added})
        events.extend({"type": f"response.{way}.delta", "delta": one, **where} for one in pieces)
        events.append({"type": "response.output_item.done", "output_index": place, "item": added})

    if reasoning:
        item("reasoning", "reasoning_text", reasoning, summary=[])
    if text:
        item("message", "output_text", text, role="assistant")
    for index, (name, *fragments) in enumerate(calls):
        item("function_call", "function_call_arguments", fragments, call_id=f"c{index}", name=name)
    if refusal:
        item("message", "refusal", [refusal], role="assistant")
    whole: dict[str, Any] = {
        "status": "completed",
        "usage": {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
    }
    if end in ("length", "filter"):
        whole |= {"status": "incomplete"}
        whole["incomplete_details"] = {"reason": "max_output_tokens" if end == "length" else "content_filter"}
    return [*events, {"type": f"response.{whole['status']}", "response": whole}]
