"""What a backend says when it fails, in any shape, as our `UpstreamError`.

Keys and addresses never get into a message; what a backend says about its credentials or paths is the operator's
business and not repeated at all.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from shared.core.sse import SSEDecoder
from shared.errors import UpstreamError

MAX_MESSAGE_CHARS = 400
MAX_RETRY_AFTER_S = 60.0
RETRYABLE = frozenset({408, 409, 425, 429, *range(500, 600)}) - {501, 505}
SILENT = frozenset({401, 402, 403, 404, 407})
"""The operator's fault: the text may hold a key, an account or an address."""

OPERATORS = {
    401: " (it does not take this server's key)",
    403: " (it does not take this server's key)",
    404: " (it does not know the model, or its base_url is not right)",
}
"""What to look at instead; `respool check --model` tells more."""

VAGUE = frozenset({500, 502})
"""What a gateway says of whatever failed behind it: a status that the body names tells more."""

_RATE = frozenset(
    {"rate_limit_error", "rate_limit_exceeded", "rate_limit_reached_error", "throttling_error", "too_many_requests"}
    | {"resource_exhausted", "insufficient_quota"}
)
_OVERFLOW = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_INVALID = frozenset(
    {"invalid_request_error", "invalid_prompt", "bad_request", "badrequesterror", "content_filter", "validation"}
    | _OVERFLOW
)
_OPERATOR = frozenset({"authentication_error", "invalid_api_key", "permission_error", "not_found_error"})
_INVALID_TEXT = re.compile(
    r"context (length|size|window)|maximum context|prompt is too long|image input is not supported", re.IGNORECASE
)
_SECRETS = [
    (re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|key|api|AIza)[-_][\w.*-]{6,}|\bAIza[\w-]{10,}|\beyJ[\w.-]{20,}"), "[key]"),
    (re.compile(r"\b(bearer|basic)\s+[^\s\"',]+", re.IGNORECASE), r"\1 [key]"),
    (re.compile(r"\b(api[-_ ]?key|token|secret|password)(\"?\s*[:=]\s*\"?)[^\s\"',]+", re.IGNORECASE), r"\1\2[key]"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE), "[address]"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\blocalhost:\d+"), "[address]"),
]


@dataclass(slots=True)
class _Fault:
    message: str = ""
    status: int | None = None
    words: set[str] = field(default_factory=set)
    """Types and codes, in lower case."""


def upstream_error(status: int, body: bytes, retry_after: str | None, now: float) -> UpstreamError:
    """From an HTTP answer that is not a stream. *now* is Unix seconds, for a Retry-After that is a date."""
    fault = _read_fault(_parse(body))
    judged = fault.status or status if status in VAGUE else status
    error = _judge(judged, fault, f"The model backend answered {status}")
    error.retry_after_s = parse_retry_after(retry_after, now)
    return error


def stream_error(payload: bytes) -> UpstreamError:
    """From what came where a chunk or a completion was due."""
    fault = _read_fault(_parse(payload))
    status = fault.status
    if "tool_use_failed" in fault.words:  # the model's failure, whatever status goes with it
        status = 500
    elif status is None:
        table = {429: _RATE, 400: _INVALID, 401: _OPERATOR}
        status = next((status for status, words in table.items() if words & fault.words), 500)
    return _judge(status, fault, "The model backend reported an error")


def garbage_error() -> UpstreamError:
    return UpstreamError("The model backend sent something that cannot be read.", retryable=True)


def unfinished_error() -> UpstreamError:
    """A stream that just stopped. Where nothing of it was said, another try may help."""
    return UpstreamError("The model backend's stream ended without saying why.", retryable=True, max_tries=2)


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait, at most ``MAX_RETRY_AFTER_S``; ``None`` for junk."""
    text = (text or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        due = parsedate_to_datetime(text)
        due = due if due.tzinfo else due.replace(tzinfo=UTC)
        return min(max(due.timestamp() - now, 0.0), MAX_RETRY_AFTER_S)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _judge(status: int, fault: _Fault, opening: str) -> UpstreamError:
    text = "" if status in SILENT else _clean(fault.message)
    message = f"{opening}: {text}" if text else f"{opening}{OPERATORS.get(status, '')}."
    invalid = bool(_OVERFLOW & fault.words) or _INVALID_TEXT.search(fault.message) is not None
    if status == 429 or (status in RETRYABLE and _RATE & fault.words):
        return UpstreamError(
            message, code="rate_limit_exceeded", retryable="insufficient_quota" not in fault.words, elsewhere=True
        )
    if status in SILENT:
        return UpstreamError(message, elsewhere=True)
    if invalid or (400 <= status < 500 and status not in RETRYABLE):
        return UpstreamError(message, code="invalid_prompt")
    return UpstreamError(message, retryable=status in RETRYABLE)


def _parse(body: bytes) -> Any:
    """JSON as objects, text as text, a stream as what its first event holds; nothing for pages meant for people."""
    body = body.strip()
    if body.startswith((b"data:", b"event:", b":")):
        try:
            events = SSEDecoder().feed(body + b"\n\n")
        except ValueError:
            events = []
        body = events[0].data if events else b""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        pass
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)  # takes lone surrogates and NaN
    except (ValueError, RecursionError):
        return "" if text.startswith(("<", "{", "[")) else text


def _read_fault(value: Any) -> _Fault:
    """``{error: {message, type, code}}``, ``{error: text}``, ``{detail: ...}``, ``{message}``, a list of one, a text."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str):
        return _Fault(value)
    if not isinstance(value, dict):
        return _Fault()
    inner = value.get("error") or value
    if not isinstance(inner, dict):
        inner = {**value, "message": inner}
    fault = _Fault(_filtered(inner) or _message(inner) or _message(value))
    for source in (inner, value):
        for key in ("code", "status", "type", "status_code", "error_type"):
            word = source.get(key)
            if isinstance(word, str):
                fault.words.add(word.lower())
            if isinstance(word, int | str) and fault.status is None and re.fullmatch(r"[45]\d\d", str(word)):
                fault.status = int(word)
    return fault


def _filtered(value: dict[str, Any]) -> str:
    """What Azure's filter found in a prompt: its own message does not tell."""
    inner = value.get("innererror")
    result = inner.get("content_filter_result") if isinstance(inner, dict) else None
    if not isinstance(result, dict):
        return ""
    found = [name for name, verdict in result.items() if isinstance(verdict, dict) and verdict.get("filtered") is True]
    return f"The prompt was filtered ({', '.join(found[:16])})." if found else ""


def _message(value: dict[str, Any], depth: int = 4) -> str:
    for key in ("message", "detail", "error", "msg", "errors"):
        text = value.get(key)
        if isinstance(text, str) and text:
            return text
        if isinstance(text, list):
            lines = [_message(one, 1) if isinstance(one, dict) else one for one in text[:16]]
            return "; ".join(line for line in lines if isinstance(line, str) and line)
        if isinstance(text, dict) and depth and (inner := _message(text, depth - 1)):
            return inner
    return ""


def _clean(text: str) -> str:
    """One line of at most ``MAX_MESSAGE_CHARS`` without keys, addresses and half characters."""
    text = text[: 4 * MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[: MAX_MESSAGE_CHARS - 1]}…"
