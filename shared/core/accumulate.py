"""Events to the Response: the fold that a reader of the log makes, and from which an `Emitter` can go on."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, assert_never

import msgspec

from shared.ids import item_number
from shared.wire.events import (
    AnnotationAdded,
    ArgumentsDelta,
    ArgumentsDone,
    Completed,
    Created,
    CustomInputDelta,
    CustomInputDone,
    Event,
    Failed,
    Incomplete,
    InProgress,
    ItemAdded,
    ItemDone,
    PartAdded,
    PartDone,
    Queued,
    ReasoningTextDelta,
    ReasoningTextDone,
    RefusalDelta,
    RefusalDone,
    SummaryPartAdded,
    SummaryPartDone,
    SummaryTextDelta,
    SummaryTextDone,
    TextDelta,
    TextDone,
)
from shared.wire.items import (
    CustomToolCall,
    FunctionCall,
    Logprob,
    MessagePart,
    OutputItem,
    OutputText,
    ReasoningText,
    Refusal,
    SummaryText,
)
from shared.wire.responses import Response

PartKind = Literal["output_text", "refusal", "reasoning_text", "summary_text", "arguments", "input"]


@dataclass(slots=True)
class OpenItem:
    """An item between its ``output_item.added`` and its ``output_item.done``.

    ``item`` is what was added, empty, and stays so. ``pieces`` is the text so far of the part that is open. ``told`` is
    set instead of ``part`` when that part's text is done and only its closing event is missing.
    """

    index: int
    item: OutputItem
    item_id: str
    part: PartKind | None = None
    told: PartKind | None = None
    part_index: int = 0
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    annotations: list[msgspec.Raw] = field(default_factory=list)
    content: list[MessagePart] = field(default_factory=list)
    """Of a message: its closed parts."""
    reasoning: list[ReasoningText] = field(default_factory=list)
    summary: list[SummaryText] = field(default_factory=list)
    sealed: str | None = None
    """Of reasoning: its ``encrypted_content``."""

    def start(self, kind: PartKind, part_index: int = 0) -> None:
        self.part, self.told, self.part_index = kind, None, part_index
        self.pieces, self.logprobs, self.annotations = [], [], []

    def tell(self) -> None:
        self.part, self.told = None, self.part

    def keep(self, part: OutputText | Refusal | ReasoningText | SummaryText) -> None:
        """Close the open part: *part* is what became of it."""
        self.part = self.told = None
        if isinstance(part, ReasoningText):
            self.reasoning.append(part)
        elif isinstance(part, SummaryText):
            self.summary.append(part)
        else:
            self.content.append(part)


class Fold:
    """Fed with the events of one response from number 0, in order; raises ``ValueError`` when they make no sense.

    ``response`` has the closed items only; those that are open are in ``open_items``, by ``output_index``. No event
    that was fed is changed by going on.
    """

    def __init__(self, *, first_item: int = 0) -> None:
        """*first_item*: the number of the first output item; only matters for a log without any."""
        self.next_number = 0
        self.next_item = first_item
        self.ended = False
        self._response: Response | None = None
        self._open: dict[int, OpenItem] = {}

    @property
    def response(self) -> Response:
        if self._response is None:
            raise ValueError("the log does not begin with response.created")
        return self._response

    @property
    def open_items(self) -> list[OpenItem]:
        return [self._open[index] for index in sorted(self._open)]

    def feed(self, event: Event) -> None:
        if event.sequence_number != self.next_number or self.ended:
            raise ValueError(f"event {event.sequence_number} where {self.next_number} was due")
        self.next_number += 1
        match event:
            case TextDelta():
                opened = self._find(event.output_index)
                opened.pieces.append(event.delta)
                opened.logprobs.extend(event.logprobs)
            case ArgumentsDelta() | CustomInputDelta() | ReasoningTextDelta() | RefusalDelta() | SummaryTextDelta():
                self._find(event.output_index).pieces.append(event.delta)
            case AnnotationAdded():
                self._find(event.output_index).annotations.append(event.annotation)
            case ItemAdded() | ItemDone():
                self._feed_item(event)
            case PartAdded():
                self._find(event.output_index).start(_kind(event.part), event.content_index)
            case SummaryPartAdded():
                self._find(event.output_index).start("summary_text", event.summary_index)
            case TextDone() | RefusalDone() | ReasoningTextDone() | SummaryTextDone():
                self._find(event.output_index).tell()
            case ArgumentsDone() | CustomInputDone():
                self._find(event.output_index).tell()
            case PartDone() | SummaryPartDone():
                self._find(event.output_index).keep(event.part)
            case Created() | Queued() | InProgress():
                output = self._response.output if self._response else []
                self._response = msgspec.structs.replace(event.response, output=output)
            case Completed() | Incomplete() | Failed():
                self.ended = True
                self._response = msgspec.structs.replace(event.response, output=self.response.output)
            case _:
                assert_never(event)

    def _feed_item(self, event: ItemAdded | ItemDone) -> None:
        if isinstance(event, ItemDone):
            self._find(event.output_index)
            del self._open[event.output_index]
            self.response.output.append(event.item)
            return
        item_id = event.item.id or ""
        self._open[event.output_index] = opened = OpenItem(event.output_index, event.item, item_id)
        if isinstance(event.item, FunctionCall):
            opened.start("arguments")
        elif isinstance(event.item, CustomToolCall):
            opened.start("input")
        self.next_item = item_number(item_id) + 1

    def _find(self, output_index: int) -> OpenItem:
        opened = self._open.get(output_index)
        if opened is None:
            raise ValueError(f"item {output_index} is not open")
        return opened


def fold(events: Iterable[Event]) -> Response:
    folded = Fold()
    for event in events:
        folded.feed(event)
    return folded.response


def _kind(part: OutputText | Refusal | ReasoningText) -> PartKind:
    if isinstance(part, OutputText):
        return "output_text"
    return "refusal" if isinstance(part, Refusal) else "reasoning_text"
