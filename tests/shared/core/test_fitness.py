"""What is refused and what is left out, by profile."""

from typing import Any

import pytest

from shared.core.fitness import left_out, misfits
from shared.core.profiles import PROFILES, Preset, Profile, spoken
from shared.wire.conversations import ConversationRef
from shared.wire.items import (
    AudioData,
    CustomTool,
    CustomToolCallOutput,
    FunctionCallOutput,
    FunctionChoice,
    FunctionTool,
    InputAudio,
    InputFile,
    InputImage,
    InputText,
    Item,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamespaceTool,
    TextFormat,
)
from shared.wire.requests import Request
from shared.wire.responses import ReasoningEcho

IMAGE, FILE, AUDIO = InputImage("https://h/i.png"), InputFile(file_data="AA=="), InputAudio(AudioData("AA==", "mp3"))
SHUT = Profile(vision=False, file=False, audio=False, logprobs=False, response_format="none")
FUNCTION = FunctionTool("f", strict=True)


def request(**fields: Any) -> Request:
    return Request(id="", created_at=0, model="m", **fields)


def refused(profile: Profile, *items: Item, history: tuple[Item, ...] = (), **fields: Any) -> list[tuple[str, str]]:
    return [(one.code, one.param) for one in misfits(request(**fields), history, items, profile)]


CONTENT: list[tuple[Item, str]] = [
    (Message("user", [InputText("x"), IMAGE]), "input[0].content[1]"),
    (Message("user", [FILE]), "input[0].content[0]"),
    (Message("user", [AUDIO]), "input[0].content[0]"),
    (FunctionCallOutput("c", [InputText("x"), IMAGE]), "input[0].output[1]"),
    (CustomToolCallOutput("c", [FILE]), "input[0].output[0]"),
]


ADDRESSES: list[tuple[Preset, str, bool, bool]] = [
    ("generic", "chat", True, False),
    ("openai", "chat", True, False),
    ("openrouter", "chat", True, True),
    ("ollama", "chat", False, False),
    ("generic", "anthropic", True, True),
    ("anthropic", "anthropic", True, True),
    ("openai", "responses", True, True),
]


@pytest.mark.parametrize(("preset", "dialect", "images", "files"), ADDRESSES)
def test_addresses_are_for_backends_that_fetch(preset: Preset, dialect: str, *, images: bool, files: bool) -> None:
    profile = spoken(PROFILES[preset], dialect)
    picture = ("input[0].content[0].image_url", images)
    document = ("input[0].output[0].file_url" if profile.file else "input[0].output[0]", files)
    for item, (path, able) in (
        (Message("user", [IMAGE]), picture),
        (FunctionCallOutput("c", [InputFile(file_url="https://h/f.pdf")]), document),
    ):
        code = "unsupported_value" if path.endswith("_url") else "unsupported_content"
        assert refused(profile, item) == ([] if able else [(code, path)])
        assert refused(profile, history=(item,)) == ([] if able else [(code, "previous_response_id")])
    assert refused(profile, Message("user", [InputImage("data:image/png;base64,AA==")])) == []


@pytest.mark.parametrize(("item", "path"), CONTENT)
def test_content_that_the_model_cannot_read(item: Item, path: str) -> None:
    assert refused(SHUT, item) == [("unsupported_content", path)]
    assert refused(Profile(file=True, audio=True), item) == []
    assert refused(SHUT, history=(Message("user", "x"), item)) == [("unsupported_content", "previous_response_id")]
    assert refused(SHUT, history=(item,), conversation=ConversationRef("conv_x")) == [
        ("unsupported_content", "conversation")
    ]


def test_plain_text_is_read_by_everybody() -> None:
    items: list[Item] = [Message("user", "x"), Message("user", [InputText("y")]), FunctionCallOutput("c", "z")]
    assert refused(SHUT, *items, format=TextFormat(), reasoning=ReasoningEcho("max")) == []


