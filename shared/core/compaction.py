"""Compaction: a context as one summary, which clients carry sealed and models read as a message.

A `compaction` item holds JSON of `_Sealed`, sealed for one tenant. `reveal` is the one place where models get to see it.
"""

from collections.abc import Callable, Sequence

import msgspec

from shared.wire.items import Compaction, InputText, Item, Message, StoredItem

KIND = "compaction"
"""What summaries are sealed as (``shared.seal``)."""
Open = Callable[[str], bytes | None]
"""What was sealed as ``KIND`` for the tenant at hand, else ``None``."""

PROMPT = (
    "Summarize our whole conversation up to this point. Your summary will take its place: whoever goes on from here sees "
    "my messages and your summary, and nothing else of it. Write down what I asked for and what matters to me, what was "
    "found out, decided and done, exact names, numbers, paths, quotes and results of tools that may be needed again, "
    "whatever earlier summaries say that still holds, and what is left to do. Answer with the summary alone."
)
HEADING = "Summary of our conversation up to here, for you to go on from:\n\n"

_encode = msgspec.json.Encoder().encode


class _Sealed(msgspec.Struct):
    summary: str


_decode = msgspec.json.Decoder(_Sealed).decode


def ask() -> Message:
    """The message behind a context that asks the model for its summary."""
    return Message("user", [InputText(PROMPT)], status="completed")


def encode_summary(summary: str) -> bytes:
    """What is to be sealed."""
    return _encode(_Sealed(summary))


def read_summary(sealed: str, open_sealed: Open) -> str | None:
    """The summary in a ``compaction`` item; ``None`` when it cannot be opened or read."""
    data = open_sealed(sealed)
    try:
        return None if data is None else _decode(data).summary
    except msgspec.MsgspecError:
        return None  # of another version


def reveal(items: Sequence[StoredItem], open_sealed: Open) -> list[Item] | None:
    """*items* as a model is told them; ``None`` when one of the summaries among them cannot be opened."""
    told: list[Item] = []
    for item in items:
        if isinstance(item, Compaction):
            summary = read_summary(item.encrypted_content, open_sealed)
            if summary is None:
                return None
            told.append(Message("user", [InputText(HEADING + summary)]))
        else:
            told.append(item)
    return told
