"""Error answers of every shape."""

import json
from pathlib import Path
from typing import Any

import pytest

from worker.translate.errors import MAX_MESSAGE_CHARS, OPERATORS, parse_retry_after, stream_error, upstream_error

STREAMS = Path(__file__).parents[2] / "streams"
NOW = 1_795_000_000.0  # 2026-11-18 11:06:40 GMT


def answer(status: int, body: Any) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return upstream_error(status, raw, None, NOW)


CAPTURED = {
    "aimock/chat-400": ("invalid_prompt", False, "Input too long"),
    "aimock/chat-429": ("rate_limit_exceeded", True, "Rate limit reached"),
    "aimock/chat-500": ("server_error", True, "Boom"),
    "llamacpp/err-bad-json": ("invalid_prompt", False, "parse error at line 1, column 87"),
    "llamacpp/err-context": ("invalid_prompt", False, "exceeds the available context size (4096 tokens)"),
    "llamacpp/err-image": ("invalid_prompt", False, "image input is not supported"),
    "llamacpp/err-messages-string": ("invalid_prompt", False, "Expected 'messages' to be an array"),
    "transformers/err-bad-json": ("invalid_prompt", False, "JSON decode error"),
    "transformers/err-model": ("invalid_prompt", False, "Server is pinned to 'MODELDIR'"),
    "pace/fault-status-429": ("rate_limit_exceeded", True, "injected 429"),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_captured_answers(name: str) -> None:
    about = json.loads((STREAMS / f"{name}.meta.json").read_bytes())
    headers = {key.lower(): value for key, value in about["headers"].items()}
    body = (STREAMS / f"{name}.body").read_bytes()
    error = upstream_error(about["status"], body, headers.get("retry-after"), NOW)
    code, retryable, text = CAPTURED[name]
    assert (error.code, error.retryable) == (code, retryable)
    assert text in error.message
    assert (error.retry_after_s is not None) == ("retry-after" in headers)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_is_the_operators_fault_is_not_repeated(status: int) -> None:
    error = answer(status, {"error": {"message": "Incorrect API key provided: sk-abc at http://10.0.0.1:8000"}})
    assert error.message == f"The model backend answered {status}{OPERATORS.get(status, '')}."
    assert (error.code, error.retryable) == ("server_error", False)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (301, "server_error", False),
        (405, "invalid_prompt", False),
        (408, "server_error", True),
        (409, "server_error", True),
        (413, "invalid_prompt", False),
        (422, "invalid_prompt", False),
        (425, "server_error", True),
        (429, "rate_limit_exceeded", True),
        (500, "server_error", True),
        (501, "server_error", False),
        (502, "server_error", True),
        (503, "server_error", True),
        (504, "server_error", True),
        (529, "server_error", True),
    ],
)
def test_the_status_decides(status: int, code: str, retryable: bool) -> None:
    error = answer(status, b"")
    assert (error.code, error.retryable) == (code, retryable)
    assert error.message == f"The model backend answered {status}."


SHAPES: list[tuple[Any, str]] = [
    ({"error": {"message": "why", "type": "x", "code": 1}}, "why"),
    ({"error": "why"}, "why"),
    ({"error": {"message": None, "detail": "why"}}, "why"),
    ({"error": {"message": {"detail": [{"msg": "why"}]}}}, "why"),
    ({"detail": "why"}, "why"),
    ({"detail": [{"msg": "why", "loc": ["body"]}, {"msg": "and"}, "so"]}, "why; and; so"),
    ({"object": "error", "message": "why", "code": "3280"}, "why"),
    ({"success": False, "errors": [{"code": 7000, "message": "why"}]}, "why"),
    ([{"error": {"message": "why", "status": "INVALID_ARGUMENT"}}], "why"),
    (b'data: {"error":{"message":"why"}}\n\ndata: [DONE]\n\n', "why"),
    (b'event: error\ndata: {"error":{"message":"why"}}', "why"),
    (b"  why\n", "why"),
    (b'"why"', "why"),
    (b'{"error":{"message":"why \\ud83d"}}', "why ?"),
    (b"<html><body>502 Bad Gateway</body></html>", ""),
    (b"{broken", ""),
    (b"[" * 100_000, ""),
    (b"[]", ""),
    (b"null", ""),
    (b"17", ""),
    (b"data: ", ""),
    ({"error": {"code": 5}}, ""),
    ({"error": []}, ""),
]


@pytest.mark.parametrize(("body", "text"), SHAPES, ids=range(len(SHAPES)))
def test_shapes(body: Any, text: str) -> None:
    opening = "The model backend answered 500"
    assert answer(500, body).message == (f"{opening}: {text}" if text else f"{opening}.")


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdef0123456789",
        "gsk_abcdef0123456789",
        "Bearer abc.def",
        "http://10.1.2.3:8000/v1/chat",
        "https://internal.example/v1",
        "10.1.2.3:8000",
        "localhost:8000",
        "api_key=abcdef",
        'api-key: "abcdef"',
        "AIzaSyA0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    ],
)
def test_keys_and_addresses_are_taken_out(secret: str) -> None:
    message = answer(400, {"error": {"message": f"bad {secret} there"}}).message
    assert secret not in message
    assert secret.rpartition(" ")[2].strip('"') not in message
    assert message.startswith("The model backend answered 400: bad ")
    assert message.endswith(" there")


