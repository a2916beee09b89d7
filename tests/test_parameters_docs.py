"""The table of dialects in docs/api.md is what the dialects do. `python tests/test_parameters_docs.py` prints it."""

import json
from pathlib import Path
from typing import Any

from shared.core.fitness import left_out, misfits
from shared.core.profiles import PROFILES, Preset, spoken
from shared.wire.items import (
    FunctionChoice,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
)
from shared.wire.requests import CreateBody, Request
from shared.wire.responses import PromptCacheOptions, ReasoningEcho
from support.answers import STATE
from support.wires import Dialect
from worker.backends.base import DIALECTS
from worker.translate.dialect import Ask

DOCS = Path(__file__).parents[1] / "docs/api.md"
COLUMNS: dict[Dialect, tuple[Preset, Preset]] = {
    "chat": ("generic", "openai"), "anthropic": ("generic", "anthropic"), "responses": ("generic", "openai"),
}  # fmt: skip
"""The profiles that each dialect is shown with: whatever it serves, and the one who made it."""
TOOLS = [FunctionTool("f"), FunctionTool("g")]
SAMPLES: dict[str, dict[str, Any]] = {
    "instructions": {"instructions": "Be brief."},
    "include: message.output_text.logprobs": {"include": ["message.output_text.logprobs"]},
    "include: any other": {"include": ["reasoning.encrypted_content", "file_search_call.results"]},
    "max_output_tokens": {"max_output_tokens": 99},
    "max_tool_calls": {"max_tool_calls": 3},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "top_logprobs": {"top_logprobs": 2},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "tools": {"tools": TOOLS},
    "tool_choice: required": {"tool_choice": "required"},
    "tool_choice: a function": {"tool_choice": FunctionChoice("f")},
    "text.format: json_object": {"format": JsonObjectFormat()},
    "text.format: json_schema": {"format": JsonSchemaFormat("n", {"type": "object"})},
    "text.verbosity": {"verbosity": "low"},
    "reasoning.effort": {"reasoning": ReasoningEcho(effort="low")},
    "reasoning.summary": {"reasoning": ReasoningEcho(summary="auto")},
    "truncation": {"truncation": "auto"},
    "metadata": {"metadata": {"a": "b"}},
    "service_tier": {"service_tier": "flex"},
    "store": {"store": False},
    "background": {"background": True},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "prompt_cache_options": {"prompt_cache_options": PromptCacheOptions()},
    "safety_identifier": {"safety_identifier": "k"},
    "user": {"user": "k"},
    "seed": {"seed": 3},
    "stop": {"stop": "x"},
    "top_k": {"top_k": 3},
    "repetition_penalty": {"repetition_penalty": 1.1},
}
ELSEWHERE = {"model", "input", "stream", "stream_options", "previous_response_id", "conversation", "prompt"}
"""What becomes of them is no matter of dialects."""
NOT_OFFERED = {"access_programs", "background_options", "context_management", "image", "moderation", "multi_agent"}


def table() -> list[str]:
    head = ["| parameter | over `chat` | over `anthropic` | over `responses` |", "| --- | --- | --- | --- |"]
    rows = {name: [cell(dialect, name) for dialect in COLUMNS] for name in SAMPLES}
    return [*head, *(f"| {shown(name)} | {' | '.join(cells)} |" for name, cells in rows.items())]


def shown(name: str) -> str:
    field, _, value = name.partition(": ")
    return f"`{field}`, {value}" if " " in value else f"`{field}` `{value}`" if value else f"`{field}`"


def cell(dialect: Dialect, name: str) -> str:
    common, own = COLUMNS[dialect]
    usual, special = word(dialect, common, name), word(dialect, own, name)
    return usual if usual == special else f"{usual}; with `{own}` {special}"


def word(dialect: Dialect, preset: Preset, name: str) -> str:
    """What becomes of one parameter, in a word."""
    profile, request = spoken(PROFILES[preset], dialect), asked(SAMPLES[name])
    if any(misfits(request, (), (), profile)):
        return "400"
    if left_out(request, profile):
        return "left out"
    before = body(dialect, preset, {"tools": TOOLS} if name.startswith(("tool_choice", "parallel")) else {})
    after = body(dialect, preset, SAMPLES[name])
    keys = [key for key in sorted(after) if before.get(key) != after[key]]
    assert before.keys() <= after.keys()
    return "same name" if keys == [name] else ", ".join(f"`{key}`" for key in keys) or "-"


def body(dialect: Dialect, preset: Preset, fields: dict[str, Any]) -> dict[str, Any]:
    ask = Ask(asked(fields), [Message("user", "Hi")], "m", spoken(PROFILES[preset], dialect), STATE)
    sent = json.loads(DIALECTS[dialect].encode(ask))
    assert isinstance(sent, dict)
    return sent


def asked(fields: dict[str, Any]) -> Request:
    tools = {"tools": TOOLS} if {"tool_choice", "parallel_tool_calls"} & fields.keys() else {}
    return Request(id="r", created_at=1, model="m", **tools, **fields)


def test_the_table_of_dialects() -> None:
    section = DOCS.read_text().partition("### Over each dialect\n")[2].partition("\n##")[0]
    assert [line for line in section.splitlines() if line.startswith("|")] == table()


def test_every_parameter_has_its_row() -> None:
    rows = {name.partition(":")[0].partition(".")[0] for name in SAMPLES}
    assert rows | ELSEWHERE | NOT_OFFERED == set(CreateBody.__struct_fields__)


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201  # for the docs
