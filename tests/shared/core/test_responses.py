"""The draft of a response: the request echoed, the API's defaults elsewhere."""

import json

import msgspec

from shared.core.responses import draft
from shared.wire.items import FunctionChoice, FunctionTool, JsonObjectFormat
from shared.wire.requests import Request
from shared.wire.responses import ReasoningEcho
from support.contract import check_response

SILENT = Request(id="resp_00" + "a" * 32, created_at=5, model="m")
FULL = Request(
    id="resp_00" + "b" * 32,
    created_at=6,
    model="m",
    stream=True,
    background=True,
    store=False,
    previous_response_id="resp_00" + "a" * 32,
    instructions="Be brief.",
    include=["message.output_text.logprobs"],
    max_output_tokens=16,
    max_tool_calls=2,
    temperature=0.0,
    top_p=0.5,
    top_logprobs=3,
    presence_penalty=0.25,
    frequency_penalty=-0.25,
    parallel_tool_calls=False,
    tools=[FunctionTool("f", None, {"type": "object"}, True)],
    tool_choice=FunctionChoice("f"),
    format=JsonObjectFormat(),
    verbosity="low",
    reasoning=ReasoningEcho("high", "auto"),
    metadata={"k": "v"},
    prompt_cache_key="key",
    safety_identifier="who",
    user="me",
)


def plain(request: Request) -> dict[str, object]:
    raw: dict[str, object] = json.loads(msgspec.json.encode(draft(request)))
    return raw


def test_both_are_valid_responses() -> None:
    assert check_response(plain(SILENT)) == []
    assert check_response(plain(FULL)) == []


def test_defaults_where_the_request_was_silent() -> None:
    response = plain(SILENT)
    expected = {
        "status": "queued",
        "output": [],
        "usage": None,
        "error": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": None, "summary": None},
        "truncation": "disabled",
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "metadata": {},
        "service_tier": "default",
        "store": True,
        "background": False,
    }
    assert {key: response[key] for key in expected} == expected
    assert "user" not in response


def test_everything_else_is_echoed() -> None:
    response = plain(FULL)
    expected = {
        "background": True,
        "store": False,
        "previous_response_id": FULL.previous_response_id,
        "instructions": "Be brief.",
        "max_output_tokens": 16,
        "max_tool_calls": 2,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_logprobs": 3,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "parallel_tool_calls": False,
        "tools": [
            {"type": "function", "name": "f", "description": None, "parameters": {"type": "object"}, "strict": True}
        ],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "metadata": {"k": "v"},
        "prompt_cache_key": "key",
        "safety_identifier": "who",
        "user": "me",
    }
    assert {key: response[key] for key in expected} == expected


def test_the_same_request_gives_the_same_response() -> None:
    assert msgspec.json.encode(draft(FULL)) == msgspec.json.encode(draft(FULL))
    stored = msgspec.json.decode(msgspec.json.encode(FULL), type=Request)
    assert draft(stored) == draft(FULL)
    one = draft(SILENT)
    one.output.append(draft(FULL).output)  # type: ignore[arg-type]
    assert draft(SILENT).output == []
