"""What a client may say over a WebSocket, and how it is told what is wrong."""

import json
from typing import Any

import pytest

from api.messages import (
    body_of,
    decode_message,
    error_event,
    generates,
    parent_of,
    steer_failed,
    stream_id_of,
    type_of,
)
from shared.errors import InvalidRequest, RateLimited


def fields(**said: Any) -> Any:
    return decode_message(json.dumps(said).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'"x"', b'{"type": "\xff"}', b"\xff", b'{"a":1} x'])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_message(data)


@pytest.mark.parametrize("given", ["a", "A_b.c-9", "x" * 256])
def test_good_stream_ids(given: str) -> None:
    assert stream_id_of(fields(stream_id=given)) == given


@pytest.mark.parametrize("given", ["", "x" * 257, "a b", "ä", 'a"', "a\n", 5, ["a"], {}, False])
def test_bad_stream_ids(given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stream_id_of(fields(stream_id=given))
    assert (caught.value.code, caught.value.param) == ("invalid_stream_id", "stream_id")


def test_no_stream_id_is_the_default_lane() -> None:
    assert stream_id_of(fields()) == stream_id_of(fields(stream_id=None)) == ""


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({}, "missing_required_parameter"),
        ({"type": None}, "invalid_type"),
        ({"type": 5}, "invalid_type"),
        ({"type": "response.inject"}, "invalid_value"),
    ],
)
def test_wrong_types(said: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        type_of(fields(**said))
    assert (caught.value.code, caught.value.param) == (code, "type")


def test_known_types() -> None:
    assert type_of(fields(type="response.create")) == "response.create"
    assert type_of(fields(type="response.steer")) == "response.steer"


def test_the_body_is_that_of_a_streamed_post() -> None:
    said = {"model": "m", "input": "hi", "store": False, "background": False}
    message = {"type": "response.create", "stream_id": "a", "generate": True, "stream": "no", "stream_options": 5}
    assert json.loads(body_of(fields(**said, **message))) == {**said, "stream": True}


def test_background_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_of(fields(background=True))
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "background")


@pytest.mark.parametrize(("said", "wanted"), [({}, True), ({"generate": None}, True), ({"generate": False}, False)])
def test_whether_there_is_to_be_output(said: dict[str, Any], wanted: bool) -> None:
    assert generates(fields(**said)) is wanted


def test_generate_is_true_or_false() -> None:
    with pytest.raises(InvalidRequest) as caught:
        generates(fields(generate="yes"))
    assert (caught.value.code, caught.value.param) == ("invalid_type", "generate")


def test_the_parent() -> None:
    assert parent_of(fields(previous_response_id="resp_1")) == "resp_1"
    assert [parent_of(fields(previous_response_id=other)) for other in (None, 5, [])] == ["", "", ""]
    assert parent_of(fields()) == ""


def test_an_error_always_has_a_code() -> None:
    event = json.loads(error_event(InvalidRequest("No.", param="input")))
    told = {"type": "invalid_request_error", "code": "invalid_request_error", "message": "No.", "param": "input"}
    assert event == {"type": "error", "status": 400, "error": told}


def test_an_error_names_its_lane_and_when_to_come_again() -> None:
    event = json.loads(error_event(RateLimited("Later.", retry_after_s=7), "a"))
    assert (event["stream_id"], event["status"]) == ("a", 429)
    assert (event["error"]["headers"], event["error"]["param"]) == ({"retry-after": "7"}, None)


def test_steering_is_not_supported() -> None:
    said = {"previous_response_id": "resp_1", "input": [{"role": "user", "content": "x"}]}
    event = json.loads(steer_failed(fields(type="response.steer", **said), "a"))
    assert event["type"] == "response.steer.failed"
    assert (event["error"]["code"], event["error"]["type"]) == ("steering_not_supported", "invalid_request_error")
    assert (event["steer"], event["stream_id"]) == (said, "a")
    assert json.loads(steer_failed(fields(), ""))["steer"] == {"previous_response_id": "", "input": ""}
