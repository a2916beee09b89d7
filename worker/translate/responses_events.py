"""The events and items of another server of the Responses API as structs, as tolerant as such servers differ."""

import json
from typing import Any, TypeVar

import msgspec

from shared.wire.responses import InputTokensDetails, OutputTokensDetails, Usage
from worker.translate.chat_chunk import MAX_COUNT, join_texts, read_logprobs, whole_text
from worker.translate.chat_chunk import read_usage as read_chat_usage
from worker.translate.errors import garbage_error

T = TypeVar("T")

__all__ = ["ResponsesEvent", "Theirs", "Whole", "read_annotation", "read_logprobs", "read_usage"]


class Theirs(msgspec.Struct):
    """An item; or a part of one, which has ``text`` or ``refusal``."""

    type: Any = None
    id: Any = None
    status: Any = None
    role: Any = None
    phase: Any = None
    content: Any = None
    summary: Any = None
    encrypted_content: Any = None
    name: Any = None
    call_id: Any = None
    arguments: Any = None
    input: Any = None
    text: Any = None
    refusal: Any = None
    annotations: Any = None
    logprobs: Any = None


class Whole(msgspec.Struct):
    """A response, as far as it is read."""

    object: Any = None
    status: Any = None
    output: Any = None
    usage: Any = None
    error: Any = None
    incomplete_details: Any = None


class ResponsesEvent(msgspec.Struct):
    type: Any = None
    item_id: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None
    name: Any = None
    logprobs: Any = None
    annotation: Any = None
    item: Theirs | None = None
    part: Theirs | None = None
    response: Whole | None = None
    error: Any = None
    usage: Any = None


def decode(data: bytes, kind: type[T]) -> T:
    """Raises ``UpstreamError`` for what is no JSON object, or of no form that is known."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise garbage_error() from error
    except (ValueError, RecursionError):
        pass  # msgspec refuses lone surrogates, NaN and bytes that are not UTF-8
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "replace")), kind)
    except (ValueError, RecursionError) as error:
        raise garbage_error() from error


def read_items(output: Any) -> list[Theirs]:
    """The items of a response's ``output``; what is no item is left out."""
    found = []
    for one in output if isinstance(output, list) else []:
        try:
            found.append(msgspec.convert(one, Theirs))
        except msgspec.ValidationError:
            continue
    return found


def read_usage(value: Any) -> Usage | None:
    """``None`` when it names no tokens at all."""
    if not isinstance(value, dict):
        return None
    asked, made, both = (count(value.get(name)) for name in ("input_tokens", "output_tokens", "total_tokens"))
    if asked is None and made is None:
        return read_chat_usage(value)  # some keep the names of Chat Completions
    into, out = value.get("input_tokens_details"), value.get("output_tokens_details")
    into, out = into if isinstance(into, dict) else {}, out if isinstance(out, dict) else {}
    return Usage(
        asked or 0,
        made or 0,
        both or (asked or 0) + (made or 0),
        InputTokensDetails(count(into.get("cached_tokens")) or 0, count(into.get("cache_write_tokens")) or 0),
        OutputTokensDetails(count(out.get("reasoning_tokens")) or 0),
    )


def read_annotation(value: Any) -> msgspec.Raw | None:
    """A citation of a page; files and containers of theirs are none that our clients could open."""
    if not isinstance(value, dict) or value.get("type") != "url_citation" or not isinstance(value.get("url"), str):
        return None
    flat = {
        "type": "url_citation",
        "url": whole_text(value["url"]),
        "title": whole_text(join_texts(value.get("title"))),
        "start_index": count(value.get("start_index")) or 0,
        "end_index": count(value.get("end_index")) or 0,
    }
    return msgspec.Raw(msgspec.json.encode(flat))


def count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value)
