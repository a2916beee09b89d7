"""The events of the Messages API as structs: only what holds other things is typed, leaves are judged at use."""

import json
from typing import Any

import msgspec

from shared.wire.responses import InputTokensDetails, OutputTokensDetails, Usage
from worker.translate.chat_chunk import MAX_COUNT, whole_text
from worker.translate.errors import garbage_error, stream_error


class ContentBlock(msgspec.Struct):
    """What is read of one; there are more kinds, with more in them."""

    type: Any = None
    id: Any = None
    name: Any = None
    input: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    citations: Any = None


class Delta(msgspec.Struct):
    """Of a block, and of the message: then it may say why that stopped."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    citation: Any = None
    stop_reason: Any = None
    stop_details: Any = None


class Message(msgspec.Struct):
    """Also the whole answer, where it was not streamed."""

    type: Any = None
    content: Any = None
    usage: Any = None
    stop_reason: Any = None
    stop_details: Any = None


class AnthropicEvent(msgspec.Struct):
    type: Any = None
    index: Any = None
    message: Message | None = None
    content_block: dict[str, Any] | None = None
    delta: Delta | None = None
    usage: Any = None
    error: Any = None


_EVENT = msgspec.json.Decoder(AnthropicEvent)
_MESSAGE = msgspec.json.Decoder(Message)
_BLOCKS = list[dict[str, Any]]


def decode_event(data: bytes) -> AnthropicEvent:
    """Raises ``UpstreamError`` for garbage, and for errors in a form of their own."""
    try:
        return _EVENT.decode(data)
    except msgspec.ValidationError as error:
        raise (stream_error(data) if b'"error"' in data else garbage_error()) from error
    except (ValueError, RecursionError):
        pass  # msgspec refuses lone surrogates, NaN and bytes that are not UTF-8
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "replace")), AnthropicEvent)
    except (ValueError, RecursionError) as error:
        raise garbage_error() from error


def read_block(raw: dict[str, Any]) -> ContentBlock:
    return msgspec.convert(raw, ContentBlock)


def decode_message(body: bytes) -> tuple[Message, list[dict[str, Any]]]:
    """A whole answer and its blocks. Raises ``UpstreamError`` when it is none."""
    try:
        message = _MESSAGE.decode(body)
    except msgspec.ValidationError as error:
        raise garbage_error() from error
    except (ValueError, RecursionError):
        try:
            message = msgspec.convert(json.loads(body.decode("utf-8", "replace")), Message)
        except (ValueError, RecursionError) as error:
            raise garbage_error() from error
    if not isinstance(message.content, list):
        raise stream_error(body)
    try:
        return message, msgspec.convert(message.content, _BLOCKS)
    except msgspec.ValidationError as error:
        raise garbage_error() from error


class Tokens:
    """The usage of one answer: what is told of a call replaces what was told before, calls add up."""

    _NAMES = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")

    def __init__(self) -> None:
        self._over: list[dict[str, int]] = []
        self._call: dict[str, int] = {}

    def read(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        details = usage.get("output_tokens_details")
        details = details if isinstance(details, dict) else {}
        told = {name: usage.get(name) for name in self._NAMES}
        told["thinking"] = details.get("thinking_tokens", details.get("reasoning_tokens"))
        self._call |= {name: count for name, value in told.items() if (count := _count(value)) is not None}

    def next_call(self) -> None:
        self._over.append(self._call)
        self._call = {}

    def usage(self) -> Usage | None:
        """``None`` when nothing was told."""
        calls = [call for call in (*self._over, self._call) if call]
        if not calls:
            return None
        plain, read, written, made, thought = (
            sum(call.get(name, 0) for call in calls) for name in (*self._NAMES, "thinking")
        )
        asked = plain + read + written
        return Usage(
            asked, made, asked + made, InputTokensDetails(read, written), OutputTokensDetails(min(thought, made))
        )


def read_citation(citation: Any, start: int, end: int) -> msgspec.Raw | None:
    """A citation of a page as ours; *start* and *end* are the place of the text that it belongs to."""
    if not isinstance(citation, dict) or not isinstance(url := citation.get("url", citation.get("source")), str):
        return None
    title = citation.get("title")
    flat = {
        "type": "url_citation",
        "url": whole_text(url),
        "title": whole_text(title) if isinstance(title, str) else "",
        "start_index": start,
        "end_index": end,
    }
    return msgspec.Raw(msgspec.json.encode(flat))


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value)
