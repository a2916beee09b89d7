"""Requests as the bodies of Chat Completions calls."""

import json
from typing import Any

import msgspec
import pytest

from shared.core.profiles import PROFILES, Profile
from shared.wire.items import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    TextFormat,
)
from shared.wire.requests import Request
from shared.wire.responses import ReasoningEcho
from worker.translate.chat_request import encode_chat

GENERIC = PROFILES["generic"]
TOOLS = [FunctionTool("f", "does f", {"type": "object"}, True), FunctionTool("g")]


def encode(profile: Profile = GENERIC, **fields: Any) -> dict[str, Any]:
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="public", **fields)
    body: dict[str, Any] = json.loads(encode_chat(request, [Message("user", "hi")], model="m", profile=profile))
    return body


PLAIN = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def test_a_plain_request_says_nothing_that_nobody_asked_for() -> None:
    assert encode() == PLAIN
    # what is ours, or has no effect there
    ours = {"store": False, "background": True, "metadata": {"a": "b"}, "max_tool_calls": 1, "format": TextFormat()}
    assert encode(**ours) == PLAIN
    assert encode(previous_response_id="resp_x", include=["reasoning.encrypted_content"]) == PLAIN


def test_usage_is_not_asked_for_where_that_is_refused() -> None:
    assert "stream_options" not in encode(Profile(include_usage=False))


def test_parameters_with_the_same_name() -> None:
    sampling = {
        "temperature": 0.0,
        "top_p": 0.5,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "seed": 0,
        "stop": ["a", "b"],
        "top_k": 3,
        "repetition_penalty": 1.1,
    }
    others = {"verbosity": "low", "prompt_cache_key": "k", "safety_identifier": "s", "user": "u"}
    assert encode(**sampling, **others) == PLAIN | sampling
    openai = encode(PROFILES["openai"], **sampling, **others)
    assert openai.keys() == (PLAIN | sampling | others | {"store": False}).keys() - {"top_k", "repetition_penalty"}


def test_limits_of_the_profile() -> None:
    profile = Profile(clamp={"temperature": (0.0, 1.0)}, drop_params=frozenset({"stop"}))
    body = encode(profile, temperature=1.5, stop="x", user="u")
    assert (body["temperature"], body["user"]) == (1.0, "u")
    assert "stop" not in body


@pytest.mark.parametrize(("name", "key"), [("generic", "max_tokens"), ("openai", "max_completion_tokens")])
def test_the_output_limit(name: str, key: str) -> None:
    body = encode(PROFILES[name], max_output_tokens=16)
    assert body[key] == 16
    assert not body.keys() & ({"max_tokens", "max_completion_tokens", "max_output_tokens"} - {key})


def test_logprobs() -> None:
    assert encode(top_logprobs=2) == PLAIN | {"logprobs": True, "top_logprobs": 2}
    assert encode(include=["message.output_text.logprobs"], top_logprobs=0) == PLAIN | {"logprobs": True}
    assert encode(Profile(logprobs=False), top_logprobs=2) == PLAIN


