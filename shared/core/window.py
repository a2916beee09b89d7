"""What fits into a model's context window, by estimate: nobody here has the model's tokenizer.

Refused is only what surely does not fit; what may be dropped is dropped until it very likely fits.
"""

from collections.abc import Sequence

from shared.wire.items import (
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Item,
    Message,
    OutputText,
    Reasoning,
    Refusal,
    StoredItem,
)

SURE_BYTES_PER_TOKEN = 8.0
"""No tokenizer gets more text than that into its tokens on the average."""
LIKELY_BYTES_PER_TOKEN = 3.0
ITEM_BYTES = 12
IMAGE_BYTES = 3000
"""What an image likely takes, as text; surely only nothing."""


def surely_overflows(texts: int, context_tokens: int) -> bool:
    """Whether *texts* bytes of text cannot fit. Without a known limit (0) nothing is sure."""
    return context_tokens > 0 and texts / SURE_BYTES_PER_TOKEN > context_tokens


def text_bytes(items: Sequence[StoredItem]) -> int:
    return sum(_weigh(item, 0) for item in items)


def drop_oldest(items: Sequence[Item], context_tokens: int, reserved_bytes: int, reserved_tokens: int) -> list[Item]:
    """*items* without as many of the oldest as it takes to fit beside what is reserved.

    System and developer messages stay, and so does everything from the last user message on; an output goes with
    its call.
    """
    room = (context_tokens - reserved_tokens) * LIKELY_BYTES_PER_TOKEN - reserved_bytes
    sizes = [ITEM_BYTES + _weigh(item, IMAGE_BYTES) for item in items]
    over = sum(sizes) - room
    last = max((i for i, item in enumerate(items) if _is_from(item, "user")), default=len(items) - 1)
    kept: list[Item] = []
    gone: set[str] = set()
    for i, item in enumerate(items):
        orphan = isinstance(item, FunctionCallOutput | CustomToolCallOutput) and item.call_id in gone
        if orphan or (over > 0 and i < last and not _is_from(item, "system", "developer")):
            over -= sizes[i]
            if isinstance(item, FunctionCall | CustomToolCall):
                gone.add(item.call_id)
        else:
            kept.append(item)
    return kept


def _is_from(item: Item, *roles: str) -> bool:
    return isinstance(item, Message) and item.role in roles


def _weigh(item: StoredItem, image_bytes: int) -> int:
    match item:
        case FunctionCall():
            return len(item.name) + _size(item.arguments)
        case CustomToolCall():
            return len(item.name) + _size(item.input)
        case Reasoning():
            return 0  # most backends never see it again
        case Compaction():
            return len(item.encrypted_content) * 3 // 4  # base64 of little more than the summary
        case Message(content=parts) | FunctionCallOutput(output=parts) | CustomToolCallOutput(output=parts):
            if isinstance(parts, str):
                return _size(parts)
            total = 0
            for part in parts:
                if isinstance(part, InputText | OutputText):
                    total += _size(part.text)
                elif isinstance(part, Refusal):
                    total += _size(part.refusal)
                elif isinstance(part, InputImage):
                    total += image_bytes
            return total


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
