"""What a Messages call says for a request of ours."""

import base64
import json
from typing import Any, get_args

import msgspec
import pytest

from shared.core.fitness import left_out, misfits
from shared.core.profiles import PROFILES, Effort, Profile, spoken
from shared.seal import Sealer
from shared.wire.items import (
    AllowedTool,
    AllowedTools,
    CustomTool,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    FunctionChoice,
    FunctionTool,
    InputFile,
    InputImage,
    InputText,
    Item,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamespaceTool,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
)
from shared.wire.requests import Request
from shared.wire.responses import ReasoningEcho
from support.answers import STATE
from worker.translate.anthropic import AnthropicDialect
from worker.translate.anthropic_messages import _object, family_of
from worker.translate.anthropic_request import BUDGETS, json_tool
from worker.translate.dialect import Ask
from worker.translate.state import Kept, encode_state

GENERIC = spoken(PROFILES["generic"], "anthropic")
CLAUDE = spoken(PROFILES["anthropic"], "anthropic")
LLAMACPP = spoken(PROFILES["llamacpp"], "anthropic")
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [FunctionTool("f", "does f", SCHEMA), FunctionTool("g")]
HELLO: list[Item] = [Message("user", "Hello")]


def ask(items: list[Item] | None = None, profile: Profile = GENERIC, **more: Any) -> Ask:
    request = Request(id="resp_1", created_at=1, model="m", **more)
    return Ask(request, HELLO if items is None else items, "theirs", profile, STATE)


def body(items: list[Item] | None = None, profile: Profile = GENERIC, **more: Any) -> dict[str, Any]:
    found = json.loads(AnthropicDialect().encode(ask(items, profile, **more)))
    assert isinstance(found, dict)
    return found


def turns(*items: Item, profile: Profile = GENERIC) -> list[Any]:
    """[role, content] of each message, texts shortened to themselves."""
    return [
        [turn["role"], [block["text"] if block["type"] == "text" else block for block in turn["content"]]]
        for turn in body(list(items), profile)["messages"]
    ]


def call(call_id: str, arguments: str = "{}", **more: Any) -> FunctionCall:
    return FunctionCall(call_id, "f", arguments, **more)


def use(call_id: str, given: Any = None) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": given or {}}


