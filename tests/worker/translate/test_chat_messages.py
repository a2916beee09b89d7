"""Items as messages: turns are put together, outputs stand behind their calls."""

from collections.abc import Sequence
from typing import Any

import pytest

from shared.core.profiles import PROFILES, Profile
from shared.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    Item,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    SummaryText,
)
from worker.translate.chat_messages import IMAGE_NOTE, plan_messages

GENERIC = PROFILES["generic"]
KEEP = Profile(reasoning_out="reasoning_content")
PICTURE = "data:image/png;base64,AA=="


def messages(*items: Item, profile: Profile = GENERIC) -> list[dict[str, Any]]:
    return plan_messages(None, items, profile)


def user(text: str) -> Message:
    return Message("user", text)


def said(text: str) -> Message:
    return Message("assistant", [OutputText(text)], "msg_1", "completed")


def thought(text: str) -> Reasoning:
    return Reasoning([], "rs_1", [ReasoningText(text)])


def called(call_id: str, name: str = "f", status: Any = "completed") -> FunctionCall:
    return FunctionCall(call_id, name, "{}", "fc_1", status)


def output(call_id: str, text: str = "ok") -> FunctionCallOutput:
    return FunctionCallOutput(call_id, text)


def tool_calls(*call_ids: str, content: str | None = None, **more: Any) -> dict[str, Any]:
    calls = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in call_ids]
    return {"role": "assistant", "content": content, "tool_calls": calls, **more}


