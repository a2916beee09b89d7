"""Input items: from the client's JSON to what is stored, and the pairing of calls and outputs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from api.decoding import MAX_TEXT_CHARS, check_length, decode
from shared.errors import InvalidRequest
from shared.ids import ItemKind, item_id
from shared.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    Item,
    Message,
    MessagePart,
    OutputText,
    Reasoning,
)

MAX_CALL_ID_CHARS = 64
NULLS_DEPTH = 6
"""An item, its parts, their log probabilities: no deeper is a null taken for absent."""
WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Peek(msgspec.Struct):
    type: str | None = None
    role: str | None = None


class _EasyMessage(Message, tag=False):
    """A message whose ``type`` is left out or null."""


_peek = msgspec.json.Decoder(_Peek).decode
_text = msgspec.json.Decoder(str).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_anything = msgspec.json.Decoder().decode
_easy = msgspec.json.Decoder(_EasyMessage).decode
_DECODERS: dict[str, Any] = {
    "message": msgspec.json.Decoder(Message).decode,
    "function_call": msgspec.json.Decoder(FunctionCall).decode,
    "function_call_output": msgspec.json.Decoder(FunctionCallOutput).decode,
    "reasoning": msgspec.json.Decoder(Reasoning).decode,
}
_KINDS: dict[type[Item], ItemKind] = {
    Message: "msg",
    FunctionCall: "fc",
    FunctionCallOutput: "fco",
    Reasoning: "rs",
}


def decode_items(raw: msgspec.Raw, max_items: int) -> list[Item]:
    """``input`` as items: a string is one user message; parts are lists; ids and statuses are still as given."""
    start = bytes(raw)[:1]
    if start == b'"':
        text = decode(_text, raw, "input")
        check_length(text, "input", MAX_TEXT_CHARS)
        return [Message("user", [InputText(text)])]
    if start != b"[":
        raise InvalidRequest("Invalid type for 'input': expected str or array.", param="input", code="invalid_type")
    members = decode(_list, raw, "input")
    if len(members) > max_items:
        message = (
            f"Invalid 'input': array too long. Expected at most {max_items} items, but got {len(members)} instead."
        )
        raise InvalidRequest(message, param="input", code="array_above_max_length")
    return [_decode_item(member, f"input[{i}]") for i, member in enumerate(members)]


def _decode_item(raw: msgspec.Raw, path: str) -> Item:
    peek = decode(_peek, raw, path)
    if peek.type is None and peek.role is not None:
        easy: Message = _decode_tolerantly(_easy, raw, path)
        return _checked_message(Message(easy.role, easy.content, easy.id, easy.status, easy.phase), path)
    if peek.type is None:
        message = f"Missing required parameter: '{path}.type'."
        raise InvalidRequest(message, param=f"{path}.type", code="missing_required_parameter")
    decoder = _DECODERS.get(peek.type)
    if decoder is None:
        message = f"Unsupported value: '{peek.type[:64]}' is not an input item that this server takes."
        raise InvalidRequest(message, param=f"{path}.type", code="unsupported_value")
    item: Item = _decode_tolerantly(decoder, raw, path)
    if isinstance(item, Message):
        return _checked_message(item, path)
    if isinstance(item, Reasoning):
        item.summary = item.summary or []
    elif not 1 <= len(item.call_id) <= MAX_CALL_ID_CHARS:
        message = f"Invalid '{path}.call_id': expected 1 to {MAX_CALL_ID_CHARS} characters."
        raise InvalidRequest(message, param=f"{path}.call_id", code="invalid_value")
    elif isinstance(item, FunctionCallOutput):
        _check_parts(item.output, f"{path}.output")
    return item


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
    _check_parts(item.content, f"{path}.content")
    return item


def _check_parts(parts: str | Sequence[MessagePart], path: str) -> None:
    if isinstance(parts, str):
        check_length(parts, path, MAX_TEXT_CHARS)
        return
    for i, part in enumerate(parts):
        match part:
            case InputText() | OutputText():
                check_length(part.text, f"{path}[{i}].text", MAX_TEXT_CHARS)
            case InputImage(file_id=str()):
                raise _not_stored(f"{path}[{i}].file_id")
            case InputImage(image_url=None):
                message = f"Missing required parameter: '{path}[{i}].image_url'."
                raise InvalidRequest(message, param=f"{path}[{i}].image_url", code="missing_required_parameter")
            case InputFile(file_id=str()):
                raise _not_stored(f"{path}[{i}].file_id")
            case InputFile(file_url=str()):
                raise _not_stored(f"{path}[{i}].file_url")
            case InputFile(file_data=None):
                message = f"Missing required parameter: '{path}[{i}].file_data'."
                raise InvalidRequest(message, param=f"{path}[{i}].file_data", code="missing_required_parameter")


def _not_stored(path: str) -> InvalidRequest:
    message = f"Unsupported value: '{path}' cannot be used; send the content itself (image_url or file_data)."
    return InvalidRequest(message, param=path, code="unsupported_value")


def complete(items: Iterable[Item], response_id: str) -> list[Item]:
    """Give every item of a response an id and a status; a client's own id is kept if it is well formed."""
    done = []
    for number, item in enumerate(items):
        if item.id is None or not WELL_FORMED.fullmatch(item.id):
            item.id = item_id(_KINDS[type(item)], response_id, number)
        if item.status is None:
            item.status = "completed"
        if isinstance(item, Message) and isinstance(item.content, list):
            for part in item.content:
                if isinstance(part, InputImage) and part.detail is None:
                    part.detail = "auto"
        done.append(item)
    return done


def check_pairing(items: Iterable[Item]) -> None:
    """Every output belongs to a call before it, and every call has an output: over the whole context.

    A call that was cut short may go without: nobody could run it.
    """
    calls: dict[str, bool] = {}
    for item in items:
        if isinstance(item, FunctionCall):
            calls[item.call_id] = item.status == "incomplete"
        elif isinstance(item, FunctionCallOutput):
            if item.call_id not in calls:
                message = f"No tool call found for function call output with call_id {item.call_id}."
                raise InvalidRequest(message, param="input")
            calls[item.call_id] = True
    for call_id, answered in calls.items():
        if not answered:
            raise InvalidRequest(f"No tool output found for function call {call_id}.", param="input")
