"""What servers of Chat Completions want back: gathered from their deltas, and put into the next turn's messages.

    reasoning text             in the field of the profile        where the item does not show it, or was asked for sealed
    reasoning_details          as they came, joined by index      OpenRouter: signatures, encrypted thoughts
    encrypted_content          as it came                         Qwen's summarized thoughts
    extra_content              of the message, of each call       Gemini's thought signatures

It is said as soon as the reasoning is over. What comes later is said behind, in a reasoning item of its own, and belongs
to the message before it (``before``). The family ``text`` keeps text alone: any of its servers may read it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared.core.emitter import Emitter
from shared.core.profiles import Profile
from shared.errors import UpstreamError
from worker.translate.chat_chunk import whole_text
from worker.translate.dialect import State
from worker.translate.state import MAX_STATE_BYTES, Kept, encode_state

Json = dict[str, Any]
TEXT_FAMILY = "text"
MAX_TEXT_BYTES = MAX_STATE_BYTES // 8
"""Of reasoning, in one answer. JSON may write a byte of it as six."""
_JOINED = ("text", "summary", "data")
"""Members of reasoning details that come in pieces; of all others the last one counts."""


class Thoughts:
    """The state of one answer. ``late`` says that what comes now belongs to the message before."""

    def __init__(self, emit: Emitter, profile: Profile, state: State, *, asked: bool) -> None:
        """*asked*: the client wants all reasoning sealed, not only what it could not send back otherwise."""
        self._emit = emit
        self._family = profile.family
        self._state = state
        self._keeps_text = asked or (profile.reasoning_kind == "hidden" and profile.reasoning_out != "drop")
        self._details_say_it = profile.reasoning_out == "reasoning_details"
        self._text_bytes = self._size_bytes = 0
        self.late = False
        self._clear()

    def _clear(self) -> None:
        self._text: list[str] = []
        self._data: Json = {}
        self._before: Json = {}
        self._calls: Json = {}

    def text(self, text: str) -> None:
        """Too much of it is not kept at all: a part of a thought helps nobody, and most of the time the item shows it."""
        if self._keeps_text:
            self._text_bytes += len(text.encode("utf-8", "replace"))
            self._text.append(text)
            if self._text_bytes > MAX_TEXT_BYTES:
                self._keeps_text, self._text = False, []

    def details(self, fragments: Any) -> None:
        if isinstance(fragments, list) and fragments:
            known = self._place().setdefault("details", [])
            known += [kept for one in fragments if isinstance(one, dict) and (kept := self._keep(one))]

    def cipher(self, text: Any) -> None:
        if isinstance(text, str) and text and (kept := self._keep({"x": text})):
            place = self._place()
            place["cipher"] = place.get("cipher", "") + kept["x"]

    def message(self, extra: Any) -> None:
        """``extra_content`` of the message."""
        if isinstance(extra, dict) and extra and (kept := self._keep(extra)):
            self._place()["extra"] = kept

    def call(self, call_id: str, extra: Any) -> None:
        """``extra_content`` of a call."""
        if isinstance(extra, dict) and extra and (kept := self._keep(extra)):
            self._calls[call_id] = kept

    def release(self) -> None:
        """Say what there is. Something else is about to be opened, or nothing more comes."""
        details = self._data.get("details")
        if details:
            self._data["details"] = join_details(details)
        data = self._data | ({"before": self._before} if self._before else {})
        text = "" if details and self._details_say_it else "".join(self._text)
        kept = Kept(self._family, text, data or None, self._calls)
        self._clear()
        if kept.text or kept.data or kept.calls:
            sealed = self._state.seal(encode_state(kept))
            if sealed is not None:
                self._emit.state(sealed)

    def _place(self) -> Json:
        return self._before if self.late else self._data

    def _keep(self, value: Json) -> Json | None:
        """*value* as JSON that can be written; ``None`` for what cannot, and in the family that keeps text alone."""
        if self._family == TEXT_FAMILY:
            return None
        try:
            data = msgspec.json.encode(value)
        except (ValueError, OverflowError, RecursionError):
            try:
                data = msgspec.json.encode({key: whole_text(one) for key, one in value.items() if isinstance(one, str)})
            except (ValueError, OverflowError):
                return None
        self._count(len(data))
        kept: Json = msgspec.json.decode(data)
        return kept

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > MAX_STATE_BYTES - MAX_TEXT_BYTES:
            raise UpstreamError("The model backend sent more state than can be kept.")


def join_details(fragments: Iterable[Json]) -> list[Json]:
    """Pieces of the same kind and index are one, in the order in which these began; without an index, neighbours are."""
    joined: list[Json] = []
    for fragment in fragments:
        kind, index = fragment.get("type"), fragment.get("index")
        among = joined if index is not None else joined[-1:]
        known = next((one for one in among if (one.get("type"), one.get("index")) == (kind, index)), None)
        if known is None or (index is None and known.get("signature")):
            joined.append(dict(fragment))
            continue
        for name, value in fragment.items():
            if name in _JOINED and isinstance(value, str) and isinstance(known.get(name), str):
                known[name] += value
            elif value is not None:
                known[name] = value
    return joined


@dataclass(slots=True)
class Recalled:
    """What one message of the assistant gets back."""

    text: str = ""
    details: list[Json] = field(default_factory=list)
    cipher: str = ""
    extra: Json = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.text or self.details or self.cipher or self.extra)

    def add(self, more: "Recalled") -> None:
        self.text += more.text
        self.details += more.details
        self.cipher += more.cipher
        self.extra |= more.extra


def recall(kept: Kept) -> tuple[Recalled, Recalled]:
    """(what belongs to the message before, what to the one behind)."""
    data = kept.data if isinstance(kept.data, dict) else {}
    before = _recalled(data.get("before"))
    after = _recalled(data)
    after.text = kept.text
    return before, after


def _recalled(data: Any) -> Recalled:
    """Of a shape that another version may have written."""
    data = data if isinstance(data, dict) else {}
    details, cipher, extra = data.get("details"), data.get("cipher"), data.get("extra")
    return Recalled(
        "",
        [one for one in details if isinstance(one, dict)] if isinstance(details, list) else [],
        cipher if isinstance(cipher, str) else "",
        extra if isinstance(extra, dict) else {},
    )