def tool(call_id: str, text: str = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


ASKED = {"role": "user", "content": "?"}
CONVERSATIONS: dict[str, tuple[Sequence[Item], list[dict[str, Any]]]] = {
    "text": (
        [user("?"), said("!"), user("?")],
        [ASKED, {"role": "assistant", "content": "!"}, ASKED],
    ),
    "a call and its output": (
        [user("?"), called("a"), output("a"), said("!")],
        [ASKED, tool_calls("a"), tool("a"), {"role": "assistant", "content": "!"}],
    ),
    "text and calls are one message": (
        [user("?"), said("let me"), called("a"), called("b"), output("b"), output("a")],
        [ASKED, tool_calls("a", "b", content="let me"), tool("a"), tool("b")],
    ),
    "calls one after the other stay apart": (
        [called("a"), output("a"), called("b"), output("b")],
        [tool_calls("a"), tool("a"), tool_calls("b"), tool("b")],
    ),
    "outputs come directly behind their calls": (
        [called("a"), said("asked"), user("?"), output("a")],
        [tool_calls("a"), tool("a"), {"role": "assistant", "content": "asked"}, ASKED],
    ),
    "an output before its call": (
        [output("a"), user("?"), called("a")],
        [ASKED, tool_calls("a"), tool("a")],
    ),
    "the same id twice": (
        [called("a"), output("a", "1"), called("a"), output("a", "2")],
        [tool_calls("a"), tool("a", "1"), tool_calls("a"), tool("a", "2")],
    ),
    "a call that was cut is left out": (
        [user("?"), said("let me"), called("a", status="incomplete"), user("?")],
        [ASKED, {"role": "assistant", "content": "let me"}, ASKED],
    ),
    "an output of no known call": ([user("?"), output("x")], [ASKED, tool("x")]),
    "reasoning is dropped": (
        [user("?"), thought("hm"), said("!"), thought("hm")],
        [ASKED, {"role": "assistant", "content": "!"}],
    ),
    "two answers in a row": (
        [said("a"), said("b")],
        [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
    ),
    "an empty answer": ([Message("assistant", [])], [{"role": "assistant", "content": ""}]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(name: str) -> None:
    items, expected = CONVERSATIONS[name]
    assert messages(*items) == expected


def test_reasoning_goes_with_the_turn_that_followed() -> None:
    items = [user("?"), thought("a"), said("let me"), thought("b"), called("c"), thought("d"), called("e")]
    expected = [
        ASKED,
        tool_calls("c", content="let me", reasoning_content="ab"),
        tool("c"),
        tool_calls("e", reasoning_content="d"),
        tool("e"),
    ]
    assert messages(*items, output("c"), output("e"), profile=KEEP) == expected


def test_reasoning_without_a_turn_goes_nowhere() -> None:
    assert messages(thought("a"), user("?"), said("!"), profile=KEEP) == [ASKED, {"role": "assistant", "content": "!"}]


def test_other_forms_of_reasoning() -> None:
    summary = Reasoning([SummaryText("s")], "rs_1", None, "ciphertext")
    assert messages(summary, said("!"), profile=KEEP)[0]["reasoning_content"] == "s"
    tags = PROFILES["think-tags"]
    assert messages(thought("hm"), said("!"), profile=tags)[0]["content"] == "<think>hm</think>\n\n!"
    assert messages(thought("hm"), called("a"), profile=tags)[0]["content"] == "<think>hm</think>\n\n"
    needed = Profile(reasoning_out="reasoning_content", reasoning_required_with_calls=True)
    assert messages(called("a"), said("!"), profile=needed) == [
        tool_calls("a", reasoning_content=""),
        {"role": "assistant", "content": "!"},
    ]


def test_roles() -> None:
    items = [Message("system", "s"), Message("developer", "d"), user("?")]
    assert [one["role"] for one in messages(*items)] == ["system", "system", "user"]
    assert [one["role"] for one in messages(*items, profile=PROFILES["openai"])] == ["system", "developer", "user"]
    one = Profile(single_system=True)
    assert plan_messages("i", items, one) == [{"role": "system", "content": "i\n\ns\n\nd"}, ASKED]


def test_images_and_files() -> None:
    parts = [InputText("what?"), InputImage(PICTURE, None, "low"), InputFile(None, None, "AA==", "a.pdf")]
    (message,) = messages(Message("user", [*parts, InputImage(PICTURE)]))
    assert message["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "AA=="}},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]


def test_several_texts_are_one() -> None:
    assert messages(Message("user", [InputText("a"), InputText("b")])) == [{"role": "user", "content": "a\nb"}]
    assert messages(Message("assistant", [OutputText("a"), OutputText("b")]))[0]["content"] == "ab"
    assert messages(Message("assistant", "plain"))[0]["content"] == "plain"


def test_outputs_in_parts() -> None:
    parts = FunctionCallOutput("a", [InputText("x"), InputText("y"), InputImage(PICTURE)])
    image = {"type": "image_url", "image_url": {"url": PICTURE}}
    only_image = FunctionCallOutput("b", [InputImage(PICTURE)])
    assert messages(called("a"), called("b"), parts, only_image, user("?")) == [
        tool_calls("a", "b"),
        tool("a", "x\ny"),
        tool("b", IMAGE_NOTE),
        {"role": "user", "content": [image, image]},
        ASKED,
    ]


def test_refusals() -> None:
    refused = Message("assistant", [OutputText("a"), Refusal("no")])
    assert messages(refused) == [{"role": "assistant", "content": "ano"}]
    openai = PROFILES["openai"]
    assert messages(refused, profile=openai) == [{"role": "assistant", "content": "a", "refusal": "no"}]
    only = Message("assistant", [Refusal("no")])
    assert messages(only, profile=openai) == [{"role": "assistant", "content": None, "refusal": "no"}]


def test_content_is_empty_where_null_is_refused() -> None:
    assert messages(called("a"), profile=Profile(null_content=False))[0]["content"] == ""


def test_call_ids_of_nine_letters() -> None:
    short = Profile(call_id_style="alnum9")
    call, answer = messages(called("call_00abc"), output("call_00abc"), profile=short)
    made = call["tool_calls"][0]["id"]
    assert made == answer["tool_call_id"]
    assert len(made) == 9
    assert made.isalnum()
    assert messages(called("abcDEF123"), profile=short)[0]["tool_calls"][0]["id"] == "abcDEF123"
    assert messages(called("call_00abd"), profile=short)[0]["tool_calls"][0]["id"] != made
