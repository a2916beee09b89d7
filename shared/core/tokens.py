"""How many tokens a context likely is, for models whose tokenizer nobody here has: bytes over a ratio.

The ratio of a model is learned from what its backend said it took (``Response.usage``); until then it is 4.
"""

import math
from collections.abc import Sequence

import msgspec

from shared.core.window import ITEM_BYTES, text_bytes
from shared.wire.items import (
    CustomToolCallOutput,
    FunctionCallOutput,
    InputFile,
    InputImage,
    JsonSchemaFormat,
    Message,
    StoredItem,
)
from shared.wire.requests import Request

BYTES_PER_TOKEN = 4.0
LEAST, MOST = 0.5, 16.0
"""No tokenizer's ratio lies outside; what was learned from odd usage is cut to this."""
IMAGE_TOKENS = 800

_encode = msgspec.json.Encoder().encode


def learned_as(request: Request) -> str:
    """The name under which the ratio of a request's model is kept: channels have their own backends."""
    return f"{request.channel}:{request.model}" if request.channel else request.model


def weigh(request: Request, items: Sequence[StoredItem]) -> int:
    """The bytes that the model reads as text. *items* is the whole context, without the instructions."""
    size = text_bytes(items) + ITEM_BYTES * len(items) + _size(request.instructions or "")
    if request.tools:
        size += len(_encode(request.tools))
    if isinstance(request.format, JsonSchemaFormat):
        size += len(_encode(request.format.schema))
    return size


def media(items: Sequence[StoredItem]) -> int:
    """How many images and files there are: their tokens have nothing to do with their bytes."""
    return sum(isinstance(part, InputImage | InputFile) for item in items for part in _parts(item))


def estimate(size_bytes: int, images: int, ratio: float | None) -> int:
    return math.ceil(size_bytes / min(max(ratio or BYTES_PER_TOKEN, LEAST), MOST)) + IMAGE_TOKENS * images


def _parts(item: StoredItem) -> Sequence[object]:
    if isinstance(item, Message):
        return item.content if isinstance(item.content, list) else ()
    if isinstance(item, FunctionCallOutput | CustomToolCallOutput):
        return item.output if isinstance(item.output, list) else ()
    return ()


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