def result(call_id: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_the_smallest_request() -> None:
    assert body() == {
        "model": "theirs", "max_tokens": 8192, "stream": True, "messages": [{"role": "user", "content": [text("Hello")]}],
    }  # fmt: skip
    assert body(profile=CLAUDE)["max_tokens"] == 32_000
    assert body(max_output_tokens=77)["max_tokens"] == 77


def test_headers() -> None:
    headers = AnthropicDialect().headers("k", CLAUDE)
    assert headers == {"anthropic-version": "2023-06-01", "x-api-key": "k"}
    assert "x-api-key" not in AnthropicDialect().headers(None, CLAUDE)


def test_system_texts_stand_apart_in_order() -> None:
    items: list[Item] = [Message("system", "one"), *HELLO, Message("developer", [InputText("two"), InputText("three")])]
    found = body(items, instructions="zero")
    assert found["system"] == "zero\n\none\n\ntwo\nthree"
    assert [turn["role"] for turn in found["messages"]] == ["user"]
    alone = body([Message("developer", "Say hi")], instructions="Be brief")
    assert alone["system"] == "Be brief"
    assert alone["messages"] == [{"role": "user", "content": [text("Say hi")]}]


def test_turns_alternate() -> None:
    assert turns(
        Message("user", "a"), Message("user", [InputText("b")]), Message("assistant", "c"),
        Message("assistant", [OutputText("d"), Refusal("e")]), Message("user", "f"),
    ) == [["user", ["a", "b"]], ["assistant", ["c", "d", "e"]], ["user", ["f"]]]  # fmt: skip


def test_blank_texts_are_left_out_and_the_last_word_is_not_a_space() -> None:
    assert turns(Message("user", "a"), Message("assistant", "  "), Message("user", "b")) == [["user", ["a", "b"]]]
    assert turns(Message("user", "a"), Message("assistant", "so \n"))[-1] == ["assistant", ["so"]]


def test_results_come_first_in_the_next_turn_and_all_together() -> None:
    assert turns(
        Message("user", "a"), Message("assistant", "Look"), call("x", '{"n":1}'), call("y"), FunctionCallOutput("x", "1"),
        Message("user", "and?"), FunctionCallOutput("y", "2"),
    ) == [
        ["user", ["a"]], ["assistant", ["Look", use("x", {"n": 1}), use("y")]],
        ["user", [result("x", "1"), result("y", "2"), "and?"]],
    ]  # fmt: skip
    assert turns(Message("user", "a"), call("x"), FunctionCallOutput("x", "1"), call("y"), FunctionCallOutput("y", "2")) == [
        ["user", ["a"]], ["assistant", [use("x")]], ["user", [result("x", "1")]],
        ["assistant", [use("y")]], ["user", [result("y", "2")]],
    ]  # fmt: skip


def test_calls_in_every_form() -> None:
    made: list[Item] = [
        call("a b/c", "not json"), call("d", "[1]"), call("e", ""), FunctionCall("h", "look", "{}", namespace="crm"),
        CustomToolCall("i", "sh", "ls"), call("gone", '{"x', status="incomplete"),
    ]  # fmt: skip
    outputs: list[Item] = [FunctionCallOutput(one, "ok") for one in ("a b/c", "d", "e", "h")]
    outputs.append(CustomToolCallOutput("i", [InputText("ok")]))
    _, spoken_turn, answered = turns(Message("user", "a"), *made, *outputs)
    assert [(block["id"], block["name"], block["input"]) for block in spoken_turn[1]] == [
        ("a_b_c", "f", {"_raw": "not json"}), ("d", "f", {"_raw": "[1]"}), ("e", "f", {}), ("h", "crm__look", {}),
        ("i", "sh", {"input": "ls"}),
    ]  # fmt: skip
    assert [block["tool_use_id"] for block in answered[1]] == ["a_b_c", "d", "e", "h", "i"]


def test_images_and_documents() -> None:
    pdf, note = "data:application/pdf;base64,JVBERg==", base64.b64encode("grüß".encode()).decode()
    parts: list[Any] = [
        InputImage("data:image/PNG;base64,iVBORw=="), InputImage("https://a.b/c.png"), InputFile(file_data=pdf, filename="a.pdf"),
        InputFile(file_data="JVBERg=="), InputFile(file_data=f"data:text/plain;base64,{note}"), InputFile(file_url="https://a.b/c.pdf"),
    ]  # fmt: skip
    wanted = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
        {"type": "image", "source": {"type": "url", "url": "https://a.b/c.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "grüß"}},
        {"type": "document", "source": {"type": "url", "url": "https://a.b/c.pdf"}},
    ]
    assert turns(Message("user", parts)) == [["user", wanted]]
    answered = turns(Message("user", "a"), call("x"), FunctionCallOutput("x", [InputText("see"), parts[0]]))[-1]
    assert answered == ["user", [result("x", [text("see"), wanted[0]])]]


# -- thinking


def reasoning(kept: Kept, **more: Any) -> Reasoning:
    return Reasoning([], encrypted_content=STATE.seal(encode_state(kept)), **more)


SIGNED = Kept(family_of(GENERIC), "hm", {"signature": "sig"})
REDACTED = Kept(family_of(GENERIC), data={"data": "ciphertext"})
THINKING = {"type": "thinking", "thinking": "hm", "signature": "sig"}


def test_thinking_goes_back_in_front_of_what_it_led_to() -> None:
    assert turns(
        Message("user", "a"), reasoning(SIGNED), reasoning(REDACTED), call("x"), FunctionCallOutput("x", "1"),
        reasoning(SIGNED), Message("assistant", "b"), Message("user", "c"), reasoning(SIGNED), Message("user", "d"),
    ) == [
        ["user", ["a"]], ["assistant", [THINKING, {"type": "redacted_thinking", "data": "ciphertext"}, use("x")]],
        ["user", [result("x", "1")]], ["assistant", [THINKING, "b"]], ["user", ["c", "d"]],
    ]  # fmt: skip


def test_thinking_that_is_foreign_or_forged_is_ignored() -> None:
    sealed_elsewhere = Sealer(["another key of more than thirty-two characters"]).bind("tenant", "state")
    other_tenant = Sealer(["a key of more than thirty-two characters"]).bind("other", "state")
    state = encode_state(SIGNED)
    for blob in (sealed_elsewhere.seal(state), other_tenant.seal(state), "rsp1.AAAA", "gAAAA", ""):
        items = [Message("user", "a"), Reasoning([], encrypted_content=blob), Message("assistant", "b")]
        assert turns(*items) == [["user", ["a"]], ["assistant", ["b"]]]
    other_family = reasoning(Kept("anthropic/other", "hm", {"signature": "sig"}))
    assert turns(Message("user", "a"), other_family, Message("assistant", "b"))[-1] == ["assistant", ["b"]]


def test_unsigned_thinking_goes_to_servers_that_take_it() -> None:
    items = [Message("user", "a"), Reasoning([], content=[ReasoningText("hm")]), Message("assistant", "b")]
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert turns(*items, profile=LLAMACPP)[-1] == ["assistant", [unsigned, "b"]]
    assert turns(*items, profile=CLAUDE)[-1] == ["assistant", ["b"]]


@pytest.mark.parametrize("effort", get_args(Effort))
def test_efforts(effort: Effort) -> None:
    adaptive = body(profile=CLAUDE, reasoning=ReasoningEcho(effort), temperature=0.5, top_k=3)
    budget = body(reasoning=ReasoningEcho(effort), temperature=0.5)
    if effort == "none":
        assert adaptive["thinking"] == budget["thinking"] == {"type": "disabled"}
        assert "output_config" not in adaptive
        assert adaptive["temperature"] == 0.5
        return
    assert adaptive["thinking"] == {"type": "adaptive"}
    assert adaptive["output_config"] == {"effort": "low" if effort == "minimal" else effort}
    assert "temperature" not in adaptive
    assert "top_k" not in adaptive
    assert budget["thinking"] == {"type": "enabled", "budget_tokens": BUDGETS[effort]}
    assert budget["max_tokens"] == 8192 + BUDGETS[effort]
    assert "temperature" not in budget


def test_a_budget_fits_into_the_limit() -> None:
    found = body(reasoning=ReasoningEcho("high"), max_output_tokens=2000)
    assert (found["max_tokens"], found["thinking"]["budget_tokens"]) == (2000, 1500)
    assert body(reasoning=ReasoningEcho("low"), max_output_tokens=9000)["thinking"]["budget_tokens"] == BUDGETS["low"]
    assert body(reasoning=ReasoningEcho("low"), max_output_tokens=1025)["thinking"]["budget_tokens"] == 1024
    assert "thinking" not in body(reasoning=ReasoningEcho("high"), max_output_tokens=1024)


def test_no_thinking_beside_a_forced_call_or_behind_an_unthought_one() -> None:
    forced = body(reasoning=ReasoningEcho("high"), tools=TOOLS, tool_choice="required", profile=CLAUDE)
    assert forced["thinking"] == {"type": "disabled"}
    items = [*HELLO, call("x"), FunctionCallOutput("x", "1")]
    assert "thinking" not in body(items, reasoning=ReasoningEcho("high"))
    assert (
        body([*HELLO, reasoning(SIGNED), *items[1:]], reasoning=ReasoningEcho("high"))["thinking"]["type"] == "enabled"
    )


# -- tools


def test_tools() -> None:
    tools = [*TOOLS, CustomTool("sh", "a shell"), NamespaceTool("crm", [FunctionTool("find", strict=True)])]
    found = body(tools=tools)
    assert "tool_choice" not in found
    assert found["tools"][0] == {"name": "f", "description": "does f", "input_schema": SCHEMA}
    assert found["tools"][1] == {"name": "g", "input_schema": {"type": "object", "properties": {}}}
    assert found["tools"][2]["name"] == "sh"
    assert list(found["tools"][2]["input_schema"]["properties"]) == ["input"]
    assert (found["tools"][3]["name"], found["tools"][3]["strict"]) == ("crm__find", True)


@pytest.mark.parametrize(
    ("choice", "names", "wanted"),
    [
        ("auto", ["f", "g"], None),
        ("required", ["f", "g"], {"type": "any"}),
        ("none", ["f", "g"], {"type": "none"}),
        (FunctionChoice("g"), ["g"], {"type": "tool", "name": "g"}),
        (AllowedTools("auto", [AllowedTool("function", "f")]), ["f"], None),
        (AllowedTools("required", [AllowedTool("function", "f")]), ["f"], {"type": "any"}),
    ],
)
def test_tool_choice(choice: Any, names: list[str], wanted: Any) -> None:
    found = body(tools=TOOLS, tool_choice=choice)
    assert [tool["name"] for tool in found["tools"]] == names
    assert found.get("tool_choice") == wanted
    one = body(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)["tool_choice"]
    assert one == (
        {"type": "none"} if choice == "none" else {**(wanted or {"type": "auto"}), "disable_parallel_tool_use": True}
    )


def test_answers_in_a_schema() -> None:
    wanted = JsonSchemaFormat("city", SCHEMA)
    native = body(profile=CLAUDE, format=wanted)
    assert native["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "tools" not in native
    forced = body(format=wanted)
    assert [(tool["name"], tool["input_schema"]) for tool in forced["tools"]] == [("city", SCHEMA)]
    assert forced["tool_choice"] == {"type": "tool", "name": "city"}
    assert body(format=wanted, tools=TOOLS)["tool_choice"] == {"type": "any"}
    assert json_tool(ask(format=wanted)) == "city"
    assert json_tool(ask(format=wanted, profile=CLAUDE)) is None
    assert json_tool(ask(format=JsonObjectFormat(), profile=CLAUDE)) == "json_answer"
    assert body(format=JsonObjectFormat())["tools"][0]["input_schema"] == {"type": "object"}
    assert json_tool(ask(format=wanted, tools=TOOLS, tool_choice=FunctionChoice("f"))) is None


# -- the rest


def test_parameters() -> None:
    given: dict[str, Any] = {
        "temperature": 1.5, "top_p": 0.5, "top_k": 7, "stop": "END", "seed": 1, "presence_penalty": 1.0, "user": "u",
        "frequency_penalty": 1.0, "safety_identifier": "s", "verbosity": "low", "prompt_cache_key": "k", "service_tier": "flex",
    }  # fmt: skip
    found = body(profile=CLAUDE, **given)
    known = {"model", "messages", "max_tokens", "stream"}
    assert {name: value for name, value in found.items() if name not in known} == {
        "temperature": 1.0, "top_p": 0.5, "top_k": 7, "stop_sequences": ["END"], "metadata": {"user_id": "s"},
    }  # fmt: skip
    assert left_out(ask(**given).request, CLAUDE) == [
        "frequency_penalty", "presence_penalty", "prompt_cache_key", "seed", "user", "text.verbosity", "temperature (set to 1)",
    ]  # fmt: skip


def test_identifiers_are_hashed_where_the_profile_says_so() -> None:
    hashing = spoken(Profile(hash_identifiers=True), "anthropic")
    assert len(body(profile=hashing, safety_identifier="ada")["metadata"]["user_id"]) == 64


def test_what_thinking_leaves_out_is_named() -> None:
    request = ask(reasoning=ReasoningEcho("low"), temperature=0.5, top_p=0.9).request
    assert left_out(request, CLAUDE) == ["temperature", "top_p"]
    assert left_out(ask(reasoning=ReasoningEcho("none"), temperature=0.5).request, CLAUDE) == []


def test_log_probabilities_are_refused() -> None:
    assert [one.param for one in misfits(ask(top_logprobs=2).request, [], [], CLAUDE)] == ["top_logprobs"]


def test_an_operators_own_keys_come_last() -> None:
    profile = spoken(
        Profile(extra_body={"output_config": {"task_budget": 1}, "cache_control": {"type": "ephemeral"}}), "anthropic"
    )
    found = body(profile=profile)
    assert found["cache_control"] == {"type": "ephemeral"}
    assert found["output_config"] == {"task_budget": 1}


def test_arguments_with_half_a_surrogate_pair_can_be_sent() -> None:
    given = _object('{"a":"x \\ud83d"}')
    assert msgspec.json.encode(given) == msgspec.json.encode({"_raw": '{"a":"x \\ud83d"}'})
