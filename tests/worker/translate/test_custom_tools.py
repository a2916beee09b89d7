"""Custom tools, namespaces and hard limits over Chat Completions: there and back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.accumulate import Fold
from shared.core.emitter import Emitter, Ending
from shared.core.frames import decode, render_all
from shared.core.packing import TOLD, pack, unpack
from shared.core.profiles import PROFILES, Profile
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.wire.items import (
    AllowedTool,
    AllowedTools,
    CustomChoice,
    CustomFormat,
    CustomTool,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    FunctionChoice,
    FunctionTool,
    Item,
    JsonSchemaFormat,
    Message,
    NamespaceTool,
)
from shared.wire.requests import Request
from support.contract import check_stream
from worker.translate.chat_request import encode_chat, offered_by
from worker.translate.chat_stream import ChatStream
from worker.translate.custom_tools import Unwrapper, plan_function, wrap

SQL = CustomTool("sql", "Runs SQL.", CustomFormat())
TOOLS = [
    FunctionTool("f"),
    SQL,
    NamespaceTool("crm", [FunctionTool("look_up"), CustomTool("note", None, CustomFormat())]),
]


def request(**fields: Any) -> Request:
    return Request(**{"id": "resp_00" + "a" * 32, "created_at": 1, "model": "m", "tools": TOOLS, **fields})


def encode(*items: Item, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_chat(request(**fields), items, model="m", profile=PROFILES["generic"]))
    return body


def unwrap(*fragments: str) -> list[str]:
    unwrapper = Unwrapper()
    return [text for text in (*map(unwrapper.feed, fragments), unwrapper.finish()) if text]


@given(st.text(), st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_where_the_network_cuts_does_not_matter(text: str, ascii_only: bool, sizes: list[int]) -> None:
    whole = json.dumps({"input": text}, ensure_ascii=ascii_only)
    fragments = []
    while whole:
        for size in sizes:
            fragments.append(whole[:size])
            whole = whole[size:]
    assert "".join(unwrap(*fragments)) == text
    assert "".join(unwrap(wrap(text))) == text


def test_input_comes_as_soon_as_it_is_certain() -> None:
    assert unwrap('{"in', 'put": "SEL', "ECT\\", "n 1", '"}', " ") == ["SEL", "ECT", "\n 1"]
    assert unwrap('{"input":"\\ud83d', '\\ude00"}') == ["\U0001f600"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", ""), ("{}", ""), ("plain words", "plain words"), ('"quoted"', "quoted"), ('{"sql": "x"}', "x"),
        ('{"a": "b", "input": "x"}', "x"), ('{"a": "b", "c": "d"}', '{"a": "b", "c": "d"}'), ("[1]", "[1]"),
        ('{"input": 5}', '{"input": 5}'), ('{"input":"\\ud800"}', "\ufffd"), ('{"input":"\\uzzzz"}', "\ufffd"),
        ('{"input":"\\udc00\\ud800x"}', "\ufffd\ufffdx"), ("[" * 100, "[" * 100), ('{"input": "cut', "cut"),
    ],
)  # fmt: skip
def test_other_forms_lose_nothing(arguments: str, text: str) -> None:
    for size in (1, 100):
        cut = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        assert "".join(unwrap(*cut)) == text


def test_tools_are_functions_there() -> None:
    sent = [tool["function"] for tool in encode()["tools"]]
    assert [function["name"] for function in sent] == ["f", "sql", "crm__look_up", "crm__note"]
    assert sent[1] == plan_function(SQL, "sql")
    assert sent[1]["description"] == "Runs SQL."
    assert sent[1]["parameters"]["required"] == ["input"]


@pytest.mark.parametrize(
    ("choice", "sent", "names"),
    [
        (CustomChoice("sql"), {"type": "function", "function": {"name": "sql"}}, ["sql"]),
        (FunctionChoice("look_up"), {"type": "function", "function": {"name": "crm__look_up"}}, ["crm__look_up"]),
        (AllowedTools("auto", [AllowedTool("custom", "sql")]), None, ["sql"]),
        (AllowedTools("required", [AllowedTool("namespace", "crm")]), "required", ["crm__look_up", "crm__note"]),
    ],
    ids=str,
)
def test_choices(choice: Any, sent: Any, names: list[str]) -> None:
    body = encode(tool_choice=choice)
    assert body.get("tool_choice") == sent
    assert [tool["function"]["name"] for tool in body["tools"]] == names


def test_a_forced_call_wins_over_a_schema() -> None:
    schema = JsonSchemaFormat("x", {})
    assert "response_format" in encode(format=schema)
    assert "response_format" not in encode(format=schema, tool_choice=FunctionChoice("f"))


def test_earlier_calls_are_told_under_the_same_names() -> None:
    items = [
        Message("user", "hi"),
        CustomToolCall("a", "sql", 'SELECT "1"'),
        FunctionCall("b", "look_up", "{}", namespace="crm"),
        CustomToolCallOutput("a", "1"),
        FunctionCallOutput("b", "Ada"),
    ]
    _, turn, *answers = encode(*items)["messages"]
    assert [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in turn["tool_calls"]] == [
        ("a", "sql", '{"input":"SELECT \\"1\\""}'),
        ("b", "crm__look_up", "{}"),
    ]
    assert [(answer["tool_call_id"], answer["content"]) for answer in answers] == [("a", "1"), ("b", "Ada")]


def play(*deltas: dict[str, Any], profile: Profile | None = None, obfuscate: bool = False, **fields: Any) -> list[Any]:
    """The events of an answer with these deltas, checked against the contract; also that they can be packed."""
    asked = request(stream=True, **fields)
    emitter = Emitter(draft(asked), obfuscate=obfuscate)
    emitter.created()
    emitter.in_progress()
    stream = ChatStream(emitter, profile or PROFILES["generic"], offered_by(asked))
    for delta in deltas:
        stream.feed(json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode())
    stream.feed(b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
    emitter.end(stream.end(), at=2)
    events = emitter.take()
    frames = render_all(events)
    assert check_stream(json.loads(frame.partition(b"data: ")[2]) for frame in frames.split(b"\n\n")[:-1]) == []
    assert decode(frames) == events
    assert pack(frames)[:1] == TOLD
    assert unpack(pack(frames)) == frames
    return events


def tool(index: int, arguments: str, name: str | None = None, call_id: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"tool_calls": [{"index": index, "id": call_id, "function": function}]}


def test_a_custom_call_streams_its_input() -> None:
    events = play(tool(0, "", "sql", "call_1"), tool(0, '{"input": "SEL'), tool(0, 'ECT 1"}'))
    names = [type(event).__name__ for event in events][2:-1]
    assert names == ["ItemAdded", "CustomInputDelta", "CustomInputDelta", "CustomInputDone", "ItemDone"]
    (item,) = events[-1].response.output
    assert (item.call_id, item.name, item.input, item.status) == ("call_1", "sql", "SELECT 1", "completed")
    assert item.id == "ctc_00" + "a" * 32 + "0000"


def test_calls_of_all_kinds_follow_each_other() -> None:
    events = play(
        tool(0, "no json", "sql"), tool(1, '{"input":"x"}', "crm__note"), tool(2, "{}", "crm__look_up"), tool(3, "", "f"),
        {"content": "Done."}, tool(4, "raw", "sql"),
    )  # fmt: skip
    output = events[-1].response.output
    assert [type(item).__name__ for item in output] == [
        *("CustomToolCall", "CustomToolCall", "FunctionCall", "FunctionCall", "Message", "CustomToolCall"),
    ]
    assert [item.input for item in output if isinstance(item, CustomToolCall)] == ["no json", "x", "raw"]
    calls = [(item.name, item.namespace) for item in output if not isinstance(item, Message)]
    assert calls == [("sql", None), ("note", "crm"), ("look_up", "crm"), ("f", None), ("sql", None)]


def test_a_custom_call_without_input() -> None:
    (item,) = play(tool(0, "", "sql"))[-1].response.output
    assert item.input == ""


def test_interleaved_custom_calls() -> None:
    deltas = [tool(0, '{"in', "sql"), tool(1, '{"input', "crm__note"), tool(0, 'put":"a"}'), tool(1, '":"b"}')]
    output = play(*deltas, profile=Profile(interleaved_calls=True))[-1].response.output
    assert [item.input for item in output] == ["a", "b"]


def test_deltas_can_be_padded() -> None:
    deltas = {"reasoning_content": "Hm."}, {"content": "Hello"}, tool(0, '{"input":"x"}', "sql"), tool(1, "{}", "f")
    events = play(*deltas, {"refusal": "No."}, obfuscate=True)
    padded = [(event.delta, event.obfuscation) for event in events if hasattr(event, "delta")]
    assert len(padded) == 5
    assert {(len(delta) + len(padding)) % 16 for delta, padding in padded} == {0}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (AllowedTools("auto", [AllowedTool("function", "f")]), ["sql", "crm__look_up", "unheard_of"]),
        (FunctionChoice("f"), ["sql"]),
        ("none", ["f"]),
    ],
    ids=str,
)
def test_a_call_that_is_not_allowed_ends_the_answer(choice: Any, names: list[str]) -> None:
    for name in names:
        with pytest.raises(UpstreamError, match=f"called '{name}'") as caught:
            play(tool(0, "{}", name), tool_choice=choice)
        assert not caught.value.retryable


def test_a_call_that_waits_is_judged_at_the_end() -> None:
    allowed = AllowedTools("auto", [AllowedTool("function", "f")])
    events = play(
        tool(0, "{", "f"),
        tool(1, "{}", "sql"),
        tool(0, "}"),
        profile=Profile(interleaved_calls=True),
        tool_choice=allowed,
    )
    assert events[-1].response.status == "failed"
    assert "'sql'" in events[-1].response.error.message


def test_a_call_of_what_nobody_offered_is_the_clients_to_judge() -> None:
    (item,) = play(tool(0, "{}", "unheard_of"))[-1].response.output
    assert (item.name, item.namespace) == ("unheard_of", None)


def test_whoever_takes_over_closes_a_custom_call() -> None:
    events = play(tool(0, '{"input": "SEL'), tool(0, 'ECT"}', "sql"))
    folded = Fold()
    for event in events[:4]:  # the item was added, and some of its input was told
        folded.feed(event)
    emitter = Emitter.resume(folded)
    emitter.end(Ending("failed"), at=2)
    rest = emitter.take()
    assert [type(event).__name__ for event in rest] == ["CustomInputDone", "ItemDone", "Failed"]
    assert rest[0].sequence_number == 4  # type: ignore[union-attr]
    (item,) = rest[-1].response.output  # type: ignore[union-attr]
    assert (item.input, item.status) == ("SELECT", "incomplete")


def test_a_custom_call_that_was_cut() -> None:
    emitter = Emitter(draft(request()), streaming=False)
    emitter.custom_input(emitter.custom_call("sql", None), "SEL")
    response = emitter.end(Ending("failed"), at=1)
    assert [(item.input, item.status) for item in response.output if isinstance(item, CustomToolCall)] == [
        ("SEL", "incomplete")
    ]


def test_half_a_surrogate_pair_is_marked() -> None:
    """What is made of it must be UTF-8: an answer that cannot be written would never be settled."""
    unwrapper = Unwrapper()
    text = unwrapper.feed('{"text":"x \\ud83d"}') + unwrapper.finish()
    assert text == "x \N{REPLACEMENT CHARACTER}"
    text.encode()
