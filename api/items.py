"""Input items: from the client's JSON to what is stored, and the pairing of calls and outputs."""

import re
from collections.abc import Iterable, Sequence, Set
from typing import Any

import msgspec

from api.content import check_parts
from api.decoding import MAX_TEXT_CHARS, check_length, decode, missing_parameter
from shared.core.compaction import Open, read_summary
from shared.errors import InvalidRequest
from shared.ids import ItemKind, item_id
from shared.wire.items import (
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    ItemReference,
    Logprob,
    Message,
    MessagePart,
    OutputText,
    Reasoning,
    StoredItem,
    TopLogprob,
)

MAX_CALL_ID_CHARS = 64
MAX_NAME_CHARS = 128
MAX_SEALED_CHARS = 20_971_520
NULLS_DEPTH = 6
"""An item, its parts, their log probabilities: no deeper is a null taken for absent."""
WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Peek(msgspec.Struct):
    type: str | None = None
    role: str | None = None
    id: Any = None


class _EasyMessage(Message, tag=False):
    """A message whose ``type`` is left out or null."""


_peek = msgspec.json.Decoder(_Peek).decode
_text = msgspec.json.Decoder(str).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_anything = msgspec.json.Decoder().decode
_reference = msgspec.json.Decoder(ItemReference).decode
_easy = msgspec.json.Decoder(_EasyMessage).decode
_DECODERS: dict[str, Any] = {
    "message": msgspec.json.Decoder(Message).decode,
    "function_call": msgspec.json.Decoder(FunctionCall).decode,
    "function_call_output": msgspec.json.Decoder(FunctionCallOutput).decode,
    "custom_tool_call": msgspec.json.Decoder(CustomToolCall).decode,
    "custom_tool_call_output": msgspec.json.Decoder(CustomToolCallOutput).decode,
    "reasoning": msgspec.json.Decoder(Reasoning).decode,
    "compaction": msgspec.json.Decoder(Compaction).decode,
}
_KINDS: dict[type[StoredItem], ItemKind] = {
    Message: "msg",
    FunctionCall: "fc",
    FunctionCallOutput: "fco",
    CustomToolCall: "ctc",
    CustomToolCallOutput: "ctco",
    Reasoning: "rs",
    Compaction: "cmp",
}


def decode_input(raw: msgspec.Raw, max_items: int, open_sealed: Open) -> tuple[list[StoredItem], dict[int, str]]:
    """``input`` as (its items, the ids of referenced ones by their place among all).

    A string is one user message; parts are lists; ids and statuses are still as given.
    """
    start = bytes(raw)[:1]
    if start == b'"':
        text = decode(_text, raw, "input")
        check_length(text, "input", MAX_TEXT_CHARS)
        return [Message("user", [InputText(text)])], {}
    if start != b"[":
        raise InvalidRequest("Invalid type for 'input': expected str or array.", param="input", code="invalid_type")
    items: list[StoredItem] = []
    references: dict[int, str] = {}
    for i, member in enumerate(_members(raw, "input", max_items)):
        peek = decode(_peek, member, f"input[{i}]")
        if peek.type == "item_reference" or (peek.type is None and peek.role is None and peek.id is not None):
            references[i] = decode(_reference, member, f"input[{i}]").id
        else:
            items.append(_decode_item(member, peek, f"input[{i}]", open_sealed))
    return items, references


def decode_items(
    raw: msgspec.Raw, path: str, max_items: int, open_sealed: Open, *, min_items: int = 0
) -> list[StoredItem]:
    """The array of items at *path*, where there are no references."""
    members = _members(raw, path, max_items, min_items)
    return [
        _decode_item(member, decode(_peek, member, f"{path}[{i}]"), f"{path}[{i}]", open_sealed)
        for i, member in enumerate(members)
    ]


def _members(raw: msgspec.Raw, path: str, max_items: int, min_items: int = 0) -> list[msgspec.Raw]:
    if bytes(raw)[:1] != b"[":
        raise InvalidRequest(f"Invalid type for '{path}': expected array.", param=path, code="invalid_type")
    members: list[msgspec.Raw] = decode(_list, raw, path)
    if not min_items <= len(members) <= max_items:
        size, word, limit = ("long", "most", max_items) if len(members) > max_items else ("short", "least", min_items)
        side = "above_max" if size == "long" else "below_min"
        message = (
            f"Invalid '{path}': array too {size}. Expected at {word} {limit} items, but got {len(members)} instead."
        )
        raise InvalidRequest(message, param=path, code=f"array_{side}_length")
    return members


