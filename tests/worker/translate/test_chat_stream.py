"""The stream of Chat Completions, rule by rule. All streams of tests/streams: test_chat_recordings.py."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.emitter import Emitter, Ending
from shared.core.profiles import PROFILES, Profile
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.wire.items import FunctionCall, Message, OutputText, Reasoning, Refusal
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError
from support.contract import check_stream
from worker.translate.chat_stream import ChatStream
from worker.translate.reading import Reading

STREAMS = Path(__file__).parents[2] / "streams"
GENERIC = PROFILES["generic"]
THINK = PROFILES["think-tags"]


def captured() -> list[str]:
    """Streams that a program sent with status 200, by folder and name."""
    found = []
    for meta in sorted(STREAMS.glob("*/*.meta.json")):
        about = json.loads(meta.read_bytes())
        if about["status"] == 200 and about["path"].endswith("/chat/completions"):
            found.append(f"{meta.parent.name}/{meta.name.removesuffix('.meta.json')}")
    return found


def body_of(name: str) -> bytes:
    return (STREAMS / f"{name}.body").read_bytes()


def run(blocks: list[bytes], profile: Profile = GENERIC) -> tuple[Response, bytes]:
    """(the response, its frames) of a stream that arrives in *blocks*; a whole body when it is no stream."""
    emit = Emitter(draft(Request(id="resp_00" + "a" * 32, created_at=1, model="m")))
    emit.created()
    emit.in_progress()
    stream = ChatStream(emit, profile)
    reading = Reading(stream)
    try:
        if b"".join(blocks)[:1] == b"{":
            stream.feed_whole(b"".join(blocks))
        for block in blocks:
            if reading.feed(block):
                break
        ending = stream.end()
    except UpstreamError as error:
        ending = Ending("failed", error=ResponseError(error.code, error.message))
    response = emit.end(ending, at=2)
    return response, emit.take_frames()[0]


def play(*chunks: Any, profile: Profile = GENERIC) -> Response:
    """The response to these payloads; objects are deltas, unless they have keys of a chunk."""
    blocks = []
    for chunk in chunks:
        if isinstance(chunk, dict) and not chunk.keys() & {"choices", "usage", "error", "x"}:
            chunk = {"choices": [{"index": 0, "delta": chunk}]}
        data = chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()
        blocks.append(b"data: " + data + b"\n\n")
    response, frames = run(blocks, profile)
    assert violations(frames) == []
    return response


STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def violations(frames: bytes) -> list[str]:
    events = [json.loads(frame.partition(b"\ndata: ")[2]) for frame in frames.split(b"\n\n")[:-1]]
    return check_stream(events)


def outcome(response: Response) -> dict[str, Any]:
    """In the form of quirks/expected.json."""
    said: dict[str, str] = {"text": "", "reasoning": "", "refusal": ""}
    calls = []
    for item in response.output:
        if isinstance(item, FunctionCall):
            calls.append([item.name, item.arguments])
        elif isinstance(item, Reasoning):
            said["reasoning"] += "".join(part.text for part in item.content or [])
        elif isinstance(item, Message):
            for part in item.content:
                if isinstance(part, OutputText):
                    said["text"] += part.text
                elif isinstance(part, Refusal):
                    said["refusal"] += part.refusal
    usage = response.usage
    return {
        "status": response.status,
        "reason": response.incomplete_details.reason if response.incomplete_details else None,
        "error": response.error.code if response.error else None,
        **said,
        "calls": calls,
        "usage": usage
        and [
            usage.input_tokens,
            usage.input_tokens_details.cached_tokens,
            usage.output_tokens,
            usage.output_tokens_details.reasoning_tokens,
        ],
    }


def read_naively(body: bytes) -> dict[str, Any]:
    """What a capture says, read in the plainest way: the expectation for it."""
    found: dict[str, Any] = {"text": "", "reasoning": "", "refusal": "", "usage": None, "error": None}
    calls: dict[int, list[str]] = {}
    finish, broken = None, False
    if body.startswith(b"{"):
        try:
            chunks = [json.loads(body)]
        except ValueError:
            chunks, broken = [], True
    else:
        lines = [line for line in body.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: {")]
        chunks = []
        for line in lines:
            try:
                chunks.append(json.loads(line[6:]))
            except ValueError:
                broken = True
                break
    for chunk in chunks:
        broken = broken or "error" in chunk
        for choice in chunk.get("choices", []):
            if choice["index"] != 0:
                continue
            finish = finish or choice.get("finish_reason")
            delta = choice.get("delta") or choice.get("message") or {}
            found["text"] += delta.get("content") or ""
            found["reasoning"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for position, call in enumerate(delta.get("tool_calls") or []):
                known = calls.setdefault(call.get("index", position), ["", ""])
                known[0] += call["function"].get("name") or ""
                known[1] += call["function"].get("arguments") or ""
        if chunk.get("usage"):
            usage = chunk["usage"]
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
            found["usage"] = [usage["prompt_tokens"], cached, usage["completion_tokens"], thought]
    if broken or finish is None:
        found |= {"status": "failed", "reason": None, "error": "server_error"}
    elif finish in ("length", "content_filter"):
        reason = "max_output_tokens" if finish == "length" else finish
        found |= {"status": "incomplete", "reason": reason}
    else:
        found |= {"status": "completed", "reason": None}
    return found | {"calls": [calls[index] for index in sorted(calls)]}


@pytest.mark.parametrize("name", captured())
def test_captures(name: str) -> None:
    body = body_of(name)
    response, frames = run([body])
    assert outcome(response) == read_naively(body)
    assert violations(frames) == []


def test_there_are_captures_of_all_programs() -> None:
    assert {name.partition("/")[0] for name in captured()} >= {"aimock", "llamacpp", "mlx", "transformers", "pace"}
    assert len(captured()) > 40


# -- items and parts


def test_the_order_of_items_is_that_of_the_stream() -> None:
    response, _ = run([body_of("aimock/chat-toolfirst")])
    assert [type(item) for item in response.output] == [FunctionCall, Message]
    response, _ = run([body_of("aimock/chat-mix")])
    assert [type(item) for item in response.output] == [Message, FunctionCall]
    response, _ = run([body_of("quirks/mistral-content-list")])
    assert [type(item) for item in response.output] == [Reasoning, Message]


def test_call_ids_are_kept_or_made_unique() -> None:
    response, _ = run([body_of("quirks/openai-two-calls")])
    assert [item.call_id for item in response.output if isinstance(item, FunctionCall)] == ["call_a", "call_b"]
    one = {"id": "same", "function": {"name": "f", "arguments": "{}"}}
    response = play({"tool_calls": [one]}, {"tool_calls": [one]}, STOP)
    first, second = [item.call_id for item in response.output if isinstance(item, FunctionCall)]
    assert first == "same"
    assert second.startswith("call_")


def test_white_space_between_calls_opens_no_message() -> None:
    response = play(
        {"reasoning": "Hm."},
        {"content": "\n\n"},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"a"'}}]},
        {"content": "\n", "tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {"content": " "},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]},
        {"content": "\n"},
        STOP,
    )
    assert [type(item) for item in response.output] == [Reasoning, FunctionCall, FunctionCall]
    assert outcome(response)["calls"] == [["f", '{"a":1}'], ["g", "{}"]]


def test_white_space_before_text_is_kept() -> None:
    response = play({"reasoning": "Hm."}, {"content": "\n\n"}, {"content": "Yes"}, {"content": " \n"}, STOP)
    assert outcome(response)["text"] == "\n\nYes \n"
    assert outcome(play({"content": " "}, STOP))["text"] == " "


def test_text_after_a_refusal_is_a_part_of_the_same_message() -> None:
    response = play({"content": "I would"}, {"refusal": "but no"}, {"content": "."}, STOP)
    (message,) = response.output
    assert isinstance(message, Message)
    assert [type(part) for part in message.content] == [OutputText, Refusal, OutputText]


def test_reasoning_kinds() -> None:
    summary = Profile(reasoning_kind="summary")
    response = play({"reasoning": "In"}, {"reasoning": " short"}, {"content": "x"}, STOP, profile=summary)
    assert isinstance(response.output[0], Reasoning)
    assert [part.text for part in response.output[0].summary or []] == ["In short"]
    assert response.output[0].content is None
    hidden = Profile(reasoning_kind="hidden")
    response = play({"reasoning": "In short"}, {"content": "x"}, STOP, profile=hidden)
    assert [type(item) for item in response.output] == [Message]


def test_reasoning_details_are_read_where_the_profile_says_so() -> None:
    details = Profile(reasoning_in=("reasoning", "reasoning_details"))
    one = {
        "reasoning_details": [{"type": "reasoning.text", "text": "a"}, {"type": "reasoning.summary", "summary": "b"}]
    }
    assert outcome(play(one, {"content": "x"}, STOP, profile=details))["reasoning"] == "ab"
    only = Profile(reasoning_in=("reasoning",))
    assert outcome(play(one, {"content": "x"}, STOP, profile=only))["reasoning"] == ""


def test_reasoning_under_any_name_is_read_once() -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        said = {name: "a", "reasoning_details": [{"type": "reasoning.text", "text": "a"}]}
        assert outcome(play(said, {"content": "x"}, STOP))["reasoning"] == "a"


def test_citations() -> None:
    citation = {"url": "https://example.org/", "title": "T", "start_index": 0, "end_index": 2}
    nested = {"type": "url_citation", "url_citation": citation}
    response = play({"content": "Yes"}, {"annotations": [nested, {"type": "other"}, None]}, STOP)
    assert isinstance(response.output[0], Message)
    part = response.output[0].content[0]
    assert isinstance(part, OutputText)
    assert [json.loads(bytes(raw)) for raw in part.annotations] == [{"type": "url_citation", **citation}]


# -- tool deltas


def call(name: Any = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": name, "arguments": arguments}, **more}]}


CALLS: dict[str, tuple[list[dict[str, Any]], list[list[str]]]] = {
    "another id on the same index": (
        [call("f", "{}", index=0, id="a"), call("g", '{"b":', index=0, id="b"), call(None, "1}", index=0, id="b")],
        [["f", "{}"], ["g", '{"b":1}']],
    ),
    "another id without a name while it is open": (
        [call("f", "{", index=0, id="a"), call(None, "}", index=0, id="other")],
        [["f", "{}"]],
    ),
    "the id and the name in every fragment": (
        [call("f", "{", index=0, id="a"), call("f", "}", index=0, id="a")],
        [["f", "{}"]],
    ),
    "no index, fragments without a name": (
        [call("f", "{", id="a"), call(None, "}"), call("g", "{}", id="b")],
        [["f", "{}"], ["g", "{}"]],
    ),
    "no index, the id and the name in every fragment": (
        [call("f", "{", id="a"), call("f", "}", id="a"), call("f", '{"b":1}', id="a")],
        [["f", "{}"], ["f", '{"b":1}']],
    ),
    "one index for all, and no ids": (
        [
            call("f", '{"a":1}', index=0),
            call("f", '{"a":', index=0),
            call("f", "2}", index=0),
            call("g", "{}", index=0),
        ],
        [["f", '{"a":1}'], ["f", '{"a":2}'], ["g", "{}"]],
    ),
    "a name once more behind whole arguments": (
        [call("f", "{}", index=0, id="a"), call("f", "", index=0), call("f", None, index=0, id="a")],
        [["f", "{}"]],
    ),
    "a function without its object": (
        [
            {"tool_calls": [{"index": 0, "id": "a", "name": "f", "arguments": "{"}]},
            {"tool_calls": [{"index": 0, "arguments": "}"}]},
        ],
        [["f", "{}"]],
    ),
    "no index, several in one delta": (
        [{"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "f", "arguments": '{"a":1}'}}]}],
        [["f", "{}"], ["f", '{"a":1}']],
    ),
    "an index as text, an id as number": (
        [call("f", "{", index="0", id=7), call(None, "}", index="0", id=7)],
        [["f", "{}"]],
    ),
    "arguments before the name": (
        [call(None, '{"a":', index=0), call("f", "1", index=0), call(None, "}", index=0)],
        [["f", '{"a":1}']],
    ),
    "nulls and empty entries": (
        [{"tool_calls": [None]}, {"tool_calls": []}, {"tool_calls": [{}]}, {"tool_calls": [{"function": None}]}],
        [],
    ),
    "arguments that are no JSON are the client's to judge": ([call("f", "{oops", index=0)], [["f", "{oops"]]),
}


def test_arguments_as_objects_that_are_hard_to_write() -> None:
    response = play(call("f", {"a": ["\ud83d", float("inf"), 10**30]}, index=0), STOP)
    assert outcome(response)["calls"] == [["f", '{"a":["\\ud83d",Infinity,1000000000000000000000000000000]}']]


@pytest.mark.parametrize("name", CALLS)
def test_which_call_a_delta_belongs_to(name: str) -> None:
    deltas, expected = CALLS[name]
    response = play(*deltas, STOP)
    assert outcome(response)["calls"] == expected
    assert response.status == "completed"


ALTERNATING = [
    call("f", "", index=0, id="a"),
    call("g", "", index=1, id="b"),
    call(None, '{"a":1}', index=0),
    call(None, "{}", index=1),
]


def test_arguments_for_a_call_that_is_over_break_the_response() -> None:
    response = play(*ALTERNATING, STOP)
    assert response.status == "failed"
    assert response.error is not None
    assert "over" in response.error.message


def test_an_error_in_a_choice() -> None:
    error = {
        "choices": [{"index": 0, "delta": {}, "error": {"message": "slow", "code": 429}, "finish_reason": "error"}]
    }
    response = play({"content": "x"}, error)
    assert response.error is not None
    assert (response.status, response.error.code) == ("failed", "rate_limit_exceeded")
    assert "slow" in response.error.message


def test_usage_by_its_other_names() -> None:
    told = {"input_tokens": 9, "output_tokens": 2}
    assert outcome(play({"content": "x"}, STOP | {"usage": told}))["usage"] == [9, 0, 2, 0]
    both = told | {"prompt_tokens": 8, "completion_tokens": 3}
    assert outcome(play({"content": "x"}, STOP | {"usage": both}))["usage"] == [8, 0, 3, 0]


def test_usage_of_zeros_takes_nothing_back() -> None:
    told = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    zeros = dict.fromkeys(told, 0)
    response = play({"content": "x"}, STOP | {"usage": told}, {"choices": [], "usage": zeros})
    assert outcome(response)["usage"] == [9, 0, 2, 0]
    assert outcome(play({"content": "x"}, STOP | {"usage": zeros}))["usage"] == [0, 0, 0, 0]


def test_calls_may_alternate_where_the_profile_says_so() -> None:
    response = play(*ALTERNATING, {"content": "x"}, STOP, profile=Profile(interleaved_calls=True))
    assert outcome(response)["calls"] == [["f", '{"a":1}'], ["g", "{}"]]
    assert [type(item) for item in response.output] == [FunctionCall, FunctionCall, Message]
    by_id = [call("f", "{", id="a"), call("g", "{", id="b"), call(None, "}", id="a"), call(None, "}", id="b")]
    response = play(*by_id, STOP, profile=Profile(interleaved_calls=True))
    assert outcome(response)["calls"] == [["f", "{}"], ["g", "{}"]]


def test_a_call_that_never_gets_a_name_breaks_the_response() -> None:
    assert play(call(None, "{}", index=0, id="a"), STOP).status == "failed"


def test_reasoning_in_the_chunk_of_a_fragment_does_not_close_its_call() -> None:
    leak = {"reasoning": "so", "tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}
    response = play(call("f", "{", index=0, id="a"), leak, STOP)
    assert outcome(response)["calls"] == [["f", "{}"]]
    assert outcome(response)["reasoning"] == "so"


# -- marks around reasoning

THOUGHTS: dict[str, tuple[list[str], str, str]] = {
    "whole": (["<think>a</think>b"], "a", "b"),
    "letter by letter": (list("<think>a<b</think>\n\nb<think>c"), "a<b", "b<think>c"),
    "white space in front": ([" \n", "<think>\na\n</think>b"], "\na\n", "b"),
    "none": (["a <think>b</think>"], "", "a <think>b</think>"),
    "almost": (["<thin", "g>"], "", "<thing>"),
    "empty": (["<think>", "</think>", " b"], "", "b"),
    "never closed": (["<think>a</thi"], "a</thi", ""),
    "only half a mark": (["<th"], "", "<th"),
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_think_tags(name: str) -> None:
    contents, reasoning, text = THOUGHTS[name]
    found = outcome(play(*[{"content": one} for one in contents], STOP, profile=THINK))
    assert (found["reasoning"], found["text"]) == (reasoning, text)


@pytest.mark.parametrize("contents", [["a</think>b"], ["<think>a</think>b"], ["<", "think>a</", "think>\nb"]])
def test_the_prompt_may_have_opened_the_thoughts(contents: list[str]) -> None:
    profile = Profile(think_tags=("<think>", "</think>"), starts_in_think=True)
    found = outcome(play(*[{"content": one} for one in contents], STOP, profile=profile))
    assert (found["reasoning"], found["text"]) == ("a", "b")


def test_a_call_ends_the_thoughts() -> None:
    response = play({"content": "<think>a<"}, call("f", "{}", index=0), {"content": "<think>b"}, STOP, profile=THINK)
    assert outcome(response) | {"usage": 0} == outcome(response) | {
        "usage": 0,
        "reasoning": "a<",
        "text": "<think>b",
        "calls": [["f", "{}"]],
    }


def test_thoughts_cut_by_the_limit_are_incomplete() -> None:
    length = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    response = play({"content": "<think>a"}, length, profile=THINK)
    assert response.status == "incomplete"
    assert [item.status for item in response.output] == ["incomplete"]


# -- ends


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("STOP", "completed", None),
        ("eos", "completed", None),
        ("something new", "completed", None),
        ("MAX_TOKENS", "incomplete", "max_output_tokens"),
        ("sensitive", "incomplete", "content_filter"),
        ("abort", "failed", None),
        ("", "failed", None),
        (7, "failed", None),
    ],
)
def test_finish_reasons(finish: Any, status: str, reason: str | None) -> None:
    response = play({"content": "x"}, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    assert (response.status, outcome(response)["reason"]) == (status, reason)
    assert outcome(response)["text"] == "x"


def test_what_the_shell_can_see() -> None:
    emit = Emitter(draft(Request(id="resp_00" + "a" * 32, created_at=1, model="m")))
    stream = ChatStream(emit, GENERIC)
    stream.feed(b'{"choices":[{"delta":{"content":"x"}}]}')
    assert not stream.ended
    stream.feed(b'{"choices":[{"finish_reason":"Weird"}]}')
    assert stream.ended
    assert list(stream.warnings) == ["stopped for an unknown reason: weird"]
    stream.feed(b" [DONE]")
    stream.feed(b"whatever comes behind it")
    assert stream.end() == Ending("completed")


def test_done_alone_is_an_end_but_no_reason() -> None:
    assert play({"content": "x"}, b"[DONE]").status == "failed"
    assert play(b"[DONE]").status == "failed"


def test_nothing_said_is_a_completed_response_without_output() -> None:
    response = play({"role": "assistant", "content": ""}, STOP)
    assert (response.status, response.output) == ("completed", [])


# -- usage and log probabilities


USAGE: list[tuple[list[Any], list[int] | None]] = [
    ([{"usage": {"prompt_tokens": 1, "completion_tokens": 2}}], [1, 0, 2, 0]),
    ([{"usage": {"prompt_tokens": 1.0, "completion_tokens": "2", "total_tokens": None}}], [1, 0, 2, 0]),
    ([{"usage": {"prompt_tokens": 1}}, {"usage": {"prompt_tokens": 1, "completion_tokens": 9}}], [1, 0, 9, 0]),
    ([{"usage": {"prompt_tokens": 1}}, {"usage": {}}, {"usage": None}, {"usage": []}, {"usage": "x"}], [1, 0, 0, 0]),
    ([{"usage": {"prompt_tokens": 5, "prompt_tokens_details": None, "cached_tokens": 2}}], [5, 2, 0, 0]),
    ([{"usage": {"prompt_tokens": 10**400, "completion_tokens": 10**30, "total_tokens": "9" * 5000}}], None),
    ([{"usage": {"prompt_tokens": True, "completion_tokens": -1, "total_tokens": [1]}}], None),
    ([{"usage": {"prompt_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}}}], [5, 0, 0, 3]),
]


@pytest.mark.parametrize(("chunks", "expected"), USAGE)
def test_usage(chunks: list[Any], expected: list[int] | None) -> None:
    response = play({"content": "x"}, STOP, *chunks)
    assert outcome(response)["usage"] == expected
    if response.usage is not None:
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def with_logprobs(text: str, *tokens: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": {"content": list(tokens)}}]}


def test_logprobs_go_with_their_text() -> None:
    half = {"token": "\\xf0", "logprob": -0.5, "bytes": [240], "id": 1, "top_logprobs": []}
    rest = {"token": "é", "logprob": -float("inf"), "top_logprobs": [{"token": "e", "logprob": -3, "bytes": None}]}
    response = play(with_logprobs("", half), with_logprobs("é", rest, None, 3), with_logprobs("", half), STOP)
    assert isinstance(response.output[0], Message)
    part = response.output[0].content[0]
    assert isinstance(part, OutputText)
    assert json.loads(msgspec.json.encode(part.logprobs)) == [
        {"token": "\\xf0", "logprob": -0.5, "bytes": [240], "top_logprobs": []},
        {
            "token": "é",
            "logprob": -9999.0,
            "bytes": [195, 169],
            "top_logprobs": [{"token": "e", "logprob": -3.0, "bytes": [101]}],
        },
    ]


@pytest.mark.parametrize("number", [None, "x", 10**400, -(10**400), float("nan"), True, [1]])
def test_odd_logprobs(number: Any) -> None:
    odd = {"token": "x", "logprob": number, "bytes": [10**30, -1], "top_logprobs": {"a": 1}}
    response = play(with_logprobs("x", odd), STOP)
    assert '"logprobs":[{"token":"x"' in msgspec.json.encode(response).decode()


def test_logprobs_of_a_capture_are_all_there() -> None:
    response, _ = run([body_of("llamacpp/chat-logprobs")])
    assert isinstance(response.output[0], Message)
    part = response.output[0].content[0]
    assert isinstance(part, OutputText)
    assert "".join(one.token for one in part.logprobs) == part.text
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)


# -- bytes that are hard to read


def test_surrogate_pairs_are_joined_and_lone_halves_marked() -> None:
    chunks = [
        rb'{"choices":[{"delta":{"content":"%s"}}]}' % part
        for part in (rb"a\ud83d", rb"\ude00b", rb"\ude00c", rb"\ud83d")
    ]
    response = play(*chunks, STOP)
    assert outcome(response)["text"] == "a😀b\ufffdc"


def test_surrogate_pairs_in_arguments_and_reasoning() -> None:
    first = rb'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"\"\ud83d"}}]}}]}'
    second = rb'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\ude00\""}}]}}]}'
    thought = [rb'{"choices":[{"delta":{"reasoning":"\ud83d"}}]}', rb'{"choices":[{"delta":{"reasoning":"\ude00"}}]}']
    response = play(*thought, first, second, STOP)
    assert outcome(response)["calls"] == [["f", '"😀"']]
    assert outcome(response)["reasoning"] == "😀"


def test_bytes_that_are_no_utf8_become_marks() -> None:
    assert outcome(play(b'{"choices":[{"delta":{"content":"a\xff"}}]}', STOP))["text"] == "a\ufffd"


GARBAGE = [
    b"{not json",
    b"[1]",
    b'"x"',
    b"null",
    b"<html>",
    b'{"choices":{}}',
    b'{"choices":[{"delta":"x"}]}',
    b'{"choices":' + b"[" * 100_000,
    b'{"error":' + b'{"message":' * 400 + b"1" + b"}" * 401,
    b'{"x":' * 100_000,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_breaks_the_response_and_may_be_tried_again(data: bytes) -> None:
    response = play({"content": "x"}, data)
    assert (response.status, outcome(response)["text"]) == ("failed", "x")
    emit = Emitter(draft(Request(id="resp_00" + "a" * 32, created_at=1, model="m")))
    with pytest.raises(UpstreamError) as caught:
        ChatStream(emit, GENERIC).feed(data)
    assert (caught.value.code, caught.value.retryable) == ("server_error", True)


IGNORED: list[Any] = [
    {"reasoning": json.loads("[" * 400 + "]" * 400), "content": json.loads("[" * 400 + "]" * 400)},
    {"x": 1},
    {"choices": None},
    {"choices": []},
    {"choices": [None]},
    {"choices": [{}]},
    {"choices": [{"index": 0, "delta": None}]},
    {"choices": [], "moderation": {"flagged": False}},
    {"x": 1, "type": "ping"},
    {"choices": [], "error": None},
    {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]},
    b"",
    b" ",
]


@pytest.mark.parametrize("chunk", IGNORED, ids=range(len(IGNORED)))
def test_chunks_without_meaning(chunk: Any) -> None:
    assert outcome(play({"content": "x"}, chunk, STOP))["text"] == "x"


def test_an_error_says_what_it_brings_first() -> None:
    chunk = {
        "error": {"message": "broke", "code": 502},
        "choices": [{"delta": {"content": "y"}, "finish_reason": "error"}],
    }
    response = play({"content": "x"}, chunk)
    assert outcome(response)["text"] == "xy"
    assert response.error == ResponseError("server_error", "The model backend reported an error: broke")


# -- bodies that are not streams


def whole(body: bytes) -> tuple[Response, Ending | None]:
    emit = Emitter(draft(Request(id="resp_00" + "a" * 32, created_at=1, model="m")))
    stream = ChatStream(emit, GENERIC)
    stream.feed_whole(body)
    assert stream.ended
    ending = stream.end()
    return emit.end(ending, at=2), ending


def test_a_whole_completion() -> None:
    response, _ = whole(b'{"choices":[{"message":{"content":"x"},"finish_reason":null}],"usage":null}')
    assert (response.status, outcome(response)["text"]) == ("completed", "x")


def test_a_stream_that_is_not_called_one() -> None:
    response, _ = whole(body_of("mlx/chat-text"))
    assert outcome(response) == read_naively(body_of("mlx/chat-text"))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{malformed json: <<<chaos>>>", "server_error"),
        (b"<html>Bad gateway</html>", "server_error"),
        (b"", "server_error"),
        (b"{}", "server_error"),
        (b'{"error":{"message":"slow down","code":429}}', "rate_limit_exceeded"),
        (b'{"object":"error","message":"too long","type":"BadRequestError","code":400}', "invalid_prompt"),
        (b'{"detail":"no"}', "server_error"),
    ],
)
def test_other_bodies_are_failures(body: bytes, code: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        whole(body)
    assert caught.value.code == code


# -- whatever a server may invent

NAMES = (
    "choices delta message content reasoning refusal tool_calls function_call function name arguments id index "
    "finish_reason logprobs token logprob bytes top_logprobs usage x_groq error code type text thinking "
    "annotations url_citation prompt_tokens detail"
)
KEYS = st.sampled_from(NAMES.split())
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "0", " ", "\ud83d", "stop"])
)
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
DELTAS = st.dictionaries(KEYS, ANY, max_size=4)
CHUNKS = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries({"delta": DELTAS}, optional={"logprobs": ANY, "usage": ANY}), max_size=2
        )
    },
    optional={"usage": ANY, "x_groq": ANY, "error": ANY},
)


@settings(max_examples=200, deadline=None)
@given(st.lists(CHUNKS | ANY, max_size=5), st.sampled_from([GENERIC, THINK, Profile(interleaved_calls=True)]))
def test_any_json_gives_a_correct_stream(chunks: list[Any], profile: Profile) -> None:
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in [{"choices": []}, *chunks, STOP])
    response, frames = run([body], profile)
    assert violations(frames) == []
    assert msgspec.json.decode(msgspec.json.encode(response), type=Response) == response
