"""Recorded and written streams of other Responses servers reach the outcome they should, wherever the network cuts them."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.emitter import Emitter
from shared.core.profiles import PROFILES, Profile
from shared.core.tools import offers
from shared.errors import UpstreamError
from shared.wire.items import (
    CustomTool,
    CustomToolCall,
    FunctionCall,
    FunctionTool,
    Message,
    NamespaceTool,
    OutputText,
    Reasoning,
    Refusal,
)
from shared.wire.responses import Response
from support.answers import STATE, asked_of, body_of, captured, data_of, frames_of, outcome, pieces, run
from worker.translate.chat_calls import ANYTHING, Offered
from worker.translate.responses_stream import ResponsesStream
from worker.translate.state import open_states

CAPTURED = captured("/responses")
GENERIC, OPENAI = PROFILES["generic"], PROFILES["openai"]


def stream(emit: Emitter, profile: Profile = GENERIC, offered: Offered = ANYTHING, **more: Any) -> ResponsesStream:
    return ResponsesStream(emit, profile, offered, STATE, **more)


def watch(
    *payloads: dict[str, Any] | bytes, profile: Profile = GENERIC, offered: Offered = ANYTHING, **more: Any
) -> tuple[Response, list[str]]:
    """(the response, the warnings)."""
    made: list[ResponsesStream] = []

    def make(emit: Emitter) -> ResponsesStream:
        made.append(stream(emit, profile, offered, **more))
        return made[0]

    return run(make, [frames_of(*payloads)])[0], made[0].warnings


def play(*payloads: dict[str, Any] | bytes, **more: Any) -> Response:
    response, warnings = watch(*payloads, **more)
    assert warnings == []
    return response


def event(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{name}", **fields}


def added(kind: str, item_id: str | None = None, **more: Any) -> dict[str, Any]:
    return event("output_item.added", item={"type": kind, "id": item_id, **more})


def done(kind: str, item_id: str | None = None, **more: Any) -> dict[str, Any]:
    return event("output_item.done", item={"type": kind, "id": item_id, **more})


def completed(name: str = "completed", **more: Any) -> dict[str, Any]:
    return event(name, response={"object": "response", "status": name, **more})


def text(delta: str, item_id: str | None = None, **more: Any) -> dict[str, Any]:
    return event("output_text.delta", delta=delta, item_id=item_id, **more)


def read_naively(name: str) -> dict[str, Any]:
    """What a capture says at its end."""
    events = data_of(body_of(name))
    final = events[-1]["response"]
    if events[-1]["type"] not in ("response.completed", "response.incomplete"):
        nothing = {"text": "", "reasoning": "", "refusal": "", "calls": [], "usage": None}
        return {"status": "failed", "reason": None, "error": "server_error", **nothing}
    said = {"text": "", "reasoning": "", "refusal": ""}
    calls = []
    for item in final["output"]:
        if item["type"] == "function_call":
            calls.append([item["name"], item["arguments"]])
        for part in item.get("content", []) + item.get("summary", []):
            said["text" if part["type"] == "output_text" else "reasoning"] += part["text"]
    usage = final["usage"]
    limit = asked_of(name).get("max_output_tokens")
    cut = final["status"] == "incomplete" or (limit is not None and usage["output_tokens"] >= limit)
    into, out = usage.get("input_tokens_details", {}), usage.get("output_tokens_details", {})
    return {
        "status": "incomplete" if cut else "completed", "reason": "max_output_tokens" if cut else None, "error": None,
        **said, "calls": calls,
        "usage": [usage["input_tokens"], into.get("cached_tokens", 0), usage["output_tokens"], out.get("reasoning_tokens", 0)],
    }  # fmt: skip


def limit_of(name: str) -> int | None:
    limit = asked_of(name).get("max_output_tokens")
    assert limit is None or isinstance(limit, int)
    return limit


@pytest.mark.parametrize("name", CAPTURED)
def test_captures(name: str) -> None:
    limit = limit_of(name)
    response, _ = run(lambda emit: stream(emit, max_output_tokens=limit), [body_of(name)])
    assert outcome(response) == read_naively(name)


def test_there_are_captures_of_all_programs_and_of_a_limit_that_was_not_told() -> None:
    assert {name.partition("/")[0] for name in CAPTURED} == {"aimock", "llamacpp", "transformers"}
    assert len(CAPTURED) >= 12
    assert read_naively("transformers/responses-length")["status"] == "incomplete"


@pytest.mark.parametrize("name", CAPTURED)
def test_byte_by_byte(name: str) -> None:
    body = body_of(name)
    assert run(stream, pieces(body)) == run(stream, [body])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([name for name in CAPTURED if len(body_of(name)) < 8000]), st.data())
def test_where_the_network_cuts_does_not_matter(name: str, data: st.DataObject) -> None:
    body = body_of(name)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8))), len(body)]
    assert run(stream, [body[a:b] for a, b in pairwise(edges)]) == run(stream, [body])


@pytest.mark.parametrize("name", [name for name in CAPTURED if len(body_of(name)) < 4000])
def test_a_stream_that_breaks_off_fails(name: str) -> None:
    body = body_of(name)
    for at in range(0, len(body.rstrip(b"\n")), 23):
        assert run(stream, [body[:at]])[0].status == "failed"


def test_no_id_of_theirs_is_shown() -> None:
    for name in CAPTURED:
        response, frames = run(stream, [body_of(name)])
        shown = frames.decode()
        theirs = {
            item.get("id")
            for data in data_of(body_of(name))
            for item in [data.get("item") or {}, data.get("response") or {}]
        }
        calls = {item.call_id for item in response.output if isinstance(item, FunctionCall)}
        assert not [one for one in theirs - calls if one and f'"{one}"' in shown]


# -- items


def test_events_that_say_nothing_of_where_they_belong() -> None:
    response = play(
        added("reasoning"), event("reasoning_text.delta", delta="hm"), added("message"), text("Hel"), text("lo"),
        added("function_call", call_id="c", name="f"), event("function_call_arguments.delta", delta="{}"), completed(),
    )  # fmt: skip
    assert [type(item) for item in response.output] == [Reasoning, Message, FunctionCall]
    found = outcome(response)
    assert (found["reasoning"], found["text"], found["calls"]) == ("hm", "Hello", [["f", "{}"]])


def test_deltas_whose_item_was_never_added() -> None:
    found = outcome(
        play(event("reasoning_summary_text.delta", delta="hm"), text("Hi", "m"), text("!", "m"), completed())
    )
    assert (found["reasoning"], found["text"], found["status"]) == ("hm", "Hi!", "completed")
    assert play(event("function_call_arguments.delta", delta="{}"), completed()).status == "failed"


@pytest.mark.parametrize("item_id", ["f", None])
@pytest.mark.parametrize("told_by", ["item", "end"])
def test_a_call_that_gets_its_name_when_it_is_done(item_id: str | None, told_by: str) -> None:
    whole = {"type": "function_call", "id": item_id, "call_id": "c", "name": "f", "arguments": '{"x":1}'}
    rest = [event("output_item.done", item=whole), completed()] if told_by == "item" else [completed(output=[whole])]
    response = play(
        added("function_call", item_id, call_id="c"),
        event("function_call_arguments.delta", item_id=item_id, delta='{"x":'),
        *rest,
    )
    (call,) = response.output
    assert isinstance(call, FunctionCall)
    assert (response.status, call.name, call.call_id, call.arguments) == ("completed", "f", "c", '{"x":1}')


def test_a_call_that_never_gets_a_name_is_a_failure() -> None:
    response = play(added("function_call", "f", call_id="c"), completed())
    assert response.status == "failed"


def test_what_was_left_out_is_made_up_from_what_comes_later() -> None:
    parts = [{"type": "output_text", "text": "Hello", "annotations": []}]
    found = outcome(play(
        added("message", "m"), text("He", "m"), event("output_text.done", item_id="m", text="Hell"),
        event("content_part.done", item_id="m", part=parts[0]),
        added("function_call", "f", call_id="c", name="f"), event("function_call_arguments.done", item_id="f", arguments="{}"),
        done("function_call", "g", call_id="d", name="g", arguments='{"x":1}'),
        completed(output=[
            {"type": "message", "id": "m", "content": parts},
            {"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call", "id": "g", "call_id": "d", "name": "g", "arguments": '{"x":1}'},
            {"type": "message", "id": "n", "content": [{"type": "output_text", "text": " again"}]},
        ]),
    ))  # fmt: skip
    assert (found["text"], found["calls"]) == ("Hello again", [["f", "{}"], ["g", '{"x":1}']])


def test_an_end_with_other_ids_repeats_nothing() -> None:
    response = play(
        added("message", "m1"), text("Hi", "m1"), done("message", "m1", content=[{"type": "output_text", "text": "Hi"}]),
        completed(output=[{"type": "message", "id": "other", "content": [{"type": "output_text", "text": "Hi"}]}]),
    )  # fmt: skip
    assert outcome(response)["text"] == "Hi"
    assert len(response.output) == 1


def test_an_end_that_tells_another_text_is_a_warning() -> None:
    response, warnings = watch(
        added("message", "m"), text("Hi", "m"), done("message", "m", content=[{"type": "output_text", "text": "Hi"}]),
        completed(output=[{"type": "message", "id": "m", "content": [{"type": "output_text", "text": "Ho"}]}]),
    )  # fmt: skip
    assert (outcome(response)["text"], response.status) == ("Hi", "completed")
    assert warnings == ["told another output at the end than it had streamed"]
    _, warnings = watch(
        added("message", "m"), text("Hi", "m"), event("output_text.done", item_id="m", text="Ho"), completed()
    )
    assert warnings == ["ended a text with another text than it had streamed"]


def test_empty_messages_beside_calls_are_dropped() -> None:
    response, _ = run(stream, [body_of("transformers/responses-tool1")])
    assert [type(item) for item in response.output] == [FunctionCall]


def test_messages_and_parts_stay_apart() -> None:
    response = play(
        added("message", "a", phase="commentary"), text("one", "a"), text("two", "a", content_index=1),
        event("refusal.delta", item_id="a", content_index=2, delta="no"), done("message", "a"),
        added("message", "b"), text("three", "b"), done("message", "b"), completed(),
    )  # fmt: skip
    first, second = response.output
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    assert first.phase == "commentary"
    assert [type(part) for part in first.content] == [OutputText, OutputText, Refusal]
    assert second.content == [OutputText("three", [], [])]


def test_the_parts_of_a_summary_stay_apart() -> None:
    def grow(index: int, delta: str) -> dict[str, Any]:
        return event("reasoning_summary_text.delta", item_id="r", output_index=0, summary_index=index, delta=delta)

    response = play(added("reasoning", "r"), grow(0, "a"), grow(0, "b"), grow(1, "c"), completed())
    (item,) = response.output
    assert isinstance(item, Reasoning)
    assert item.summary is not None
    assert [part.text for part in item.summary] == ["ab", "c"]


def test_sealed_reasoning_is_kept_as_state() -> None:
    response = play(
        added("reasoning", "r"), done("reasoning", "r", summary=[], encrypted_content="theirs"), added("message", "m"),
        text("Hi", "m"), completed(), profile=OPENAI,
    )  # fmt: skip
    item = response.output[0]
    assert isinstance(item, Reasoning)
    assert item.encrypted_content is not None
    assert "theirs" not in item.encrypted_content
    (kept,) = open_states(response.output, f"responses/{OPENAI.family}", STATE).values()
    assert kept.data == "theirs"


def test_custom_tools_native_and_as_functions() -> None:
    tools = [CustomTool("sh"), NamespaceTool("crm", [FunctionTool("find")])]
    offered = Offered({offer.name: offer for offer in offers(tools)}, None)
    response = play(
        added("custom_tool_call", "a", call_id="c", name="sh", input=""),
        event("custom_tool_call_input.delta", item_id="a", delta='ls "'), event("custom_tool_call_input.delta", item_id="a", delta="x{"),
        event("custom_tool_call_input.done", item_id="a", input='ls "x{'),
        added("function_call", "b", call_id="d", name="sh", arguments=""),
        event("function_call_arguments.done", item_id="b", arguments='{"input":"pwd"}'),
        added("function_call", "e", call_id="e", name="crm__find", arguments=""), completed(), offered=offered,
    )  # fmt: skip
    first, second, third = response.output
    assert isinstance(first, CustomToolCall)
    assert isinstance(second, CustomToolCall)
    assert (first.input, second.input) == ('ls "x{', "pwd")
    assert isinstance(third, FunctionCall)
    assert (third.name, third.namespace, third.arguments) == ("find", "crm", "{}")


def test_logprobs_and_annotations_come_along() -> None:
    cited = {"type": "url_citation", "url": "https://a.b", "title": "T", "start_index": 0, "end_index": 2}
    logprob = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Ho", "logprob": -2}]}
    response = play(
        added("message", "m"), text("Hi", "m", logprobs=[logprob]),
        event("output_text.annotation.added", item_id="m", annotation=cited),
        done("message", "m", content=[{"type": "output_text", "text": "Hi", "annotations": [cited], "logprobs": [logprob]}]),
        completed(),
    )  # fmt: skip
    (message,) = response.output
    assert isinstance(message, Message)
    (part,) = message.content
    assert isinstance(part, OutputText)
    assert [json.loads(bytes(one)) for one in part.annotations] == [cited]
    assert [(one.token, one.logprob, one.top_logprobs[0].token) for one in part.logprobs] == [("Hi", -0.5, "Ho")]


def test_hosted_tools_are_left_out_with_a_warning() -> None:
    response, warnings = watch(
        event("output_item.added", output_index=0, item={"type": "web_search_call", "id": "w"}),
        event("web_search_call.searching", output_index=0, item_id="w"),
        event("output_item.done", output_index=0, item={"type": "web_search_call", "id": "w"}),
        event("output_item.added", output_index=1, item={"type": "message", "id": "m"}), text("Hi", "m", output_index=1),
        completed(),
    )  # fmt: skip
    assert outcome(response)["text"] == "Hi"
    assert warnings == [
        "left out an item of type web_search_call",
        "left out an event response.web_search_call.searching",
    ]


def test_a_call_that_was_not_allowed_fails() -> None:
    response = play(
        added("function_call", "f", call_id="c", name="f"), completed(), offered=Offered({}, frozenset({"g"}))
    )
    assert (response.status, response.output) == ("failed", [])


def test_calls_that_alternate() -> None:
    def grow(item_id: str, delta: str) -> dict[str, Any]:
        return event("function_call_arguments.delta", item_id=item_id, delta=delta)

    response = play(
        added("function_call", "a", call_id="c", name="f"), added("function_call", "b", call_id="d", name="g"),
        grow("a", '{"x":'), grow("b", '{"y"'), grow("a", "1}"), grow("b", ":2}"), completed(),
    )  # fmt: skip
    assert outcome(response)["calls"] == [["f", '{"x":1}'], ["g", '{"y":2}']]


# -- ends


def test_the_limit_is_believed_only_of_servers_that_are_trusted() -> None:
    usage = {"input_tokens": 1, "output_tokens": 16, "total_tokens": 17}
    end = completed(usage=usage)
    assert play(text("x"), end, max_output_tokens=16).status == "incomplete"
    assert play(text("x"), end, max_output_tokens=17).status == "completed"
    assert play(text("x"), end, max_output_tokens=16, profile=OPENAI).status == "completed"


@pytest.mark.parametrize(
    ("end", "status", "reason", "code"),
    [
        (completed("incomplete", incomplete_details={"reason": "max_output_tokens"}), "incomplete", "max_output_tokens", None),
        (completed("incomplete", incomplete_details={"reason": "content_filter"}), "incomplete", "content_filter", None),
        (event("completed", response={"status": "incomplete"}), "incomplete", "max_output_tokens", None),
        (completed("failed", error={"code": "server_error", "message": "no"}), "failed", None, "server_error"),
        (completed("failed", error={"code": "rate_limit_exceeded", "message": "no"}), "failed", None, "rate_limit_exceeded"),
        (completed("failed"), "failed", None, "server_error"),
        (completed("cancelled"), "failed", None, "server_error"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}, "failed", None, "rate_limit_exceeded"),
        ({"type": "error", "error": {"code": "invalid_prompt", "message": "bad"}}, "failed", None, "invalid_prompt"),
        (b'event: error\ndata: {"message": "boom"}\n\n', "failed", None, "server_error"),
        (b'data: {"error": {"message": "boom", "code": "429"}}\n\n', "failed", None, "rate_limit_exceeded"),
        (b"data: {nope\n\n", "failed", None, "server_error"),
        (b"data: [DONE]\n\n", "failed", None, "server_error"),
    ],
)  # fmt: skip
def test_ends(end: dict[str, Any] | bytes, status: str, reason: str | None, code: str | None) -> None:
    found = outcome(play(text("Hi"), end))
    assert (found["status"], found["reason"], found["error"], found["text"]) == (status, reason, code, "Hi")


def test_a_failure_before_any_output_may_be_tried_again() -> None:
    emit = Emitter(run(stream, [b""])[0])
    with pytest.raises(UpstreamError) as caught:
        stream(emit).feed(json.dumps(completed("failed", error={"code": "server_error", "message": "no"})).encode())
    assert caught.value.retryable


def test_a_whole_response() -> None:
    output = [
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    whole = {
        "object": "response",
        "status": "completed",
        "output": output,
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    found = outcome(run(stream, [json.dumps(whole).encode()])[0])
    assert (found["status"], found["reasoning"], found["text"]) == ("completed", "hm", "Hi")
    assert (found["calls"], found["usage"]) == ([["f", "{}"]], [1, 0, 2, 0])
    assert run(stream, [b'{"error": {"message": "no"}}'])[0].status == "failed"
    assert run(stream, [b"{}"])[0].status == "failed"


# -- ends, and items, that are told in other ways

SAID = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
TOLD = {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
ODD: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "response.done": ([text("Hi"), completed("completed", usage=TOLD) | {"type": "response.done"}], {"status": "completed", "usage": [9, 0, 2, 0]}),
    "response.done that says failed": (
        [text("Hi"), event("done", response={"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow"}})],
        {"status": "failed", "error": "rate_limit_exceeded", "text": "Hi"},
    ),
    "an end without a response": ([text("Hi"), event("completed", usage=TOLD)], {"status": "completed", "usage": [9, 0, 2, 0]}),
    "a failure without a response": ([text("Hi"), event("failed", error={"code": "429"})], {"status": "failed", "error": "rate_limit_exceeded"}),
    "response.error": ([text("Hi"), event("error", error={"message": "slow", "code": "429"})], {"error": "rate_limit_exceeded"}),
    "a whole response as one payload": ([{"object": "response", "status": "completed", "output": [SAID]}], {"text": "Hi", "status": "completed"}),
    "[DONE]": ([text("Hi"), b"data: [DONE] \n\n"], {"status": "failed", "error": "server_error", "text": "Hi"}),
    "arguments as an object": ([done("function_call", name="f", arguments={"x": 1}), completed()], {"calls": [["f", '{"x":1}']]}),
    "arguments that are only told at first": (
        [added("function_call", "a", name="f", arguments='{"x":1}'), completed()],
        {"calls": [["f", '{"x":1}']]},
    ),
    "a text that is only told at first": ([added("message", "a", content=SAID["content"]), completed()], {"text": "Hi"}),
    "usage by its other names": (
        [text("Hi"), completed(usage={"prompt_tokens": 9, "completion_tokens": 2})],
        {"usage": [9, 0, 2, 0]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_streams(name: str) -> None:
    payloads, expected = ODD[name]
    found = outcome(play(*payloads))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    "name", ["delta", "done", "response.delta", "response..done", ".done", "response.", "output_text.delta.x"]
)
def test_names_that_mean_nothing(name: str) -> None:
    response, _ = watch({"type": name, "delta": "x", "text": "x"}, text("Hi"), completed())
    assert (response.status, outcome(response)["text"]) == ("completed", "Hi")
