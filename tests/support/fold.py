"""What a reader of the stream has put together so far of one output item.

Written from the contract alone and on purpose without the project's own fold: it is the independent check of it.
A reader that came in late (`whole=False`) knows only the ends of texts; comparisons then hold for those ends.
"""

from dataclasses import dataclass, field
from typing import Any

from support.schemas import Json

TEXT_KEY = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text", "summary_text": "text"}
ITEM_TEXT_KEY = {"function_call": "arguments", "custom_tool_call": "input", "mcp_call": "arguments"}
ZERO_FIELDS: dict[str, Json] = {  # what grows, and how it starts
    "message": {"content": []},
    "reasoning": {"summary": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
}
PART_LISTS = {"message": ("content",), "reasoning": ("content", "summary")}
PARTS_ALLOWED = {
    ("message", "content"): frozenset({"output_text", "refusal"}),
    ("reasoning", "content"): frozenset({"reasoning_text"}),
    ("reasoning", "summary"): frozenset({"summary_text"}),
}


@dataclass(slots=True)
class Text:
    """A text that grows by deltas until it is said in full."""

    whole: bool
    joined: str = ""
    said: bool = False

    def fits(self, full: Any) -> bool:
        return isinstance(full, str) and (full == self.joined if self.whole else full.endswith(self.joined))


@dataclass(slots=True)
class Part:
    kind: str
    text: Text
    annotations: list[Json] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    final: Json | None = None

    def misfits(self, part: Json) -> list[str]:
        """How *part*, said at the end, differs from what was put together."""
        found = []
        if part.get("type") != self.kind:
            return [f"part became {part.get('type')!r}, was {self.kind!r}"]
        key = TEXT_KEY[self.kind]
        if not self.text.fits(part.get(key)):
            found.append(f"part.{key} {part.get(key)!r} is not the joined deltas {self.text.joined!r}")
        if self.kind == "output_text":
            found += ends_alike("part.logprobs", self.logprobs, part.get("logprobs"), whole=self.text.whole)
            if not _ends_with(part.get("annotations"), self.annotations, self.text.whole):
                found.append(f"part.annotations {part.get('annotations')} are not those added {self.annotations}")
        return found


@dataclass(slots=True)
class Item:
    index: int
    item_id: str
    kind: str
    added: Json | None
    text: Text
    parts: dict[str, dict[int, Part]] = field(default_factory=lambda: {"content": {}, "summary": {}})
    final: Json | None = None

    @property
    def whole(self) -> bool:
        return self.added is not None

    def open_parts(self) -> list[str]:
        return [
            f"{place} part {index}"
            for place, parts in self.parts.items()
            for index, part in parts.items()
            if part.final is None
        ]

    def misfits(self, item: Json) -> list[str]:
        """How *item*, said at the end, differs from what was put together."""
        found = [f"item.{key} became {item.get(key)!r}, was {value!r}" for key, value in self._promised(item)]
        if (text_key := ITEM_TEXT_KEY.get(self.kind)) and not self.text.fits(item.get(text_key)):
            found.append(f"item.{text_key} {item.get(text_key)!r} is not the joined deltas {self.text.joined!r}")
        for place in PART_LISTS.get(self.kind, ()):
            said = item.get(place) or []
            folded = self.parts[place]
            if self.whole and len(said) != len(folded):
                found.append(f"item.{place} has {len(said)} parts, {len(folded)} were streamed")
                continue
            found += [
                f"item.{place}/{index} is not the part that was closed: {said[index : index + 1]} {part.final}"
                for index, part in folded.items()
                if said[index : index + 1] != [part.final]
            ]
        return found

    def _promised(self, item: Json) -> list[tuple[str, Any]]:
        """What the added item said already and the closed one says otherwise."""
        if self.added is None:
            return [
                (key, value) for key, value in (("id", self.item_id), ("type", self.kind)) if item.get(key) != value
            ]
        grows = {"status", "encrypted_content", "content", "summary", "arguments", "input"}
        if self.kind not in ITEM_TEXT_KEY and self.kind not in PART_LISTS:
            grows = set(self.added) - {"id", "type", "call_id"}  # hosted tools fill in their own fields
        return [(key, value) for key, value in self.added.items() if key not in grows and item.get(key) != value]


def empty_part(kind: str) -> Json:
    """The zero value of a part, as it is added."""
    part: Json = {"type": kind, TEXT_KEY[kind]: ""}
    return {**part, "annotations": [], "logprobs": []} if kind == "output_text" else part


def ends_alike(name: str, folded: list[Json], said: Any, *, whole: bool) -> list[str]:
    """Log probabilities said in full against those streamed; `bytes` may come with the full ones only."""
    if not isinstance(said, list):
        return [f"{name} is {said!r}, not a list"]
    if _ends_with(_without_bytes(said), _without_bytes(folded), whole):
        return []
    return [f"{name} are not those of the deltas: {len(said)} against {len(folded)}, or with other values"]


def _ends_with(said: Any, folded: list[Any], whole: bool) -> bool:
    if not isinstance(said, list) or (whole and len(said) != len(folded)) or len(folded) > len(said):
        return False
    return said[len(said) - len(folded) :] == folded


def _without_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_bytes(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _without_bytes(entry) for key, entry in value.items() if key != "bytes"}
    return value
