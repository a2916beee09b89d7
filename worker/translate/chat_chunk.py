"""The chunks of Chat Completions as structs, as tolerant as the servers are inventive.

Only what holds other things is typed; leaves are ``Any`` where servers were seen to disagree, and judged at use.
"""

import json
from typing import Any

import msgspec

from shared.wire.items import Logprob, TopLogprob
from shared.wire.responses import InputTokensDetails, OutputTokensDetails, Usage
from worker.translate.errors import garbage_error, stream_error

MAX_COUNT = 2**53
"""Tokens; what is beyond is no count, and no number that every client can read."""
NO_LOGPROB = -9999.0
"""What the API says for a probability of zero, which JSON cannot."""


class FunctionDelta(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class ToolDelta(msgspec.Struct, gc=False):
    """``name`` and ``arguments`` stand here where a server leaves ``function`` out."""

    index: Any = None
    id: Any = None
    function: FunctionDelta | None = None
    extra_content: Any = None
    name: Any = None
    arguments: Any = None


class Delta(msgspec.Struct, gc=False):
    """Also the ``message`` of a completion that is not streamed."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    tool_calls: list[ToolDelta | None] | None = None
    function_call: FunctionDelta | None = None
    annotations: Any = None
    encrypted_content: Any = None
    extra_content: Any = None


class Choice(msgspec.Struct, gc=False):
    index: Any = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: Any = None
    logprobs: Any = None
    usage: Any = None
    error: Any = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice | None] | None = None
    usage: Any = None
    x_groq: Any = None
    citations: Any = None
    search_results: Any = None
    error: Any = None
    object: Any = None
    type: Any = None
    message: Any = None
    detail: Any = None

    @property
    def is_error(self) -> bool:
        if self.error:
            return True
        said = self.message or self.detail or "error" in (self.object, self.type)
        return self.choices is None and self.usage is None and bool(said)


_DECODER = msgspec.json.Decoder(Chunk)


def decode_chunk(data: bytes) -> tuple[Chunk, bool]:
    """(the chunk, whether its texts may hold halves of surrogate pairs). Raises ``UpstreamError`` for garbage."""
    try:
        return _DECODER.decode(data), False
    except msgspec.ValidationError as error:
        if b'"error"' in data:
            raise stream_error(data) from error
        return _decode_oddly(data), True
    except (ValueError, RecursionError):
        pass  # msgspec refuses lone surrogates, NaN and bytes that are not UTF-8
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "replace")), Chunk), True
    except (ValueError, RecursionError) as error:
        raise garbage_error() from error


def _decode_oddly(data: bytes) -> Chunk:
    """Empty lists (and texts) where objects should be: some languages write an empty object that way."""
    try:
        value = json.loads(data.decode("utf-8", "replace"))
        for choice in value["choices"]:
            for name in ("delta", "message"):
                if isinstance(choice, dict) and not choice.get(name):
                    choice[name] = None
                elif isinstance(choice, dict) and isinstance(choice[name], dict):
                    _mend_delta(choice[name])
        return msgspec.convert(value, Chunk)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise garbage_error() from error


def _mend_delta(delta: dict[str, Any]) -> None:
    calls = delta.get("tool_calls")
    delta["tool_calls"] = [calls] if calls and isinstance(calls, dict) else calls or None
    delta["function_call"] = delta.get("function_call") or None
    for call in _dicts(delta["tool_calls"]):
        call["function"] = call.get("function") or None


def only_text(chunk: Chunk) -> str:
    """The text of a chunk that says nothing else; empty for any other. Compared as a whole, which is quicker than to look
    at twenty fields."""
    choice = chunk.choices[0] if chunk.choices else None
    if choice is None or choice.delta is None or choice.index not in (None, 0):
        return ""
    text = choice.delta.content
    alone = Chunk([Choice(choice.index, Delta(text))], object=chunk.object)
    return text if type(text) is str and chunk == alone else ""


def split_content(content: Any) -> list[tuple[str, str]]:
    """(kind, text) of a content that is a list of parts; the kinds are text, reasoning and refusal."""
    found = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            found.append(("text", part))
        elif isinstance(part, dict):
            if part.get("type") in ("thinking", "reasoning"):
                found.append(("reasoning", join_texts(part.get("thinking") or part.get("text") or part.get("content"))))
            elif part.get("type") == "refusal":
                found.append(("refusal", join_texts(part.get("refusal"))))
            else:
                found.append(("text", join_texts(part.get("text"))))
    return found


def join_texts(value: Any, depth: int = 4) -> str:
    """All texts in a text, an object with ``text``, ``summary`` or ``content``, or a list of such."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and depth:
        return join_texts(value.get("text") or value.get("summary") or value.get("content"), depth - 1)
    return "".join(join_texts(one, depth - 1) for one in value) if isinstance(value, list) and depth else ""


def read_usage(value: Any) -> Usage | None:
    """Our usage from theirs; ``None`` when it names no tokens at all."""
    if not isinstance(value, dict):
        return None
    asked, made = (
        _count_of(value, "prompt_tokens", "input_tokens"),
        _count_of(value, "completion_tokens", "output_tokens"),
    )
    both = count(value.get("total_tokens"))
    if asked is None and made is None and both is None:
        return None
    into, out = _object(value.get("prompt_tokens_details")), _object(value.get("completion_tokens_details"))
    cached = _count_of(into, "cached_tokens")
    if cached is None:
        cached = _count_of(value, "prompt_cache_hit_tokens", "cached_tokens")
    written, thought = _count_of(into, "cache_write_tokens"), _count_of(out, "reasoning_tokens")
    if written is None:
        written = _count_of(value, "cache_write_tokens")
    if thought is None:
        thought = _count_of(value, "reasoning_tokens")
    return Usage(
        asked or 0,
        made or 0,
        both or (asked or 0) + (made or 0),
        InputTokensDetails(cached or 0, written or 0),
        OutputTokensDetails(thought or 0),
    )


def read_logprobs(value: Any) -> list[Logprob]:
    entries = _object(value).get("content")
    return [
        Logprob(one.token, one.logprob, one.bytes, [_logprob(top) for top in _dicts(entry.get("top_logprobs"))])
        for entry in _dicts(entries)
        for one in [_logprob(entry)]
    ]


def whole_text(text: str) -> str:
    """*text* with a mark instead of every half of a surrogate pair; what we send must be UTF-8."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _logprob(entry: dict[str, Any]) -> TopLogprob:
    token, number, raw = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    token = whole_text(token) if isinstance(token, str) else ""
    if not isinstance(raw, list) or not all(isinstance(one, int) and 0 <= one < 256 for one in raw):
        raw = list(token.encode())
    if not isinstance(number, int | float) or not NO_LOGPROB < number < -NO_LOGPROB:
        number = NO_LOGPROB
    return TopLogprob(token, float(number), raw)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def count(value: Any) -> int | None:
    """A number of tokens, also as 9.0 or "9"; ``None`` for anything else."""
    if type(value) is int:  # nearly always; a bool is of another type
        return value if 0 <= value <= MAX_COUNT else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value)


def _count_of(value: dict[str, Any], *names: str) -> int | None:
    """What the first of *names* says that has a count."""
    for name in names:
        if name in value and (found := count(value[name])) is not None:
            return found
    return None