def test_messages_are_one_short_line() -> None:
    message = answer(400, {"error": {"message": "a\n\tb " * 10_000}}).message
    assert "\n" not in message
    assert len(message) <= MAX_MESSAGE_CHARS + 40


@pytest.mark.parametrize(
    ("payload", "code", "retryable"),
    [
        ({"error": {"code": 429, "message": "m"}}, "rate_limit_exceeded", True),
        ({"error": {"code": "429", "message": "m"}}, "rate_limit_exceeded", True),
        ({"error": {"type": "throttling_error", "message": "m"}}, "rate_limit_exceeded", True),
        (
            {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "m"}},
            "rate_limit_exceeded",
            False,
        ),
        ({"error": {"type": "server_error", "message": "m", "code": 502}}, "server_error", True),
        ({"error": {"type": "overloaded_error", "message": "m"}}, "server_error", True),
        ({"error": {"type": "invalid_request_error", "message": "m"}}, "invalid_prompt", False),
        ({"error": {"code": "context_length_exceeded", "message": "m"}}, "invalid_prompt", False),
        ({"error": {"message": "maximum context length is 5"}}, "invalid_prompt", False),
        ({"error": {"type": "invalid_request_error", "code": "tool_use_failed", "message": "m"}}, "server_error", True),
        ({"error": {"type": "authentication_error", "message": "m"}}, "server_error", False),
        ({"error": {"message": "m"}}, "server_error", True),
        ({"error": "m"}, "server_error", True),
        ({"message": "m"}, "server_error", True),
        (b"m", "server_error", True),
    ],
)
def test_errors_in_a_stream(payload: Any, code: str, retryable: bool) -> None:
    error = stream_error(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    assert (error.code, error.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("2", 2.0),
        (" 2.5 ", 2.5),
        ("0", 0.0),
        ("600", 60.0),
        ("-5", None),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("1e3", None),
        ("٣", None),
        ("Wed, 18 Nov 2026 11:06:50 GMT", 10.0),
        ("Wed, 18 Nov 2026 11:06:50 -0000", 10.0),
        ("Wed, 18 Nov 2026 12:06:40 GMT", 60.0),
        ("Wed, 18 Nov 2020 11:06:40 GMT", 0.0),
        ("Wed, 99 Nov 2026 11:06:40 GMT", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


def test_a_prompt_that_azure_has_filtered() -> None:
    result = {"hate": {"filtered": True, "severity": "high"}, "jailbreak": {"filtered": False, "detected": False}}
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": result}
    for message in ("The response was filtered due to the prompt triggering our policy.", "", None):
        fault = {"message": message, "type": None, "param": "prompt", "code": "content_filter", "status": 400}
        error = answer(400, {"error": {**fault, "innererror": inner}})
        assert (error.code, error.retryable) == ("invalid_prompt", False)
        assert "filtered" in error.message
        assert "hate" in error.message
        assert "jailbreak" not in error.message


@pytest.mark.parametrize("inner", [3, {}, {"content_filter_result": 3}, {"content_filter_result": {"x": 3}}])
def test_odd_results_of_a_filter_harm_nothing(inner: Any) -> None:
    assert answer(400, {"error": {"message": "why", "innererror": inner}}).message.endswith(": why")


def test_the_error_type_of_tgi() -> None:
    error = stream_error(b'{"error":"Model is overloaded","error_type":"overloaded"}')
    assert (error.code, error.retryable) == ("server_error", True)
    error = stream_error(b'{"error":"Input validation error","error_type":"validation"}')
    assert (error.code, error.retryable) == ("invalid_prompt", False)


@pytest.mark.parametrize(
    ("status", "named", "code", "retryable"),
    [
        (500, "429", "rate_limit_exceeded", True),
        (502, 429, "rate_limit_exceeded", True),
        (500, 400, "invalid_prompt", False),
        (500, "401", "server_error", False),
        (500, "503", "server_error", True),
        (500, 1302, "server_error", True),  # a code of its own
        (503, 400, "server_error", True),
        (429, 500, "rate_limit_exceeded", True),
        (400, 500, "invalid_prompt", False),
    ],
)
def test_a_status_in_the_body_tells_more_than_a_vague_one(status: int, named: Any, code: str, retryable: bool) -> None:
    for body in (
        {"error": {"message": "why", "type": "throttled", "code": named}},
        f'data: {{"error":{{"message":"why","code":{json.dumps(named)}}}}}\n\ndata: [DONE]\n\n'.encode(),
    ):
        error = answer(status, body)
        assert (error.code, error.retryable) == (code, retryable)
        assert error.message.startswith(f"The model backend answered {status}")
