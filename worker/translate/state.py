"""What a provider wants back on the next turn, inside the ``encrypted_content`` of a reasoning item.

    answer      chat: reasoning_details, thought signatures   ->  Kept  ->  encode_state  ->  sealed, by `Emitter.state`
    next turn   sealed, from the store or from the client     ->  open_states  ->  Kept, beside its reasoning item

A blob names the family that made it, and every other family ignores it: what one provider signed is noise to another.
What is foreign, forged, of another tenant or of a newer version is ignored as well; it is never an error.
"""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from shared.errors import UpstreamError
from shared.wire.items import Item, Reasoning
from worker.translate.chat_chunk import whole_text
from worker.translate.dialect import State

MAX_STATE_BYTES = 8 << 20
"""Of one blob, before it is sealed; clients may send back 20 MiB of it."""


class Kept(msgspec.Struct, omit_defaults=True):
    """The state of one reasoning item and of the calls behind it. ``data`` and ``calls`` are the family's own JSON."""

    family: str
    text: str = ""
    """Reasoning that the item itself does not show, or that its client might not send back."""
    data: Any = None
    calls: dict[str, Any] = {}
    """By ``call_id``."""


_decode = msgspec.json.Decoder(Kept).decode


def encode_state(kept: Kept) -> bytes:
    """Raises ``UpstreamError`` when it is larger than ``MAX_STATE_BYTES``, or no JSON."""
    try:
        data = _encode(kept)
    except (ValueError, OverflowError, RecursionError) as error:
        raise UpstreamError("The model backend sent state that cannot be kept.") from error
    if len(data) > MAX_STATE_BYTES:
        raise UpstreamError("The model backend sent more state than can be kept.")
    return data


def _encode(kept: Kept) -> bytes:
    try:
        return msgspec.json.encode(kept)
    except UnicodeEncodeError:  # halves of surrogate pairs: without them it may be of no use, but the answer is
        return whole_text(json.dumps(msgspec.to_builtins(kept), ensure_ascii=False)).encode()


def open_states(items: Sequence[Item], family: str, state: State) -> dict[int, Kept]:
    """The states of *family* among *items*, by the place of their reasoning item."""
    found = {}
    for place, item in enumerate(items):
        if isinstance(item, Reasoning) and item.encrypted_content:
            kept = _open(item.encrypted_content, state)
            if kept is not None and kept.family == family:
                found[place] = kept
    return found


def _open(sealed: str, state: State) -> Kept | None:
    data = state.open(sealed)
    if data is None:
        return None
    try:
        return _decode(data)
    except (ValueError, RecursionError):  # sealed by a newer version
        return None
