"""Recorded and written streams of the Messages API reach the outcome they should, wherever the network cuts them."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.emitter import Emitter
from shared.core.profiles import PROFILES, Profile
from shared.core.responses import draft
from shared.core.tools import offers
from shared.errors import UpstreamError
from shared.wire.items import CustomTool, FunctionCall, FunctionTool, Message, OutputText, Reasoning
from shared.wire.requests import Request
from shared.wire.responses import Response
from support.answers import STATE, body_of, captured, data_of, frames_of, outcome, pieces, run
from worker.translate.anthropic_messages import family_of
from worker.translate.anthropic_stream import MAX_PAUSES, AnthropicStream
from worker.translate.chat_calls import ANYTHING, Offered
from worker.translate.state import open_states

CAPTURED = captured("/messages")
GENERIC = PROFILES["generic"]


def play(
    *payloads: dict[str, Any] | bytes, profile: Profile = GENERIC, offered: Offered = ANYTHING, **more: Any
) -> Response:
    body = frames_of(*payloads)
    return run(lambda emit: AnthropicStream(emit, profile, offered, STATE, **more), [body])[0]


def start(index: int, kind: str = "text", **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}


def delta(index: int, kind: str = "text", **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **more}}


def text(index: int, text: str) -> dict[str, Any]:
    return delta(index, "text", text=text)


def arguments(index: int, fragment: str) -> dict[str, Any]:
    return delta(index, "input_json", partial_json=fragment)


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def over(reason: str | None = "end_turn", usage: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, **more}, "usage": usage or {"output_tokens": 2}}


def read_naively(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"text": "", "reasoning": "", "refusal": ""}
    blocks: dict[int, list[str]] = {}
    read, cached, made, reason = 0, 0, 0, None
    for data in data_of(body):
        if data["type"] == "message_start":
            usage = data["message"]["usage"]
            cached = usage.get("cache_read_input_tokens", 0)
            read = usage["input_tokens"] + cached + usage.get("cache_creation_input_tokens", 0)
        elif data["type"] == "content_block_start" and data["content_block"]["type"] == "tool_use":
            blocks[data["index"]] = [data["content_block"]["name"], ""]
        elif data["type"] == "content_block_delta":
            found["text"] += data["delta"].get("text", "")
            found["reasoning"] += data["delta"].get("thinking", "")
            if "partial_json" in data["delta"]:
                blocks[data["index"]][1] += data["delta"]["partial_json"]
        elif data["type"] == "message_delta":
            made, reason = data["usage"]["output_tokens"], data["delta"]["stop_reason"]
    ways: dict[str | None, tuple[str, str | None, str | None]] = {
        "max_tokens": ("incomplete", "max_output_tokens", None),
        None: ("failed", None, "server_error"),
    }
    status, why, error = ways.get(reason, ("completed", None, None))
    silent = reason is None and not any(found.values()) and not blocks  # then it is tried again
    said = found | {"calls": [blocks[index] for index in sorted(blocks)]}
    said["usage"] = None if silent else [read, cached, made, 0]
    return {"status": status, "reason": why, "error": error, **said}


@pytest.mark.parametrize("name", CAPTURED)
def test_captures(name: str) -> None:
    body = body_of(name)
    response, _ = run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body])
    assert outcome(response) == read_naively(body)


def test_a_stream_that_just_stops_is_tried_again_while_it_said_nothing() -> None:
    answer = AnthropicStream(Emitter(draft(Request(id="r", created_at=1, model="m"))), GENERIC, ANYTHING, STATE)
    answer.feed(json.dumps(start(0)).encode())
    with pytest.raises(UpstreamError) as found:
        answer.end()
    assert (found.value.retryable, found.value.max_tries) == (True, 2)


def test_there_are_captures_of_both_programs() -> None:
    assert {name.partition("/")[0] for name in CAPTURED} == {"aimock", "llamacpp"}
    assert len(CAPTURED) >= 8


def unsealed(response: Response) -> Response:
    """Without what is sealed anew each time."""
    for item in response.output:
        if isinstance(item, Reasoning) and item.encrypted_content:
            item.encrypted_content = "sealed"
    return response


@pytest.mark.parametrize("name", CAPTURED)
def test_byte_by_byte(name: str) -> None:
    body = body_of(name)
    whole, _ = run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body])
    cut, _ = run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), pieces(body))
    assert unsealed(cut) == unsealed(whole)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([name for name in CAPTURED if len(body_of(name)) < 8000]), st.data())
def test_where_the_network_cuts_does_not_matter(name: str, data: st.DataObject) -> None:
    body = body_of(name)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8))), len(body)]
    cut, _ = run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body[a:b] for a, b in pairwise(edges)])
    assert unsealed(cut) == unsealed(run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body])[0])


@pytest.mark.parametrize("name", [name for name in CAPTURED if "trunc" not in name and len(body_of(name)) < 4000])
def test_a_stream_that_breaks_off_fails_until_it_said_why_it_stopped(name: str) -> None:
    body = body_of(name)
    says_why = body.index(b"\n\n", body.index(b"event: message_delta")) + 2
    for at in range(0, len(body), 11):
        status = run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body[:at]])[0].status
        assert (status == "failed") == (at < says_why)


# -- blocks


def test_blocks_that_overlap_become_items_in_the_order_they_appeared() -> None:
    response, _ = run(
        lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body_of("llamacpp/anthropic-reasoning")]
    )
    assert [type(item) for item in response.output] == [Reasoning, Message]
    response, _ = run(
        lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body_of("llamacpp/anthropic-tools2")]
    )
    assert [item.name for item in response.output if isinstance(item, FunctionCall)] == ["get_weather", "get_time"]


def test_calls_whose_arguments_alternate_are_told_one_after_the_other() -> None:
    response = play(
        start(0, "tool_use", id="a", name="f"), start(1, "tool_use", id="b", name="g"),
        arguments(0, '{"x"'), arguments(1, '{"y":'), arguments(0, ": 1}"), arguments(1, "[2]}"),
        stop(1), stop(0), over("tool_use"),
    )  # fmt: skip
    assert outcome(response)["calls"] == [["f", '{"x": 1}'], ["g", '{"y":[2]}']]
    assert [item.call_id for item in response.output if isinstance(item, FunctionCall)] == ["a", "b"]
    assert response.status == "completed"


def test_what_comes_late_for_a_block_is_not_lost() -> None:
    response = play(
        start(0, "thinking"), delta(0, "thinking", thinking="hm "), start(1), text(1, "Hel"),
        delta(0, "thinking", thinking="so"), text(1, "lo"), delta(0, "signature", signature="late"),
        stop(0), stop(1), over(),
    )  # fmt: skip
    assert [type(item) for item in response.output] == [Reasoning, Message, Reasoning]
    assert (outcome(response)["text"], outcome(response)["reasoning"]) == ("Hello", "hm so")
    (kept,) = open_states(response.output, family_of(GENERIC), STATE).values()
    assert (kept.text, kept.data) == ("hm so", {"signature": "late"})


def test_a_call_that_the_limit_cut_is_incomplete() -> None:
    response = play(start(0, "tool_use", id="a", name="f"), arguments(0, '{"x'), stop(0), over("max_tokens"))
    assert response.status == "incomplete"
    (call,) = response.output
    assert isinstance(call, FunctionCall)
    assert (call.arguments, call.status) == ('{"x', "incomplete")


def test_input_that_came_whole_with_the_start() -> None:
    response = play(start(0, "tool_use", id="a", name="f", input={"x": "ü"}), stop(0), over("tool_use"))
    assert outcome(response)["calls"] == [["f", '{"x":"ü"}']]
    response = play(start(0, "tool_use", id="a", name="f", input={}), stop(0), over("tool_use"))
    assert outcome(response)["calls"] == [["f", "{}"]]


def test_deltas_without_a_start_or_an_index() -> None:
    bare = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "lo"}}
    assert outcome(play(text(0, "Hel"), bare, over()))["text"] == "Hello"
    assert outcome(play({**bare}, over()))["text"] == "lo"
    assert play(arguments(0, "{}"), over()).error is not None


def test_a_custom_tool_is_unwrapped() -> None:
    offered = Offered({offer.name: offer for offer in offers([CustomTool("sh"), FunctionTool("f")])}, None)
    response = play(
        start(0, "tool_use", id="a", name="sh", input={}), arguments(0, '{"inp'), arguments(0, 'ut": "ls \\"x\\""}'),
        stop(0), over("tool_use"), offered=offered,
    )  # fmt: skip
    assert outcome(response)["calls"] == [["sh", 'ls "x"']]


def test_a_call_that_was_not_allowed_fails() -> None:
    offered = Offered({}, frozenset({"g"}))
    response = play(start(0, "tool_use", id="a", name="f"), stop(0), over("tool_use"), offered=offered)
    assert response.status == "failed"
    assert response.output == []


def test_structured_output_by_a_tool_is_text() -> None:
    response = play(
        start(0, "tool_use", id="a", name="city", input={}), arguments(0, '{"city":'), arguments(0, '"Oslo"}'),
        stop(0), over("tool_use"), json_tool="city",
    )  # fmt: skip
    assert outcome(response)["text"] == '{"city":"Oslo"}'
    assert response.status == "completed"


def test_tools_of_the_provider_are_left_out_with_a_warning() -> None:
    body = frames_of(
        start(0, "server_tool_use", id="s", name="web_search", input={}), arguments(0, "{}"), stop(0),
        start(1, "web_search_tool_result", tool_use_id="s", content=[]), stop(1), start(2), text(2, "yes"), stop(2), over(),
    )  # fmt: skip
    made: list[AnthropicStream] = []

    def make(emit: Emitter) -> AnthropicStream:
        made.append(AnthropicStream(emit, GENERIC, ANYTHING, STATE))
        return made[0]

    response, _ = run(make, [body])
    assert outcome(response)["text"] == "yes"
    assert len(response.output) == 1
    assert made[0].warnings == [
        "left out a block of type server_tool_use",
        "left out a block of type web_search_tool_result",
    ]


def test_citations_become_annotations_of_their_text() -> None:
    cited = {"type": "web_search_result_location", "url": "https://a.b/c", "title": "T", "cited_text": "x"}
    response = play(
        start(0), text(0, "It is "), stop(0),
        start(1, "text", text="", citations=[]), delta(1, "citations", citation=cited), text(1, "sunny"), stop(1),
        start(2), text(2, "."), stop(2), over(),
    )  # fmt: skip
    (message,) = response.output
    assert isinstance(message, Message)
    (part,) = message.content
    assert isinstance(part, OutputText)
    assert part.text == "It is sunny."
    (annotation,) = [json.loads(bytes(one)) for one in part.annotations]
    assert annotation == {
        "type": "url_citation",
        "url": "https://a.b/c",
        "title": "T",
        "start_index": 6,
        "end_index": 11,
    }


def test_halves_of_a_character_come_together() -> None:
    smile = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}\n\n'
    response = play(start(0), smile % rb"\ud83d", smile % rb"\ude00!", smile % rb"\ud83d", stop(0), over())
    assert outcome(response)["text"] in ("😀!", "😀!\ufffd")


def test_a_whole_message_behind_its_streamed_blocks_only_says_how_it_ended() -> None:
    whole = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello"}]}
    more = {"stop_reason": "max_tokens", "usage": {"input_tokens": 5, "output_tokens": 7}}
    response = play(start(0), text(0, "Hello"), stop(0), {**whole, **more})
    assert [item.content for item in response.output if isinstance(item, Message)] == [[OutputText("Hello", [], [])]]
    assert response.status == "incomplete"
    assert response.usage is not None
    assert response.usage.output_tokens == 7


# -- thinking and its state


def test_halves_of_surrogate_pairs_in_thinking_do_not_fail_the_answer() -> None:
    response = play(
        start(0, "thinking"), delta(0, "thinking", thinking="so \ud83d"), delta(0, "signature", signature="s\ude00"),
        stop(0), start(1), text(1, "42"), stop(1), over(),
    )  # fmt: skip
    assert response.status == "completed"
    assert [type(item) for item in response.output] == [Reasoning, Message]


def test_thinking_is_kept_sealed_with_its_signature() -> None:
    response = play(
        start(0, "thinking", thinking="", signature=""), delta(0, "thinking", thinking="Let me "),
        delta(0, "thinking", thinking="see"), delta(0, "signature", signature="sig"), stop(0),
        start(1, "redacted_thinking", data="ciphertext"), stop(1), start(2), text(2, "42"), stop(2), over(),
        profile=PROFILES["anthropic"],
    )  # fmt: skip
    thinking, redacted, message = response.output
    assert isinstance(thinking, Reasoning)
    assert thinking.summary is not None
    assert [part.text for part in thinking.summary] == ["Let me see"]
    assert isinstance(redacted, Reasoning)
    assert redacted.summary == []
    assert isinstance(message, Message)
    kept = open_states(response.output, f"anthropic/{PROFILES['anthropic'].family}", STATE)
    assert (kept[0].text, kept[0].data) == ("Let me see", {"signature": "sig"})
    assert kept[1].data == {"data": "ciphertext"}
    assert "ciphertext" not in str(response)


# -- usage


def test_usage_counts_the_cache_and_the_last_word_of_each_number() -> None:
    first = {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 1}
    last = {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}, "input_tokens": 6}
    usage = play({"type": "message_start", "message": {"usage": first}}, text(0, "x"), over(usage=last)).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (126, 9, 135)
    assert usage.input_tokens_details.cached_tokens == 100
    assert usage.input_tokens_details.cache_write_tokens == 20
    assert usage.output_tokens_details.reasoning_tokens == 4


def test_usage_that_nobody_told_is_null() -> None:
    assert play(text(0, "x"), {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}).usage is None


# -- ends


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("end_turn", "completed", None),
        ("stop_sequence", "completed", None),
        ("tool_use", "completed", None),
        ("max_tokens", "incomplete", "max_output_tokens"),
        ("model_context_window_exceeded", "incomplete", "max_output_tokens"),
        ("refusal", "incomplete", "content_filter"),
        ("something_new", "completed", None),
        (None, "failed", None),
    ],
)
def test_stop_reasons(reason: str | None, status: str, why: str | None) -> None:
    found = outcome(play(start(0), text(0, "x"), stop(0), over(reason)))
    assert (found["status"], found["reason"]) == (status, why)


def test_a_refusal_with_words_is_an_answer() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "I will not."}
    response = play(start(0), text(0, "Well"), stop(0), over("refusal", stop_details=details))
    assert (response.status, outcome(response)["refusal"]) == ("completed", "I will not.")


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        ("overloaded_error", "server_error", True),
        ("api_error", "server_error", True),
        ("rate_limit_error", "rate_limit_exceeded", True),
        ("invalid_request_error", "invalid_prompt", False),
        ("authentication_error", "server_error", False),
    ],
)
def test_errors_in_the_stream(kind: str, code: str, retryable: bool) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "Overloaded"}}
    found: list[UpstreamError] = []

    class Watch(AnthropicStream):
        def feed(self, data: bytes, event: str = "") -> None:
            try:
                super().feed(data, event)
            except UpstreamError as raised:
                found.append(raised)
                raise

    run(lambda emit: Watch(emit, GENERIC, ANYTHING, STATE), [frames_of(start(0), error)])
    assert [(one.code, one.retryable) for one in found] == [(code, retryable)]


@pytest.mark.parametrize("garbage", [b"data: {nope\n\n", b"data: [1]\n\n", b'data: {"delta": 3}\n\n'])
def test_garbage_fails(garbage: bytes) -> None:
    assert play(start(0), text(0, "x"), garbage, over()).status == "failed"


def test_unknown_events_and_pings_are_nothing() -> None:
    assert (
        play({"type": "ping"}, start(0), text(0, "x"), {"type": "new_thing", "index": 3}, over()).status == "completed"
    )


MESSAGE = {
    "type": "message",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"output_tokens": 4},
}
ODD: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "an error behind the end": (
        [start(0), text(0, "x"), stop(0), over(), {"type": "error", "error": {"type": "overloaded_error"}}],
        {"status": "completed", "text": "x"},
    ),
    "[DONE]": ([start(0), text(0, "x"), stop(0), over(), b"data: [DONE] \n\n"], {"status": "completed", "text": "x"}),
    "a whole message as one payload": ([MESSAGE], {"status": "completed", "text": "Hi", "usage": [0, 0, 4, 0]}),
    "usage at the very end": (
        [start(0), text(0, "x"), stop(0), over(), {"type": "message_stop", "usage": {"output_tokens": 7}}],
        {"usage": [0, 0, 7, 0]},
    ),
    "an input as text": ([start(0, "tool_use", name="f", input='{"x":1}'), stop(0), over("tool_use")], {"calls": [["f", '{"x":1}']]}),
    "a whole input that is never stopped": (
        [start(0, "tool_use", name="f", input={"x": 1}), over("tool_use")],
        {"calls": [["f", '{"x":1}']], "status": "completed"},
    ),
    "arguments as an object": (
        [start(0, "tool_use", name="f", input={}), delta(0, "input_json", partial_json={"x": 1}), stop(0), over("tool_use")],
        {"calls": [["f", '{"x":1}']]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_streams(name: str) -> None:
    payloads, expected = ODD[name]
    found = outcome(play(*payloads))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("form", [str, float])
def test_indexes_in_any_form(form: Any) -> None:
    payloads = [start(0, "tool_use", name="f"), start(1, "tool_use", name="g"), arguments(1, "{}"), arguments(0, '{"x":1}'),
                stop(0), stop(1)]  # fmt: skip
    odd = [one | {"index": form(one["index"])} for one in payloads]
    assert outcome(play(*odd, over("tool_use")))["calls"] == [["f", '{"x":1}'], ["g", "{}"]]


# -- not streamed


def test_a_whole_message() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
    ]  # fmt: skip
    usage = {"input_tokens": 3, "output_tokens": 4}
    message = {"type": "message", "role": "assistant", "content": content, "stop_reason": "tool_use", "usage": usage}
    found = outcome(
        run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [json.dumps(message).encode()])[0]
    )
    assert (found["status"], found["text"], found["reasoning"]) == ("completed", "Hi", "hm")
    assert (found["calls"], found["usage"]) == ([["f", '{"x":1}']], [3, 0, 4, 0])


@pytest.mark.parametrize("body", [b"{}", b'{"error": {"message": "no"}}', b"{", b'{"content": [1]}'])
def test_a_whole_body_that_is_no_message(body: bytes) -> None:
    assert run(lambda emit: AnthropicStream(emit, GENERIC, ANYTHING, STATE), [body])[0].status == "failed"


# -- paused turns


def test_a_paused_turn_is_sent_back_and_goes_on() -> None:
    sent: list[list[dict[str, Any]]] = []

    def go_on(blocks: list[dict[str, Any]]) -> bytes:
        sent.append(blocks)
        return b"again"

    def make(emit: Emitter) -> AnthropicStream:
        stream = AnthropicStream(emit, GENERIC, ANYTHING, STATE, go_on=go_on)
        for payload in data_of(
            frames_of(
                {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
                start(0, "thinking"), delta(0, "thinking", thinking="hm"), delta(0, "signature", signature="sig"), stop(0),
                start(1), text(1, "Look"), stop(1), start(2, "server_tool_use", id="s", name="web_search", input={}),
                arguments(2, '{"query":"x"}'), stop(2), over("pause_turn", {"output_tokens": 5}),
            )
        ):  # fmt: skip
            stream.feed(json.dumps(payload).encode())
        assert stream.follow_up() == b"again"
        return stream

    response, _ = run(
        make,
        [frames_of(
            {"type": "message_start", "message": {"usage": {"input_tokens": 10}}},
            start(0, "web_search_tool_result", tool_use_id="s", content=[]), stop(0), start(1), text(1, "ing"), stop(1),
            over("end_turn", {"output_tokens": 7}),
        )],
    )  # fmt: skip
    assert sent == [[
        {"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "text", "text": "Look"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
    ]]  # fmt: skip
    assert outcome(response) | {"reasoning": ""} == {
        "status": "completed", "reason": None, "error": None, "text": "Looking", "reasoning": "", "refusal": "",
        "calls": [], "usage": [13, 0, 12, 0],
    }  # fmt: skip
    assert [type(item) for item in response.output] == [Reasoning, Message]


def test_pausing_without_end_fails() -> None:
    emitted: list[int] = []

    def make(emit: Emitter) -> AnthropicStream:
        stream = AnthropicStream(emit, GENERIC, ANYTHING, STATE, go_on=lambda _: b"{}")
        for _ in range(MAX_PAUSES + 1):
            stream.feed(json.dumps(over("pause_turn")).encode())
            emitted.append(stream.follow_up() is not None)
        return stream

    assert run(make, [b""])[0].status == "failed"
    assert emitted == [True] * MAX_PAUSES + [False]