def _decode_item(raw: msgspec.Raw, peek: _Peek, path: str, open_sealed: Open) -> StoredItem:
    if peek.type is None and peek.role is not None:
        easy: Message = _decode_tolerantly(_easy, raw, path)
        return _checked_message(Message(easy.role, easy.content, easy.id, easy.status, easy.phase), path)
    if peek.type is None:
        raise missing_parameter(f"{path}.{'role' if 'content' in decode(_keys, raw, path) else 'type'}")
    decoder = _DECODERS.get(peek.type)
    if decoder is None:
        message = f"Unsupported value: '{peek.type[:64]}' is not an input item that this server takes."
        raise InvalidRequest(message, param=f"{path}.type", code="unsupported_value")
    item: StoredItem = _decode_tolerantly(decoder, raw, path)
    if isinstance(item, Message):
        return _checked_message(item, path)
    if isinstance(item, Reasoning):
        item.summary = item.summary or []
        check_length(item.encrypted_content, f"{path}.encrypted_content", MAX_SEALED_CHARS)
        return item
    if isinstance(item, Compaction):
        check_length(item.encrypted_content, f"{path}.encrypted_content", MAX_SEALED_CHARS)
        if read_summary(item.encrypted_content, open_sealed) is None:
            raise _not_opened(f"{path}.encrypted_content")
        return item
    if not 1 <= len(item.call_id) <= MAX_CALL_ID_CHARS:
        message = f"Invalid '{path}.call_id': expected 1 to {MAX_CALL_ID_CHARS} characters."
        raise InvalidRequest(message, param=f"{path}.call_id", code="invalid_value")
    if isinstance(item, FunctionCallOutput | CustomToolCallOutput):
        check_parts(item.output, f"{path}.output")
        return item
    check_length(item.name, f"{path}.name", MAX_NAME_CHARS)
    check_length(item.namespace, f"{path}.namespace", MAX_NAME_CHARS)
    text, name = (item.arguments, "arguments") if isinstance(item, FunctionCall) else (item.input, "input")
    check_length(text, f"{path}.{name}", MAX_TEXT_CHARS)
    return item


def _not_opened(path: str) -> InvalidRequest:
    message = (
        f"The encrypted content of '{path}' could not be verified: it was not sealed by this server for you, or its "
        "RESPOOL_SEAL_KEY has changed since. Remove the item, or send what it stands for."
    )
    return InvalidRequest(message, param=path, code="invalid_encrypted_content")


def _decode_tolerantly(decoder: Any, raw: msgspec.Raw, path: str) -> Any:
    """Clients dump whole objects, with null for what was never set: where null does not fit, it is as good as absent."""
    try:
        return decode(decoder, raw, path)
    except InvalidRequest as error:
        if b"null" not in bytes(raw):
            raise
        try:
            return decode(decoder, msgspec.json.encode(_without_nulls(decode(_anything, raw, path), NULLS_DEPTH)), path)
        except InvalidRequest:
            raise error from None


def _without_nulls(value: Any, depth: int) -> Any:
    if depth and isinstance(value, dict):
        return {key: _without_nulls(member, depth - 1) for key, member in value.items() if member is not None}
    if depth and isinstance(value, list):
        return [_without_nulls(member, depth - 1) for member in value]
    return value


def _checked_message(item: Message, path: str) -> Message:
    if isinstance(item.content, str):
        check_length(item.content, f"{path}.content", MAX_TEXT_CHARS)
        item.content = [OutputText(item.content) if item.role == "assistant" else InputText(item.content)]
    else:
        check_parts(item.content, f"{path}.content", item.role)
    if item.role != "assistant":
        item.phase = None  # says nothing there, and is no part of such a message
    return item


def complete(
    items: Iterable[StoredItem], owner_id: str, *, first: int = 0, taken: Set[str] = frozenset()
) -> list[StoredItem]:
    """Give every item of a response or conversation an id, and a status where it can have one.

    Ids are numbered from *first*. A client's own id is kept if it is well formed and neither *taken* nor given twice.
    """
    done = []
    seen = set(taken)
    for number, item in enumerate(items, first):
        if item.id is None or item.id in seen or not WELL_FORMED.fullmatch(item.id):
            item.id = item_id(_KINDS[type(item)], owner_id, number)
        seen.add(item.id)
        if not isinstance(item, Compaction) and item.status is None:
            item.status = "completed"
        if isinstance(item, Message):
            _complete_parts(item.content)
        elif isinstance(item, FunctionCallOutput | CustomToolCallOutput):
            _complete_parts(item.output)
        done.append(item)
    return done


def _complete_parts(parts: str | Sequence[MessagePart]) -> None:
    for part in () if isinstance(parts, str) else parts:
        if isinstance(part, InputImage):
            part.detail = part.detail or "auto"
        elif isinstance(part, OutputText) and part.logprobs:
            for logprob in part.logprobs:
                tokens: list[Logprob | TopLogprob] = [logprob, *logprob.top_logprobs]
                for token in tokens:
                    token.bytes = list(token.token.encode()) if token.bytes is None else token.bytes
