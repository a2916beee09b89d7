"""The contract checker: good samples pass, and each rule has a row that breaks it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from support.contract import (
    DONE,
    check_answer,
    check_error,
    check_error_answer,
    check_event,
    check_response,
    check_stream,
    parse_sse,
    render_sse,
)
from support.samples import CITATION, RESPONSE_ID, call_events, make_response, make_stream, message_events, number
from support.schemas import Json

MESSAGE: Json = message_events(0, "msg_1", ["hi"])[-1]["item"]
CALL: Json = call_events(0, "fc_1", "call_1", ["{}"])[-1]["item"]


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"])
def test_good_responses_pass(status: str) -> None:
    assert check_response(make_response(status)) == []


def test_usage_may_be_unknown_at_the_end() -> None:
    assert check_response(make_response(output=[MESSAGE], usage=None)) == []


def test_hosted_tools_and_items_are_checked_against_openai_alone() -> None:
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "x"},
    }
    choice = {"type": "custom", "name": "sql"}
    good = make_response(output=[search], tools=[{"type": "web_search"}], tool_choice=choice)
    assert check_response(good) == []
    assert check_response(make_response(output=[{**search, "status": "done"}]))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": "response-1"}, "not a well-formed resp_ id"),
        ({"id": "resp_" + "x" * 60}, "not a well-formed resp_ id"),
        ({"object": "thing"}, "OpenAI Response: at /object"),
        ({"created_at": 1.5}, "created_at is 1.5"),
        ({"completed_at": None}, "completed_at is None while status is completed"),
        ({"completed_at": 1}, "is before created_at"),
        ({"status": "in_progress", "usage": None}, "completed_at is 1790000003 while status is in_progress"),
        ({"status": "done"}, "is not one of the six"),
        ({"error": {"code": "server_error", "message": "x"}}, "while status is completed"),
        ({"status": "failed", "completed_at": None}, "error is None while status is failed"),
        ({"error": {"code": "made_up", "message": "x"}, "status": "failed", "completed_at": None}, "at /error/code"),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "incomplete_details is"),
        ({"status": "incomplete", "completed_at": None}, "incomplete_details is None"),
        ({"status": "queued", "completed_at": None}, "usage is set while status is queued"),
        ({"output": [MESSAGE], "status": "queued", "completed_at": None, "usage": None}, "output is not empty"),
        ({"usage": {"input_tokens": 1}}, '"output_tokens" is a required property'),
        ({"temperature": None}, "Open Responses ResponseResource: at /temperature"),
        ({"user": None}, "OpenAI Response: at /user"),
        ({"output_text": "hi"}, "output_text is a property of the client library"),
        ({"conversation": {"id": "conv_1"}, "previous_response_id": "resp_1"}, "are both set"),
        ({"reasoning": {"effort": None}}, '"summary" is a required property'),
        ({"output": None}, "at /output"),
        ({"output": [{**MESSAGE, "id": "chatcmpl-1"}]}, "not a well-formed msg_ id"),
        ({"output": [{**CALL, "id": "call_9"}]}, "not a well-formed fc_ id"),
        ({"output": [{**CALL, "call_id": ""}]}, "call_id ''"),
        ({"output": [{**CALL, "call_id": "fc_1"}]}, "call_id and id are the same"),
        ({"output": [MESSAGE, MESSAGE]}, "is used twice"),
        ({"output": [{**MESSAGE, "status": "in_progress"}]}, "item is in_progress in a response that is completed"),
        ({"output": [{**MESSAGE, "status": "incomplete"}]}, "item is incomplete in a response that is completed"),
        ({"output": [{k: v for k, v in CALL.items() if k != "status"}]}, "function_call has no status"),
        ({"output": [{**MESSAGE, "content": [{"type": "output_text", "text": "hi", "annotations": []}]}]}, "logprobs"),
    ],
)
def test_broken_responses_are_named(changes: Json, complaint: str) -> None:
    found = check_response(make_response() | changes)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize("key", sorted(make_response()))
def test_no_key_of_a_response_may_be_missing(key: str) -> None:
    response = make_response()
    del response[key]
    assert f"key {key!r} is missing" in check_response(response)


Broken = Callable[[list[Json]], Any]


def find(events: list[Json], name: str, nth: int = 0) -> int:
    """The place of the *nth* event whose name ends in *name*."""
    return [place for place, event in enumerate(events) if event["type"].endswith(name)][nth]


def change(name: str, nth: int = 0, /, **changes: Any) -> Broken:
    """Set top-level keys of an event."""
    return lambda events: events[find(events, name, nth)].update(changes)


def within(name: str, inner: str, nth: int = 0, /, **changes: Any) -> Broken:
    """Set keys of an object inside an event."""
    return lambda events: events[find(events, name, nth)][inner].update(changes)


def drop(name: str, nth: int = 0) -> Broken:
    return lambda events: events.pop(find(events, name, nth))


def repeat(name: str, nth: int = 0) -> Broken:
    def broken(events: list[Json]) -> None:
        place = find(events, name, nth)
        events.insert(place + 1, copy.deepcopy(events[place]))

    return broken


def swap(name: str, nth: int = 0) -> Broken:
    """Exchange an event with the one behind it."""

    def broken(events: list[Json]) -> None:
        place = find(events, name, nth)
        events[place : place + 2] = reversed(events[place : place + 2])

    return broken


def move_to_end(name: str) -> Broken:
    return lambda events: events.append(events.pop(find(events, name)))


def final_output(edit: Callable[[list[Json]], Any]) -> Broken:
    return lambda events: edit(events[-1]["response"]["output"])


ORDER = [
    (drop("response.created"), "the first event must be response.created"),
    (repeat("response.created"), "comes a second time"),
    (change("response.created", response=make_response("in_progress")), "response.status is 'in_progress'"),
    (swap("response.created"), "the first event must be response.created"),
    (swap("response.queued"), "comes too late"),
    (repeat("response.queued"), "comes a second time"),
    (repeat("response.in_progress"), "comes a second time"),
    (drop("response.in_progress"), "comes before response.in_progress"),
    (move_to_end("response.in_progress"), "comes after the terminal event"),
    (within("response.in_progress", "response", id="resp_other"), "response.id became 'resp_other'"),
    (within("response.completed", "response", model="other"), "response.model became 'other'"),
    (within("response.created", "response", output=[MESSAGE]), "output is not empty"),
    (drop("response.completed"), "the stream ends without a terminal event"),
    (repeat("response.completed"), "comes after the terminal event"),
    (within("response.completed", "response", status="failed"), "response.status is 'failed' in response.completed"),
    (drop("output_item.added", 1), "comes before the output_item.added of output_index 1"),
    (repeat("output_item.added", 1), "output_index 1 was added before"),
    (change("output_item.added", 1, output_index=7), "output_index is 7, expected 1"),
    (within("output_item.added", "item", 4, id="fc_a3"), "item id 'fc_a3' was used before"),
    (within("output_item.added", "item", 1, id="msg_x"), "item id is 'msg_a1', item 1 was added as 'msg_x'"),
    (within("output_item.added", "item", 1, status="completed"), "item.status is 'completed', not 'in_progress'"),
    (within("output_item.added", "item", 3, arguments="{"), "an item is added empty"),
    (within("output_item.added", "item", 0, content=[{"type": "reasoning_text", "text": "x"}]), "is added empty"),
    (drop("output_item.done", 1), "item 1 is still open"),
    (drop("output_item.done", -1), "item 5 is still open"),
    (repeat("output_item.done", 1), "item 1 is closed already"),
    (within("output_item.done", "item", 3, name="get_time"), "item.name became 'get_time'"),
    (within("output_item.done", "item", 3, call_id="call_9"), "item.call_id became 'call_9'"),
    (within("output_item.done", "item", 3, arguments="{}"), "item.arguments '{}' is not the joined deltas"),
    (within("output_item.done", "item", 1, content=[]), "item.content has 0 parts, 1 were streamed"),
    (within("output_item.done", "item", 1, status="in_progress"), "item.status is 'in_progress' at its end"),
    (within("output_item.done", "item", 1, status="incomplete"), "item 1 ended incomplete, nothing may follow it"),
    (within("output_item.done", "item", 0, summary=[]), "item.summary has 0 parts, 1 were streamed"),
    (drop("content_part.added", 1), "comes before the content part 0 was added"),
    (repeat("content_part.added", 1), "content_index is 0, expected 1"),
    (change("content_part.added", 1, content_index=1), "content_index is 1, expected 0"),
    (within("content_part.added", "part", 1, text="Hel"), "a part is added as"),
    (change("content_part.added", 0, part={"type": "refusal", "refusal": ""}), "does not belong into the content"),
    (drop("content_part.done", 1), "content part 0 is still open"),
    (repeat("content_part.done", 1), "content part 0 is closed already"),
    (within("content_part.done", "part", 1, text="Help"), "part.text 'Help' is not the joined deltas 'Hello'"),
    (within("content_part.done", "part", 1, annotations=[]), "part.annotations [] are not those added"),
    (within("content_part.done", "part", 1, logprobs=[]), "part.logprobs are not those of the deltas"),
    (swap("output_text.done"), "comes before the done event of its text"),
    (drop("output_text.delta"), "says 'Hello', the deltas were 'lo'"),
    (swap("output_text.delta"), "says 'Hello', the deltas were 'loHel'"),
    (change("output_text.delta", delta=""), "the deltas were 'lo'"),
    (change("refusal.delta", 1, delta=""), "delta is empty"),
    (change("output_text.delta", item_id="msg_zz"), "item id is 'msg_zz'"),
    (change("output_text.delta", output_index=3), "before the output_item.added of output_index 3"),
    (change("output_text.delta", content_index=2), "comes before the content part 2 was added"),
    (change("output_text.done", text="Hello!"), "says 'Hello!'"),
    (change("output_text.done", logprobs=[]), "logprobs are not those of the deltas"),
    (repeat("output_text.done"), "comes after the done event of this text"),
    (change("annotation.added", annotation_index=1), "annotation_index is 1, expected 0"),
    (change("annotation.added", annotation={**CITATION, "title": "Other"}), "are not those added"),
    (change("refusal.done", refusal="Yes."), "says 'Yes.'"),
    (change("reasoning_text.done", text="Hm"), "says 'Hm'"),
    (change("reasoning_summary_text.done", text="Hm"), "says 'Hm'"),
    (drop("reasoning_summary_part.added"), "comes before the summary part 0 was added"),
    (drop("reasoning_summary_part.done"), "summary part 0 is still open"),
    (change("function_call_arguments.done", arguments="{}"), "says '{}'"),
    (change("function_call_arguments.done", name="get_time"), "name is 'get_time'"),
    (drop("function_call_arguments.done"), "comes before the done event of arguments"),
    (drop("function_call_arguments.delta", 2), "the deltas were ''"),
    (change("custom_tool_call_input.done", input=""), "says ''"),
    (final_output(list.clear), "response.output has 0 items, 6 were streamed"),
    (final_output(lambda output: output[1]["content"][0].update(text="Other")), "output/1 is not the item"),
    (final_output(list.reverse), "output/0 is not the item that was closed"),
]


def rule_name(value: object) -> str | None:
    return value if isinstance(value, str) else None


@pytest.mark.parametrize(("broken", "complaint"), ORDER, ids=rule_name)
def test_each_rule_of_order_is_watched(broken: Broken, complaint: str) -> None:
    events = make_stream()
    broken(events)
    found = check_stream(number(*events))
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
def test_good_streams_pass_from_anywhere_and_up_to_anywhere(status: str) -> None:
    events = make_stream(status)
    assert check_stream(events) == []
    for place in range(len(events)):
        assert check_stream(events[place + 1 :], starting_after=place) == []
        assert check_stream(events[:place], cut=True) == []


@pytest.mark.parametrize("status", ["completed", "incomplete", "cancelled"])
def test_no_event_can_be_lost_doubled_or_moved_unnoticed(status: str) -> None:
    events = make_stream(status)
    unnoticed = set()
    for place, event in enumerate(events):
        before, after = events[:place], events[place + 1 :]
        changed = {
            "lost": before + after,
            "doubled": [*before, event, event, *after],
            "moved": [*before, *after[:1], event, *after[1:]],
        }
        unnoticed |= {(how, event["type"]) for how, broken in changed.items() if not check_stream(number(*broken))}
    # the queued event is optional; an annotation may come between any two deltas of its text;
    # and behind the last event is nothing to move to
    assert unnoticed == {
        ("lost", "response.queued"),
        ("moved", "response.output_text.delta"),
        ("moved", events[-1]["type"]),
    }


def test_a_run_that_never_started_may_fail_or_be_cancelled_but_not_complete() -> None:
    created = {"type": "response.created", "response": make_response("queued")}
    for status, event in (("failed", "failed"), ("cancelled", "failed")):
        assert check_stream(number(created, {"type": f"response.{event}", "response": make_response(status)})) == []
    assert check_stream(number(created, {"type": "response.completed", "response": make_response()}))


@pytest.mark.parametrize("numbers", [[0, 1, 3], [0, 1, 1], [1, 2, 3], [0, 2, 1]])
def test_numbers_are_gapless_from_zero(numbers: list[int]) -> None:
    events = make_stream()[: len(numbers)]
    for event, value in zip(events, numbers, strict=True):
        event["sequence_number"] = value
    assert any("expected" in line for line in check_stream(events, cut=True))


def test_a_resumed_stream_starts_behind_the_asked_number_and_is_folded_as_far_as_seen() -> None:
    events = make_stream()
    assert check_stream(events[5:], starting_after=3) == [
        "event 5 " + events[5]["type"] + ": sequence_number is 5, expected 4"
    ]
    late = copy.deepcopy(events[find(events, "output_text.delta", 1) :])
    late[find(late, "output_text.done")]["text"] = "Help"
    assert any("'Help'" in line for line in check_stream(late, starting_after=late[0]["sequence_number"] - 1))
    assert check_stream([], starting_after=events[-1]["sequence_number"]) == []
    assert check_stream([]) == ["the stream holds no event at all"]


def test_items_may_be_interleaved_only_when_allowed() -> None:
    whole = make_stream()
    start, first, second = whole[:3], call_events(0, "fc_1", "call_1", ["{}"]), call_events(1, "fc_2", "call_2", ["{}"])
    output = [first[-1]["item"], second[-1]["item"]]
    end = {"type": "response.completed", "response": make_response(output=output, tools=start[0]["response"]["tools"])}
    events = number(*start, *first[:2], *second, *first[2:], end)
    assert check_stream(events, interleaved=True) == []
    assert any("item 0 is still open" in line for line in check_stream(events))


def error_event(**changes: Any) -> Json:
    flat = {"code": "server_error", "message": "lost the store", "param": None}
    return {"type": "error", "sequence_number": 3, **flat, "error": {"type": "server_error", **flat}, **changes}


def test_an_error_event_has_both_shapes_and_ends_the_stream() -> None:
    events = make_stream()
    assert check_stream([*events[:3], error_event()]) == []
    assert any("comes after an error event" in line for line in check_stream([*events[:3], error_event(), *events[3:]]))
    assert check_event(error_event(message="other")) == ["error.message differs from message"]
    assert any("Open Responses" in line for line in check_event({**error_event(), "error": None}))
    assert any("OpenAI" in line for line in check_event({k: v for k, v in error_event().items() if k != "message"}))


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        ({"type": "response.cancelled", "sequence_number": 1}, "no document knows"),
        ({"type": "keepalive", "sequence_number": 1}, "no document knows"),
        ({"sequence_number": 1}, "no document knows an event of type None"),
        (make_stream()[3] | {"sequence_number": -1}, "sequence_number is -1"),
        (make_stream()[3] | {"sequence_number": "3"}, "sequence_number is '3'"),
        (make_stream()[0] | {"response": make_response("queued", temperature=None)}, "at /response/temperature"),
        (make_stream()[0] | {"response": {**make_response("queued"), "id": 1}}, "at /response/id"),
        ({k: v for k, v in make_stream()[4].items() if k != "summary_index"}, '"summary_index" is a required property'),
    ],
)
def test_broken_events_are_named(event: Json, complaint: str) -> None:
    found = check_event(event)
    assert any(complaint in line for line in found), found


def test_no_field_of_an_event_may_be_missing() -> None:
    for event in make_stream():
        for key in event.keys() - {"type"}:
            assert check_event({k: v for k, v in event.items() if k != key}), (event["type"], key)


def test_messages_name_component_and_path_inside_a_union() -> None:
    added = {**make_stream()[3], "item": {**MESSAGE, "content": [{"type": "output_text", "text": 3}]}}
    found = check_event(added)
    assert 'OpenAI ResponseOutputItemAddedEvent: at /item/content/0/text: 3 is not of type "string"' in found
    assert any(line.startswith("Open Responses ResponseOutputItemAddedStreamingEvent: at /item") for line in found)


def test_open_responses_names_of_raw_reasoning_pass() -> None:
    events = make_stream()
    for event in events:
        event["type"] = event["type"].replace("reasoning_text", "reasoning")
    assert check_stream(events) == []


GOOD_BYTES = render_sse(make_stream())


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (GOOD_BYTES.replace(b"\n", b"\r\n"), "carriage return"),
        (GOOD_BYTES.removesuffix(DONE), "does not end with data: [DONE]"),
        (GOOD_BYTES + DONE, "comes after [DONE]"),
        (GOOD_BYTES + b": ping\n\n", "comes after [DONE]"),
        (GOOD_BYTES + b"x", "ends inside a frame"),
        (GOOD_BYTES.replace(b"event: response.created\n", b"event: response.queued\n"), "event line says"),
        (GOOD_BYTES.replace(b"event: response.created\n", b""), "not one event line and one data line"),
        (GOOD_BYTES.replace(b"data: {", b"id: 1\ndata: {", 1), "not one event line and one data line"),
        (GOOD_BYTES.replace(b"data: {", b"data: {\ndata: ", 1), "not one event line and one data line"),
        (GOOD_BYTES.replace(b"data: {", b": ping\ndata: {", 1), "comment inside an event frame"),
        (GOOD_BYTES.replace(b"data: {", b"data: ", 1), "data is not JSON"),
        (GOOD_BYTES.replace(b'"temperature":1.0', b'"temperature":NaN', 1), "NaN is not JSON"),
        (b"event: x\ndata: []\n\n" + DONE, "data is not an object"),
        (b"\n" + GOOD_BYTES, "not one event line and one data line"),
    ],
)
def test_broken_bytes_are_named(raw: bytes, complaint: str) -> None:
    found = parse_sse(raw).violations
    assert any(complaint in line for line in found), found


def test_good_bytes_pass_with_comments_between_events_and_cut_anywhere() -> None:
    parsed = parse_sse(b": ping\n\n" + GOOD_BYTES)
    assert parsed.violations == []
    assert parsed.done
    assert parsed.comments == 1
    assert parsed.events == make_stream()
    assert b"".join(parsed.frames) + DONE == GOOD_BYTES
    for size in range(0, len(GOOD_BYTES), 97):
        cut = parse_sse(GOOD_BYTES[:size], cut=True)
        assert cut.violations == []
        assert check_stream(cut.events, cut=True) == []


ERROR: Json = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"detail": "Not Found"},
        "404: Not Found",
        {"error": "No."},
        *({"error": {k: v for k, v in ERROR["error"].items() if k != key}} for key in ERROR["error"]),
        {**ERROR, "detail": "x"},
        {"error": {**ERROR["error"], "code": 404}},
        {"error": {**ERROR["error"], "message": ""}},
        {"error": {**ERROR["error"], "message": "Traceback (most recent call last):\n"}},
    ],
)
def test_broken_error_envelopes_are_named(body: object) -> None:
    assert check_error(body)


@pytest.mark.parametrize(
    ("status", "fault", "headers", "good"),
    [
        (400, "invalid_request_error", {}, True),
        (500, "server_error", {}, True),
        (400, "server_error", {}, False),
        (500, "invalid_request_error", {}, False),
        (429, "rate_limit_error", {"retry-after": "1"}, True),
        (429, "rate_limit_error", {}, False),
        (429, "insufficient_quota", {"x-should-retry": "false"}, True),
        (503, "service_unavailable_error", {"retry-after": "120"}, True),
        (503, "service_unavailable_error", {"retry-after": "300"}, False),
        (503, "service_unavailable_error", {"retry-after": "0.5"}, False),
    ],
)
def test_error_answers_fit_their_status(status: int, fault: str, headers: dict[str, str], good: bool) -> None:
    body = {"error": {**ERROR["error"], "type": fault}}
    assert (check_error_answer(status, headers, body) == []) is good


INPUT_ITEMS = f"/v1/responses/{RESPONSE_ID}/input_items"
EMPTY_LIST: Json = {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}


@pytest.mark.parametrize(
    ("path", "body", "good"),
    [
        ("/v1/responses", make_response(), True),
        ("/v1/responses", make_response(temperature=None), False),
        ("/v1/responses", {"status": "ok"}, False),
        ("/v1/responses", [], False),
        ("/v1/models", {"object": "list", "data": []}, True),
        (INPUT_ITEMS, EMPTY_LIST, True),
        (INPUT_ITEMS, {**EMPTY_LIST, "first_id": None}, False),
        (INPUT_ITEMS, {**EMPTY_LIST, "data": [MESSAGE], "first_id": "msg_1", "last_id": "msg_1"}, True),
        (INPUT_ITEMS, {**EMPTY_LIST, "data": [MESSAGE], "first_id": "msg_1", "last_id": "msg_2"}, False),
        ("/v1/responses/resp_1", {"id": "resp_1", "object": "response.deleted", "deleted": True}, True),
        ("/v1/responses/resp_1", {"id": "resp_1", "object": "response.deleted"}, False),
        ("/v1/responses/input_tokens", {"object": "response.input_tokens", "input_tokens": 3}, True),
        ("/v1/responses/input_tokens", {"object": "response.input_tokens", "input_tokens": "3"}, False),
    ],
)
def test_other_answers_are_recognised(path: str, body: Any, good: bool) -> None:
    assert (check_answer(path, body) == []) is good
