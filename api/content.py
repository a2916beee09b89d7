"""Content parts of input items: who may say what, lengths, addresses of images, data that claims to be base64, citations."""

import binascii
import re
from collections.abc import Sequence

import msgspec

from api.decoding import MAX_TEXT_CHARS, check_length, check_nesting, decode
from shared.errors import InvalidRequest
from shared.wire.items import InputAudio, InputFile, InputImage, InputText, MessagePart, OutputText, Refusal, Role

MAX_IMAGE_URL_CHARS = 20_971_520
MAX_FILE_DATA_CHARS = 73_400_320
MAX_FILENAME_CHARS = 1024
MAX_FILE_URL_CHARS = 8192

_DATA_URL = re.compile(r"data:([A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+)(?:;[A-Za-z0-9.+-]+=[^;,]*)*;base64,")
_MAX_HEAD_CHARS = 256


TEXTS = (InputText, OutputText)
OUTPUTS = (OutputText, Refusal)
"""What the assistant says, and nobody else does."""
INPUTS = "'input_text', 'input_image', 'input_file', and 'input_audio'"


class _UrlCitation(msgspec.Struct, tag_field="type", tag="url_citation"):
    url: str
    title: str
    start_index: int
    end_index: int


class _FileCitation(msgspec.Struct, tag_field="type", tag="file_citation"):
    file_id: str
    filename: str
    index: int


class _ContainerFileCitation(msgspec.Struct, tag_field="type", tag="container_file_citation"):
    container_id: str
    file_id: str
    filename: str
    start_index: int
    end_index: int


class _FilePath(msgspec.Struct, tag_field="type", tag="file_path"):
    file_id: str
    index: int


_annotation = msgspec.json.Decoder(_UrlCitation | _FileCitation | _ContainerFileCitation | _FilePath).decode


def check_parts(parts: str | Sequence[MessagePart], path: str, role: Role | None = None) -> None:
    """The output at *path*, or the content of a message of that *role*."""
    if isinstance(parts, str):
        check_length(parts, path, MAX_TEXT_CHARS)
        return
    for i, part in enumerate(parts):
        if role is not None and isinstance(part, OUTPUTS) is not (role == "assistant"):
            raise _unfitting(part, role, f"{path}[{i}]")
        quotes = isinstance(part, OutputText) and part.annotations
        if quotes or not isinstance(part, TEXTS) or len(part.text) > MAX_TEXT_CHARS:  # else nobody needs its path
            _check_part(part, f"{path}[{i}]")


def _unfitting(part: MessagePart, role: Role, path: str) -> InvalidRequest:
    fitting = "'output_text' and 'refusal'" if role == "assistant" else INPUTS
    message = f"Invalid value: '{part.__struct_config__.tag}'. Supported values are: {fitting}."
    return InvalidRequest(message, param=path, code="invalid_value")


def _check_part(part: MessagePart, path: str) -> None:
    match part:
        case InputText():
            check_length(part.text, f"{path}.text", MAX_TEXT_CHARS)
        case OutputText():
            check_length(part.text, f"{path}.text", MAX_TEXT_CHARS)
            for k, annotation in enumerate(part.annotations):
                check_nesting(annotation, f"{path}.annotations[{k}]")
                decode(_annotation, annotation, f"{path}.annotations[{k}]")
        case Refusal():
            check_length(part.refusal, f"{path}.refusal", MAX_TEXT_CHARS)
        case InputAudio():
            _check_audio(part.input_audio.data, f"{path}.input_audio.data")
        case InputImage():
            if part.file_id is not None:
                raise _not_stored(f"{path}.file_id")
            if part.image_url is None:
                raise _missing(f"{path}.image_url")
            _check_image_url(part.image_url, f"{path}.image_url")
        case InputFile():
            _check_file(part, path)


def _check_file(part: InputFile, path: str) -> None:
    """Its data, or an address that the backend may fetch: which ones do is known from their profiles."""
    if part.file_id is not None:
        raise _not_stored(f"{path}.file_id")
    check_length(part.filename, f"{path}.filename", MAX_FILENAME_CHARS)
    if part.file_url is not None:
        if part.file_data is not None:
            message = f"Mutually exclusive parameters: '{path}.file_data' and '{path}.file_url'."
            raise InvalidRequest(message, param=f"{path}.file_url", code="mutually_exclusive_parameters")
        check_length(part.file_url, f"{path}.file_url", MAX_FILE_URL_CHARS)
        _check_address(part.file_url, f"{path}.file_url")
        return
    if not part.file_data:
        raise _missing(f"{path}.file_data")
    check_length(part.file_data, f"{path}.file_data", MAX_FILE_DATA_CHARS)
    if part.file_data.startswith("data:"):
        _check_data_url(part.file_data, f"{path}.file_data", "")


def _check_image_url(url: str, path: str) -> None:
    check_length(url, path, MAX_IMAGE_URL_CHARS)
    if url.startswith("data:"):
        _check_data_url(url, path, "image/")
    else:
        _check_address(url, path)


def _check_address(url: str, path: str) -> None:
    """Only its form; nothing is fetched here."""
    if not re.match(r"https?://[^\s/]", url):
        message = f"Invalid '{path}'. Expected a valid URL, but got a value with an invalid format."
        raise InvalidRequest(message, param=path, code="invalid_value")


def _check_data_url(url: str, path: str, kind: str) -> None:
    """*url* is ``data:<type>;base64,<data>``, its type one of *kind*, its data not empty and in base64."""
    head = _DATA_URL.match(url, 0, _MAX_HEAD_CHARS)
    if head is None or not head.group(1).startswith(kind) or len(url) == head.end():
        form = f"data:{kind or 'application/pdf'}{'png' if kind else ''};base64,..."
        message = f"Invalid '{path}'. Expected a base64-encoded data URL (such as '{form}')."
        raise InvalidRequest(message, param=path, code="invalid_value")
    if not _is_base64(url[head.end() :]):
        message = f"Invalid '{path}'. Expected base64-encoded data behind the comma, but got an invalid value."
        raise InvalidRequest(message, param=path, code="invalid_value")


def _check_audio(data: str, path: str) -> None:
    check_length(data, path, MAX_FILE_DATA_CHARS)
    if not data or not _is_base64(data):
        message = f"Invalid '{path}'. Expected base64-encoded data, but got an invalid value."
        raise InvalidRequest(message, param=path, code="invalid_value")


def _is_base64(data: str) -> bool:
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        return False
    return True


def _missing(path: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")


def _not_stored(path: str) -> InvalidRequest:
    message = f"Unsupported value: '{path}' cannot be used; send the content itself (image_url or file_data)."
    return InvalidRequest(message, param=path, code="unsupported_value")
