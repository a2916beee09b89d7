"""A context as a worker would send it, for backends that count its tokens: only what is surely the same.

The encoders belong to the worker, and the two rooms never meet; so here stands a plain rendering, for each dialect, of what
most contexts are made of (texts, function calls and their outputs, function tools), and a test holds it against the
worker's. Whatever else there is (images, reasoning, custom tools, formats, choices) gives ``None``, and is estimated.
"""

import json
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

from shared.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    FunctionTool,
    InputText,
    Item,
    Message,
    OutputText,
    TextFormat,
)
from shared.wire.requests import Request

Json = dict[str, Any]


def render_chat(request: Request, items: Sequence[Item]) -> Json | None:
    """``messages`` and ``tools``, as for llama.cpp or vLLM."""
    messages = _messages(items)
    if messages is None or not _is_plain(request):
        return None
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    return {"messages": messages} | _named("tools", [_tool(tool) for tool in _functions(request)])


def render_responses(request: Request, items: Sequence[Item], *, developer: str) -> Json | None:
    """``input``, ``instructions`` and ``tools``; *developer* is the role of developer messages."""
    planned = [_item(item, developer) for item in items]
    if None in planned or not _is_plain(request):
        return None
    tools: list[Json] = [{"type": "function"} | _function(tool) for tool in _functions(request)]
    return {"input": planned} | _named("instructions", request.instructions) | _named("tools", tools)


def render_anthropic(request: Request, items: Sequence[Item]) -> Json | None:
    """``system``, ``messages`` and ``tools``."""
    planned = _turns(items)
    if planned is None or not _is_plain(request) or request.parallel_tool_calls is False:
        return None
    system, turns = planned
    if request.instructions:
        system.insert(0, request.instructions)
    tools = []
    for tool in _functions(request):
        schema = {"type": "object", **(tool.parameters or {"type": "object", "properties": {}})}
        said = {"name": tool.name} | _named("description", tool.description) | {"input_schema": schema}
        tools.append(said | _named("strict", tool.strict or None))
    return {"messages": turns} | _named("system", "\n\n".join(system)) | _named("tools", tools)


def _is_plain(request: Request) -> bool:
    """Whether the model is told of nothing but texts and functions."""
    plain = request.tool_choice == "auto" and isinstance(request.format, TextFormat | None)
    thinks = request.reasoning is not None and request.reasoning.effort is not None
    return plain and not thinks and len(_functions(request)) == len(request.tools)


def _functions(request: Request) -> list[FunctionTool]:
    return [tool for tool in request.tools if isinstance(tool, FunctionTool)]


def _named(name: str, value: Any) -> Json:
    return {name: value} if value else {}


def _item(item: Item, developer: str) -> Json | None:
    if isinstance(item, FunctionCall) and item.namespace is None and item.status != "incomplete":
        return {"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
    if isinstance(item, FunctionCallOutput):
        text = _text(item.output, "\n")
        return None if text is None else {"type": "function_call_output", "call_id": item.call_id, "output": text}
    if not isinstance(item, Message) or _text(item.content, "") is None:
        return None
    role = developer if item.role == "developer" else item.role
    said: Any = item.content
    if item.role == "assistant":
        said = [{"type": "output_text", "text": text, "annotations": []} for text in _texts(item) if text]
        return {"type": "message", "role": role, "content": said, "status": "completed"}
    if not isinstance(said, str):
        said = [{"type": "input_text", "text": text} for text in _texts(item)]
    return {"type": "message", "role": role, "content": said}


def _turns(items: Sequence[Item]) -> tuple[list[str], list[Json]] | None:
    """(system texts, turns of user and assistant); the outputs of a turn's calls come first in the next."""
    outputs: dict[str, deque[str]] = {}
    for item in items:
        if isinstance(item, FunctionCallOutput):
            if (text := _text(item.output, "\n")) is None or not isinstance(item.output, str):
                return None
            outputs.setdefault(item.call_id, deque()).append(text)
    system: list[str] = []
    turns: list[Json] = []
    waiting: list[Json] = []

    def add(role: str, blocks: list[Json]) -> None:
        told = [block for block in blocks if block["type"] != "text" or block["text"].strip()]
        if told and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += told
        elif told:
            turns.append({"role": role, "content": told})

    def answer() -> None:
        add("user", waiting)
        waiting.clear()

    for item in items:
        if isinstance(item, FunctionCall) and item.namespace is None:
            given, found = _object(item.arguments), outputs.get(item.call_id)
            if given is None or not found or not re.fullmatch(r"[a-zA-Z0-9_-]+", item.call_id):
                return None
            add("assistant", [{"type": "tool_use", "id": item.call_id, "name": item.name, "input": given}])
            waiting.append({"type": "tool_result", "tool_use_id": item.call_id, "content": found.popleft()})
        elif isinstance(item, FunctionCallOutput):
            answer()
        elif not isinstance(item, Message) or _text(item.content, "") is None:
            return None
        elif item.role in ("system", "developer"):
            system.append("\n".join(text for text in _texts(item) if text))
        else:
            if item.role == "user":
                answer()
            add(item.role, [{"type": "text", "text": text} for text in _texts(item)])
    answer()
    if not turns or turns[-1]["role"] == "assistant":
        return None  # there is more to it
    return [text for text in system if text], turns


def _texts(message: Message) -> list[str]:
    """Of its parts, which are all texts."""
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if isinstance(part, InputText | OutputText)]


def _object(arguments: str) -> Json | None:
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def _tool(tool: FunctionTool) -> Json:
    return {"type": "function", "function": _function(tool)}


def _function(tool: FunctionTool) -> Json:
    known = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    function = {name: value for name, value in known.items() if value is not None}
    return {"parameters": {"type": "object", "properties": {}}, **function}


def _messages(items: Sequence[Item]) -> list[Json] | None:
    """A turn's calls are part of its message, and their outputs stand directly behind it."""
    outputs: dict[str, deque[Json]] = {}
    for item in items:
        if isinstance(item, FunctionCallOutput):
            if (text := _text(item.output, "\n")) is None:
                return None
            answer = {"role": "tool", "tool_call_id": item.call_id, "content": text}
            outputs.setdefault(item.call_id, deque()).append(answer)
    messages: list[Json] = []
    answers: list[Json] = []
    turn: Json | None = None
    for item in items:
        if isinstance(item, FunctionCall) and item.namespace is None:
            found = outputs.get(item.call_id)
            if not found:
                return None  # cut in mid-answer
            if turn is None:
                turn = {"role": "assistant", "content": None}
                messages.append(turn)
            function = {"name": item.name, "arguments": item.arguments}
            turn.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
            answers.append(found.popleft())
            continue
        messages += answers
        answers, turn = [], None
        if isinstance(item, Message):
            text = _text(item.content, "" if item.role == "assistant" else "\n")
            if text is None:
                return None
            messages.append({"role": "system" if item.role == "developer" else item.role, "content": text})
            turn = messages[-1] if item.role == "assistant" else None
        elif not isinstance(item, FunctionCallOutput):
            return None
    return messages + answers


def _text(content: str | Sequence[object], joint: str) -> str | None:
    """The text of *content*, if it is nothing else."""
    if isinstance(content, str):
        return content
    parts = [part.text for part in content if isinstance(part, InputText | OutputText)]
    return joint.join(parts) if len(parts) == len(content) else None
