"""Chunks that say nothing but a text are told from all others."""

from typing import Any

import msgspec
import pytest

from worker.translate.chat_chunk import decode_chunk, only_text


def text_in(delta: Any, choice: Any = None, **chunk: Any) -> str:
    body = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, **(choice or {})}],
        **chunk,
    }
    return only_text(decode_chunk(msgspec.json.encode(body))[0])


def test_a_text_alone() -> None:
    assert text_in({"content": "Hello"}) == "Hello"
    assert text_in({"role": "assistant", "content": "Hello"}, {"finish_reason": None, "logprobs": None}) == "Hello"
    assert text_in({"content": "Hello", "tool_calls": None, "reasoning_content": None}, usage=None) == "Hello"
    assert text_in({"content": ""}) == ""


@pytest.mark.parametrize(
    "name", [name for name in msgspec.structs.asdict(decode_chunk(b"{}")[0]) if name not in ("choices", "object")]
)
def test_what_else_a_chunk_says(name: str) -> None:
    assert text_in({"content": "Hello"}, **{name: {"said": 1}}) == ""


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "x"}, {"reasoning": "x"}, {"refusal": "x"}, {"annotations": [{}]}, {"tool_calls": [{}]},
        {"function_call": {"name": "f"}}, {"reasoning_details": [{}]}, {"content": ["Hello"]}, {"content": 5},
    ],
)  # fmt: skip
def test_what_else_a_delta_says(delta: dict[str, Any]) -> None:
    assert text_in({"content": "Hello", **delta}) == ""


@pytest.mark.parametrize(
    "choice", [{"finish_reason": "stop"}, {"logprobs": {"content": []}}, {"usage": {}}, {"index": 1}, {"message": {}}]
)
def test_what_else_a_choice_says(choice: dict[str, Any]) -> None:
    assert text_in({"content": "Hello"}, choice) == ""


@pytest.mark.parametrize("choices", [None, [], [None], [{"index": 0}], [{"delta": {"content": "a"}}, {"index": 1}]])
def test_other_choices(choices: Any) -> None:
    assert only_text(decode_chunk(msgspec.json.encode({"choices": choices}))[0]) == ""