ASKED: list[tuple[Profile, dict[str, Any], list[tuple[str, str]]]] = [
    (SHUT, {"top_logprobs": 2}, [("unsupported_parameter", "top_logprobs")]),
    (SHUT, {"top_logprobs": 0}, []),
    (SHUT, {"include": ["message.output_text.logprobs"]}, [("unsupported_parameter", "include")]),
    (SHUT, {"include": ["reasoning.encrypted_content"]}, []),
    (SHUT, {"format": JsonObjectFormat()}, [("unsupported_value", "text.format")]),
    (SHUT, {"format": JsonSchemaFormat("n", {})}, [("unsupported_value", "text.format")]),
    (SHUT, {"format": JsonSchemaFormat("n", {}), "tool_choice": FunctionChoice("f"), "tools": [FUNCTION]}, []),
    (Profile(efforts=frozenset({"low"})), {"reasoning": ReasoningEcho("low")}, []),
    (
        Profile(efforts=frozenset({"low"})),
        {"reasoning": ReasoningEcho("high")},
        [("unsupported_value", "reasoning.effort")],
    ),
    (Profile(refuse_params=frozenset({"stop"})), {"stop": "x"}, [("unsupported_parameter", "stop")]),
    (Profile(refuse_params=frozenset({"stop"})), {}, []),
    (Profile(refuse_params=frozenset({"verbosity"})), {"verbosity": "low"}, [("unsupported_parameter", "text.verbosity")]),
    (
        Profile(refuse_params=frozenset({"parallel_tool_calls"})),
        {"parallel_tool_calls": False},
        [("unsupported_parameter", "parallel_tool_calls")],
    ),
    (Profile(refuse_params=frozenset({"service_tier"})), {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "fields", "expected"), ASKED)
def test_parameters_that_are_refused(profile: Profile, fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert refused(profile, **fields) == expected


LEFT: list[tuple[Profile, dict[str, Any], list[str]]] = [
    (Profile(), {"user": "u", "verbosity": "low", "temperature": 1.5}, ["user", "text.verbosity"]),
    (Profile(), {"service_tier": "flex"}, []),
    (PROFILES["anthropic"], {"temperature": 1.5, "seed": 1}, ["seed", "temperature (set to 1)"]),
    (PROFILES["anthropic"], {"temperature": 0.5, "reasoning": ReasoningEcho("low")}, ["reasoning.effort"]),
    (PROFILES["zai"], {"reasoning": ReasoningEcho("low")}, []),
    (PROFILES["deepseek"], {"reasoning": ReasoningEcho("none")}, []),
    (PROFILES["mistral"], {"reasoning": ReasoningEcho(None, "auto")}, []),
    (Profile(drop_params=frozenset({"parallel_tool_calls"})), {"parallel_tool_calls": True}, []),
    (Profile(drop_params=frozenset({"parallel_tool_calls"})), {"parallel_tool_calls": False}, ["parallel_tool_calls"]),
    (
        PROFILES["moonshot"],
        {"tools": [FunctionTool("g"), FUNCTION, CustomTool("c"), NamespaceTool("n", [FunctionTool("h", strict=True)])]},
        ["tools[1].strict", "tools[3].tools[0].strict"],
    ),
    (Profile(), {"tools": [FUNCTION]}, []),
    (PROFILES["deepseek"], {"format": JsonSchemaFormat("n", {})}, ["text.format.schema (said in words)"]),
    (PROFILES["deepseek"], {"format": JsonObjectFormat()}, []),
]


@pytest.mark.parametrize(("profile", "fields", "expected"), LEFT)
def test_what_is_left_out(profile: Profile, fields: dict[str, Any], expected: list[str]) -> None:
    assert left_out(request(**fields), profile) == expected


def test_log_probabilities_depend_on_the_dialect() -> None:
    def able(preset: Preset, dialect: str) -> bool:
        return refused(spoken(PROFILES[preset], dialect), top_logprobs=2) == []

    assert [able("llamacpp", dialect) for dialect in ("chat", "responses", "anthropic")] == [True, False, False]
    assert [able("openai", dialect) for dialect in ("chat", "responses")] == [True, True]
    assert [able("groq", dialect) for dialect in ("chat", "responses")] == [False, False]