def test_tools() -> None:
    body = encode(tools=TOOLS, parallel_tool_calls=False)
    f = {"name": "f", "description": "does f", "parameters": {"type": "object"}, "strict": True}
    g = {"name": "g", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": f}, {"type": "function", "function": g}]
    assert body == PLAIN | {"tools": tools, "parallel_tool_calls": False}
    del f["strict"]
    assert encode(Profile(strict_tools=False), tools=TOOLS)["tools"] == tools


def test_without_tools_nothing_about_them_is_sent() -> None:
    assert encode(parallel_tool_calls=False, tool_choice="none") == PLAIN


ONLY_F = FunctionChoice("f")
CHOICES: list[tuple[Any, frozenset[Any], Any, list[str]]] = [
    ("auto", frozenset(), None, ["f", "g"]),
    ("none", frozenset({"none"}), "none", ["f", "g"]),
    ("none", frozenset(), None, []),
    ("required", frozenset({"required"}), "required", ["f", "g"]),
    ("required", frozenset(), None, ["f", "g"]),
    (ONLY_F, frozenset({"function"}), {"type": "function", "function": {"name": "f"}}, ["f"]),
    (ONLY_F, frozenset({"required"}), "required", ["f"]),
    (ONLY_F, frozenset(), None, ["f"]),
    (AllowedTools("auto", [ONLY_F]), frozenset({"required"}), None, ["f"]),
    (AllowedTools("required", [ONLY_F]), frozenset({"required"}), "required", ["f"]),
    (AllowedTools("required", [ONLY_F]), frozenset(), None, ["f"]),
]


@pytest.mark.parametrize(("choice", "known", "sent", "names"), CHOICES)
def test_tool_choice(choice: Any, known: frozenset[Any], sent: Any, names: list[str]) -> None:
    body = encode(Profile(tool_choices=known), tools=TOOLS, tool_choice=choice)
    assert body.get("tool_choice") == sent
    assert [tool["function"]["name"] for tool in body.get("tools", [])] == names


def test_response_formats() -> None:
    schema = JsonSchemaFormat("answer", {"type": "object"}, "an answer", True)
    wanted = {"name": "answer", "schema": {"type": "object"}, "strict": True, "description": "an answer"}
    assert encode(format=schema)["response_format"] == {"type": "json_schema", "json_schema": wanted}
    short = {"name": "n", "schema": {}, "strict": False}
    assert encode(format=JsonSchemaFormat("n", {}))["response_format"]["json_schema"] == short
    assert encode(format=JsonObjectFormat())["response_format"] == {"type": "json_object"}
    assert encode(Profile(response_format="object"), format=schema)["response_format"] == {"type": "json_object"}
    assert encode(Profile(response_format="none"), format=schema) == PLAIN


def test_reasoning_effort() -> None:
    high = ReasoningEcho("high", "auto")
    assert encode(reasoning=high) == PLAIN | {"reasoning_effort": "high"}
    assert encode(reasoning=ReasoningEcho(None, "auto")) == PLAIN
    assert encode(Profile(effort_path=()), reasoning=high) == PLAIN
    assert encode(PROFILES["ollama"], reasoning=ReasoningEcho("max"))["reasoning_effort"] == "high"
    nested = Profile(
        effort_path=("chat_template_kwargs", "enable_thinking"),
        effort_map={"none": False, "high": True},
        extra_body={"chat_template_kwargs": {"other": 1}, "tool_stream": True},
    )
    both = {"chat_template_kwargs": {"enable_thinking": True, "other": 1}, "tool_stream": True}
    assert encode(nested, reasoning=high) == PLAIN | both
    assert encode(nested) == PLAIN | {"chat_template_kwargs": {"other": 1}, "tool_stream": True}
    assert nested.extra_body == {"chat_template_kwargs": {"other": 1}, "tool_stream": True}


def test_the_instructions_come_first() -> None:
    assert encode(instructions="Be brief.")["messages"][0] == {"role": "system", "content": "Be brief."}
    assert encode(PROFILES["openai"], instructions="x")["messages"][0]["role"] == "developer"
    assert encode(instructions="") == PLAIN


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_makes_a_body(name: str) -> None:
    body = encode(PROFILES[name], tools=TOOLS, tool_choice="required", reasoning=ReasoningEcho("low"), seed=1)
    assert body["model"] == "m"
    assert body["stream"] is True


EFFORTS = {
    "deepseek": {"low": {"reasoning_effort": "high"}, "none": {"thinking": {"type": "disabled"}}},
    "dashscope": {"none": {"enable_thinking": False}, "minimal": {"enable_thinking": True}},
    "zai": {"none": {"thinking": {"type": "disabled"}}, "max": {"thinking": {"type": "enabled"}}},
    "openrouter": {"xhigh": {"reasoning": {"effort": "xhigh"}}},
    "mistral": {"high": {}},
}


@pytest.mark.parametrize("name", EFFORTS)
def test_the_effort_in_the_form_of_a_provider(name: Any) -> None:
    for effort, expected in EFFORTS[name].items():
        plain, body = encode(PROFILES[name]), encode(PROFILES[name], reasoning=ReasoningEcho(effort))
        assert body == plain | expected


def test_nothing_is_stored_upstream_and_calls_are_streamed_where_one_has_to_ask() -> None:
    assert encode(PROFILES["openai"])["store"] is False
    assert encode(PROFILES["zai"]).keys() == PLAIN.keys() - {"stream_options"} | {"tool_stream"}


def test_a_schema_that_the_server_cannot_enforce_is_said_in_words() -> None:
    wanted = JsonSchemaFormat("n", {"type": "object", "title": "T"})
    body = encode(PROFILES["deepseek"], format=wanted, instructions="Be kind.")
    assert body["response_format"] == {"type": "json_object"}
    system, _ = body["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("Be kind.\n\nAnswer with one JSON object")
    assert system["content"].endswith('{"type":"object","title":"T"}')
    assert len(encode(PROFILES["deepseek"], format=wanted)["messages"]) == 2
    for profile, fields in (
        (PROFILES["generic"], {"format": wanted}),
        (PROFILES["deepseek"], {"format": JsonObjectFormat()}),
        (PROFILES["deepseek"], {"format": wanted, "tools": TOOLS, "tool_choice": FunctionChoice("f")}),
    ):
        assert len(encode(profile, **fields)["messages"]) == 1


def test_who_the_user_is_can_be_kept_from_the_provider() -> None:
    openai = PROFILES["openai"]
    asked = {"user": "ada@example.org", "safety_identifier": "ada"}
    body = encode(msgspec.structs.replace(openai, hash_identifiers=True), **asked)
    assert all(len(body[name]) == 64 and "ada" not in body[name] for name in asked)
    assert body["user"] != body["safety_identifier"]
    assert encode(openai, **asked).items() >= asked.items()
    assert "user" not in encode(msgspec.structs.replace(GENERIC, hash_identifiers=True), **asked)
