"""The front end's plain rendering is the worker's, wherever it claims to know."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pairing import check_pairing
from api.rendering import render_anthropic, render_chat, render_responses
from shared.core.profiles import PROFILES, Preset, spoken
from shared.errors import InvalidRequest
from shared.wire.items import (
    CustomTool,
    FunctionCall,
    FunctionCallOutput,
    FunctionTool,
    InputImage,
    InputText,
    Item,
    JsonObjectFormat,
    Message,
    OutputText,
    Reasoning,
    Refusal,
    SummaryText,
)
from shared.wire.requests import Request
from shared.wire.responses import ReasoningEcho
from support.answers import STATE
from worker.backends.base import DIALECTS
from worker.translate.chat_request import encode_chat
from worker.translate.dialect import Ask

TEXT = st.text(max_size=8)
INPUTS = st.lists(st.builds(InputText, TEXT), max_size=3)
OUTPUTS = st.lists(st.builds(OutputText, TEXT), max_size=3)
CALL_ID = st.sampled_from(["a", "b", "c"])
ITEMS: st.SearchStrategy[Item] = st.one_of(
    st.builds(Message, st.sampled_from(["user", "system", "developer"]), TEXT | INPUTS),
    st.builds(Message, st.just("assistant"), TEXT | OUTPUTS),
    st.builds(FunctionCall, CALL_ID, st.just("f"), TEXT, status=st.sampled_from(["completed", "incomplete"])),
    st.builds(FunctionCallOutput, CALL_ID, TEXT | INPUTS),
)
TOOLS = st.lists(
    st.builds(
        FunctionTool, st.sampled_from(["f", "g"]), st.none() | TEXT, st.none() | st.just({"type": "object"}), st.none() | st.booleans()
    ),
    max_size=2,
)  # fmt: skip


def request(**fields: Any) -> Request:
    return Request(id="resp_00" + "a" * 32, created_at=1, model="m", **fields)


@pytest.mark.parametrize("profile", ["vllm", "llamacpp"])
@given(st.lists(ITEMS, max_size=7), TOOLS, st.none() | TEXT)
def test_it_is_what_the_worker_sends(
    profile: str, items: list[Item], tools: list[FunctionTool], instructions: str | None
) -> None:
    try:
        check_pairing(items)
    except InvalidRequest:
        return  # never gets so far
    asked = request(tools=tools, instructions=instructions)
    rendered = render_chat(asked, items)
    if rendered is None:
        assert any(isinstance(item, FunctionCall) for item in items)  # cut in mid-answer, or one output for two calls
        return
    sent = json.loads(encode_chat(asked, items, model="m", profile=PROFILES[profile]))
    assert rendered == {name: sent[name] for name in ("messages", "tools") if name in sent}


@pytest.mark.parametrize(
    ("dialect", "profile"),
    [("anthropic", "anthropic"), ("anthropic", "llamacpp"), ("responses", "openai"), ("responses", "llamacpp")],
)
@given(st.lists(ITEMS, max_size=7), TOOLS, st.none() | TEXT)
def test_so_it_is_in_the_other_dialects(
    dialect: str, profile: Preset, items: list[Item], tools: list[FunctionTool], instructions: str | None
) -> None:
    try:
        check_pairing(items)
    except InvalidRequest:
        return
    asked, quirks = request(tools=tools, instructions=instructions), spoken(PROFILES[profile], dialect)
    if dialect == "anthropic":
        rendered = render_anthropic(asked, items)
    else:
        rendered = render_responses(asked, items, developer=quirks.system_role)
    if rendered is not None:
        sent = json.loads(DIALECTS[dialect].encode(Ask(asked, items, "m", quirks, STATE)))
        told = ("messages", "system", "input", "instructions", "tools")
        assert rendered == {name: sent[name] for name in told if name in sent}


HI = Message("user", "hi")


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        ({"tool_choice": "none"}, [HI]),
        ({"format": JsonObjectFormat()}, [HI]),
        ({"reasoning": ReasoningEcho("low")}, [HI]),
        ({"tools": [CustomTool("c")]}, [HI]),
        ({}, [Message("user", [InputImage(image_url="https://x/y.png")])]),
        ({}, [Message("assistant", [Refusal("no")])]),
        ({}, [Reasoning([SummaryText("hm")]), HI]),
        ({}, [FunctionCall("a", "f", "{}", namespace="n"), FunctionCallOutput("a", "1")]),
        ({}, [FunctionCall("a", "f", "{}"), FunctionCallOutput("a", [InputImage(image_url="https://x/y.png")])]),
    ],
)
def test_what_is_not_plain_is_not_claimed(fields: dict[str, Any], items: list[Item]) -> None:
    for render in (render_chat, render_anthropic, partial(render_responses, developer="system")):
        assert render(request(), [HI]) is not None
        assert render(request(**fields), items) is None
