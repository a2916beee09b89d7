"""The only maker of events: numbers and indexes them, and pairs every open with a close.

At most one item is open at a time, and in it at most one part; whatever comes next closes what does not fit. An event
never changes once it was made, whatever the emitter does afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import msgspec

from shared.core.accumulate import Fold, OpenItem, PartKind
from shared.core.frames import Made, TextRun, render_all
from shared.ids import item_id
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
    ItemStatus,
    Logprob,
    Message,
    OutputItem,
    OutputText,
    Phase,
    Reasoning,
    ReasoningText,
    Refusal,
    SummaryText,
)
from shared.wire.responses import IncompleteDetails, Response, ResponseError, Status, Usage

ITEM_SIZE_BYTES = 160
"""What an item weighs beside its text: without it, a million empty calls would weigh nothing."""
LOGPROB_SIZE_BYTES = 64
MAX_CALL_ID_CHARS = 64
"""The API's own limit: a longer id could not be sent back."""
MIN_RUN = 3
"""So many texts are worth being held together."""
PADDED_CHARS = 16
"""Obfuscated deltas are filled up to a multiple of this."""

_LAST: dict[Status, type[Completed | Incomplete | Failed]] = {
    "completed": Completed,
    "incomplete": Incomplete,
    "failed": Failed,
    "cancelled": Failed,
}
_EMPTY: dict[PartKind, Callable[[], OutputText | Refusal | ReasoningText]] = {
    "output_text": lambda: OutputText("", [], []),
    "refusal": lambda: Refusal(""),
    "reasoning_text": lambda: ReasoningText(""),
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a response ends. ``reason`` belongs to incomplete, ``error`` to failed; elsewhere they are not shown."""

    status: Literal["completed", "incomplete", "failed", "cancelled"]
    usage: Usage | None = None
    reason: Literal["max_output_tokens", "content_filter"] | None = None
    error: ResponseError | None = None


class Emitter:
    """Makes the events of one response and keeps its `Response` up to date.

    ``number`` is the next sequence number, ``size_bytes`` roughly what the output weighs so far (its text in UTF-8).
    """

    __slots__ = (
        "_call_ids",
        "_ended",
        "_events",
        "_next_item",
        "_obfuscate",
        "_open",
        "_reserved",
        "_response",
        "_streaming",
        "_taken",
        "number",
        "size_bytes",
    )

    def __init__(
        self,
        response: Response,
        *,
        number: int = 0,
        next_item: int = 0,
        streaming: bool = True,
        obfuscate: bool = False,
    ) -> None:
        """*response* is owned and changed from now on: its ``output`` gets each item when it is closed.

        *next_item* is the number in the next item's id. Without *streaming* there are no events and no numbers, only
        the `Response`. With *obfuscate* every delta says padding, too.
        """
        self.number = number
        self.size_bytes = 0
        self._response = response
        self._next_item = next_item
        self._streaming = streaming
        self._obfuscate = obfuscate
        self._events: list[Made] = []
        self._taken = number  # the number of the first of them
        self._open: OpenItem | None = None
        self._call_ids: set[str] = set()
        self._reserved: set[str] = set()
        self._ended = False

    @classmethod
    def resume(cls, fold: Fold) -> Self:
        """Go on behind what *fold* has read; the fold is used up. Raises ``ValueError`` when it makes no sense."""
        if fold.ended or len(fold.open_items) > 1:
            raise ValueError("there is nothing to go on with")
        emitter = cls(fold.response, number=fold.next_number, next_item=fold.next_item)
        items = list(fold.response.output)
        for opened in fold.open_items:
            emitter._open = opened
            items.append(opened.item)
            emitter.size_bytes += sum(_size_bytes(piece) for piece in opened.pieces)
        emitter._call_ids = {item.call_id for item in items if isinstance(item, FunctionCall | CustomToolCall)}
        emitter.size_bytes += len(msgspec.json.encode(items))
        return emitter

    def created(self) -> None:
        self._add(Created, self._snapshot("queued"))

    def queued(self) -> None:
        self._add(Queued, self._snapshot("queued"))

    def in_progress(self) -> None:
        self._response.status = "in_progress"
        self._add(InProgress, self._snapshot("in_progress"))

    def text(self, delta: str, logprobs: Sequence[Logprob] = ()) -> None:
        if not delta:
            return
        opened = self._open
        if opened is None or opened.part != "output_text":
            opened = self._open_part("output_text")
        opened.pieces.append(delta)
        self.size_bytes += len(delta) if delta.isascii() else _size_bytes(delta)
        if logprobs:
            opened.logprobs.extend(logprobs)
            self.size_bytes += LOGPROB_SIZE_BYTES * sum(1 + len(one.top_logprobs) for one in logprobs)
        if self._streaming:
            padding = self._padding(delta) if self._obfuscate else msgspec.UNSET
            where = self.number, opened.item_id, opened.index, opened.part_index
            self._events.append(TextDelta(*where, delta, [*logprobs], padding))
            self.number += 1

    def texts(self, deltas: Sequence[str]) -> None:
        """The same as `text` of each."""
        if self._obfuscate or len(deltas) < MIN_RUN:
            for delta in deltas:
                self.text(delta)
            return
        deltas = [delta for delta in deltas if delta]
        if not deltas:
            return
        opened = self._open
        if opened is None or opened.part != "output_text":
            opened = self._open_part("output_text")
        text = "".join(deltas)
        opened.pieces.append(text)
        self.size_bytes += _size_bytes(text)
        if self._streaming:
            self._events.append(TextRun(self.number, opened.item_id, opened.index, opened.part_index, deltas))
            self.number += len(deltas)

    def refusal(self, delta: str) -> None:
        self._grow("refusal", RefusalDelta, delta)

    def reasoning(self, delta: str) -> None:
        """Raw chain of thought: a content part of the reasoning item."""
        self._grow("reasoning_text", ReasoningTextDelta, delta)

    def summary(self, delta: str) -> None:
        self._grow("summary_text", SummaryTextDelta, delta)

    def state(self, sealed: str) -> None:
        """What the provider wants back, as ``encrypted_content`` of the reasoning that is open (then the last word
        counts), else of one made for it alone."""
        opened = self._open
        alone = opened is None or not isinstance(opened.item, Reasoning)
        if opened is None or alone:
            self._close_item("completed")
            opened = self._open_empty("summary_text")
        self.size_bytes += len(sealed) - len(opened.sealed or "")
        opened.sealed = sealed
        if alone:
            self._close_item("completed")

    def message(self, phase: Phase | None = None) -> None:
        """Begin another message, also behind one that is open."""
        self._close_item("completed")
        made = item_id("msg", self._response.id, self._next_item)
        self._open_item(Message("assistant", [], made, "in_progress", phase), made)

    def close_item(self) -> None:
        """What comes belongs to another item, also when it is of the same kind."""
        self._close_item("completed")

    def close_part(self) -> None:
        """What comes belongs to another part of the open item."""
        if self._open is not None and self._open.part not in (None, "arguments", "input"):
            self._close_part(self._open)

    def annotation(self, annotation: msgspec.Raw) -> None:
        """Belongs to the text that is open; without one there is nothing it could point at, and it is dropped."""
        opened = self._open
        if opened is None or opened.part != "output_text":
            return
        # Raw is written as it is: a line end between its tokens would tear the event's frame.
        annotation = msgspec.Raw(msgspec.json.format(bytes(annotation), indent=-1))
        opened.annotations.append(annotation)
        self.size_bytes += len(bytes(annotation))
        where = opened.item_id, opened.index, opened.part_index
        self._add(AnnotationAdded, *where, len(opened.annotations) - 1, annotation)

    def call(self, name: str, call_id: str | None, namespace: str | None = None) -> int:
        """Open a call and answer its handle (its ``output_index``). An unusable or known *call_id* is replaced."""
        made, call_id = self._prepare_call("fc", name, call_id)
        opened = self._open_item(FunctionCall(call_id, name, "", made, "in_progress", namespace), made)
        opened.start("arguments")
        return opened.index

    def custom_call(self, name: str, call_id: str | None, namespace: str | None = None) -> int:
        """The same for a custom tool; `custom_input` feeds it."""
        made, call_id = self._prepare_call("ctc", name, call_id)
        opened = self._open_item(CustomToolCall(call_id, name, "", made, "in_progress", namespace), made)
        opened.start("input")
        return opened.index

    def reserve(self, call_id: str | None) -> str:
        """The id that a call will have when it is opened with it: *call_id*, or one that is made when that is unusable
        or known."""
        if not call_id or len(call_id) > MAX_CALL_ID_CHARS or call_id in self._call_ids:
            call_id = f"call_{item_id('fc', self._response.id, self._next_item).partition('_')[2]}"
        self._call_ids.add(call_id)
        self._reserved.add(call_id)
        return call_id

    def _prepare_call(self, kind: Literal["fc", "ctc"], name: str, call_id: str | None) -> tuple[str, str]:
        """(the new item's id, the call's id)."""
        self._close_item("completed")
        made = item_id(kind, self._response.id, self._next_item)
        if not call_id or call_id not in self._reserved:
            call_id = self.reserve(call_id)
        self._reserved.discard(call_id)
        self.size_bytes += len(name)
        return made, call_id

    @property
    def in_text(self) -> bool:
        """Whether text that comes goes on with text that is there."""
        return self._open is not None and self._open.part == "output_text"

    def is_open(self, handle: int) -> bool:
        """Whether the call behind *handle* still takes arguments, or input."""
        opened = self._open
        return opened is not None and opened.index == handle and opened.part in ("arguments", "input")

    def arguments(self, handle: int, fragment: str) -> None:
        """Raises ``ValueError`` when that call is no longer open."""
        if not self.is_open(handle):
            raise ValueError(f"call {handle} is not open")
        self._grow("arguments", ArgumentsDelta, fragment)

    def custom_input(self, handle: int, fragment: str) -> None:
        """The same for the input of a custom tool."""
        if not self.is_open(handle):
            raise ValueError(f"call {handle} is not open")
        self._grow("input", CustomInputDelta, fragment)

    def end(self, ending: Ending, *, at: int) -> Response:
        """Close what is open and end the response; *at* is Unix seconds. A second end raises ``ValueError``."""
        if self._ended:
            raise ValueError("the response has ended before")
        self._ended = True
        self._close_item("completed" if ending.status == "completed" else "incomplete")
        response = self._response
        response.status = ending.status
        response.usage = ending.usage
        # Not before its creation, which another machine's clock has told.
        response.completed_at = max(at, response.created_at) if ending.status == "completed" else None
        if ending.status == "incomplete":
            response.incomplete_details = IncompleteDetails(ending.reason or "max_output_tokens")
        elif ending.status == "failed":
            response.error = ending.error or ResponseError("server_error", "The response failed.")
        self._add(_LAST[ending.status], self._snapshot(ending.status))
        return response

    def close(self) -> list[OutputItem]:
        """Close what is open, as completed. The output so far."""
        self._close_item("completed")
        return self._response.output

    def take(self) -> list[Event]:
        """The events made since the last take."""
        events: list[Event] = []
        for made in self._take():
            events += made.events() if isinstance(made, TextRun) else (made,)
        return events

    def take_frames(self) -> tuple[bytes, int]:
        """The same, rendered, and how many they are."""
        count = self.number - self._taken
        return render_all(self._take()), count

    def _take(self) -> list[Made]:
        made, self._events = self._events, []
        self._taken = self.number
        return made

    def _add(self, kind: Callable[..., Event], *fields: object) -> None:
        if self._streaming:
            self._events.append(kind(self.number, *fields))
            self.number += 1

    def _snapshot(self, status: Status) -> Response:
        return msgspec.structs.replace(self._response, status=status, output=[*self._response.output])

    def _grow(self, kind: PartKind, delta_kind: Callable[..., Event], delta: str) -> None:
        if not delta:
            return
        opened = self._open
        if opened is None or opened.part != kind:
            opened = self._open_part(kind)
        opened.pieces.append(delta)
        self.size_bytes += _size_bytes(delta)
        where: tuple[str | int, ...] = (opened.item_id, opened.index)
        if kind not in ("arguments", "input"):
            where = (*where, opened.part_index)
        self._add(delta_kind, *where, delta, self._padding(delta) if self._obfuscate else msgspec.UNSET)

    def _padding(self, delta: str) -> str:
        """Always the same for a delta, so that a packed log can be made again."""
        return "x" * (-len(delta) % PADDED_CHARS)

    def _open_part(self, kind: PartKind) -> OpenItem:
        """Close what does not fit, open an item for the part if need be, then the part."""
        wanted = Message if kind in ("output_text", "refusal") else Reasoning
        opened = self._open
        if opened is not None and isinstance(opened.item, wanted):
            self._close_part(opened)
        else:
            self._close_item("completed")
            opened = self._open_empty(kind)
        if kind == "summary_text":
            opened.start(kind, len(opened.summary))
            self._add(SummaryPartAdded, opened.item_id, opened.index, opened.part_index, SummaryText(""))
        else:
            opened.start(kind, len(opened.reasoning if kind == "reasoning_text" else opened.content))
            self._add(PartAdded, opened.item_id, opened.index, opened.part_index, _EMPTY[kind]())
        return opened

    def _open_empty(self, kind: PartKind) -> OpenItem:
        """Open a message or a reasoning item; ``content`` of the latter only exists where raw reasoning is shown."""
        if kind in ("output_text", "refusal"):
            made = item_id("msg", self._response.id, self._next_item)
            return self._open_item(Message("assistant", [], made, "in_progress"), made)
        made = item_id("rs", self._response.id, self._next_item)
        content: list[ReasoningText] | None = [] if kind == "reasoning_text" else None
        return self._open_item(Reasoning([], made, content, status="in_progress"), made)

    def _open_item(self, item: OutputItem, made: str) -> OpenItem:
        if self._ended:
            raise ValueError("the response has ended before")
        self._next_item += 1
        self.size_bytes += ITEM_SIZE_BYTES
        self._open = OpenItem(len(self._response.output), item, made)
        self._add(ItemAdded, self._open.index, item)
        return self._open

    def _close_part(self, opened: OpenItem) -> None:
        """Say the open part in full and keep it; one whose text was already said only gets its closing event."""
        kind, tell = opened.part or opened.told, opened.part is not None
        where = opened.item_id, opened.index, opened.part_index
        text = "".join(opened.pieces)
        part: OutputText | Refusal | ReasoningText
        if kind == "output_text":
            part = OutputText(text, opened.annotations, opened.logprobs)
            if tell:
                self._add(TextDone, *where, text, opened.logprobs)
        elif kind == "refusal":
            part = Refusal(text)
            if tell:
                self._add(RefusalDone, *where, text)
        elif kind == "reasoning_text":
            part = ReasoningText(text)
            if tell:
                self._add(ReasoningTextDone, *where, text)
        elif kind == "summary_text":
            if tell:
                self._add(SummaryTextDone, *where, text)
            self._add(SummaryPartDone, *where, SummaryText(text))
            opened.keep(SummaryText(text))
            return
        else:
            return
        self._add(PartDone, *where, part)
        opened.keep(part)

    def _close_item(self, status: ItemStatus) -> None:
        opened = self._open
        if opened is None:
            return
        item: OutputItem
        if isinstance(opened.item, FunctionCall):
            item = self._close_call(opened, opened.item, status)
        elif isinstance(opened.item, CustomToolCall):
            text = "".join(opened.pieces)
            if opened.part:
                self._add(CustomInputDone, opened.item_id, opened.index, text)
            item = msgspec.structs.replace(opened.item, input=text, status=status)
        elif isinstance(opened.item, Message):
            self._close_part(opened)
            item = msgspec.structs.replace(opened.item, content=opened.content, status=status)
        else:
            self._close_part(opened)
            content = opened.reasoning or opened.item.content
            item = msgspec.structs.replace(
                opened.item, summary=opened.summary, content=content, encrypted_content=opened.sealed, status=status
            )
        self._add(ItemDone, opened.index, item)
        self._response.output.append(item)
        self._open = None

    def _close_call(self, opened: OpenItem, call: FunctionCall, status: ItemStatus) -> FunctionCall:
        """Whole arguments are never empty: a completed call without any takes an empty object."""
        if opened.part and not opened.pieces and status == "completed":
            self.arguments(opened.index, "{}")
        arguments = "".join(opened.pieces)
        if opened.part:
            self._add(ArgumentsDone, opened.item_id, opened.index, arguments, call.name)
        return msgspec.structs.replace(call, arguments=arguments, status=status)


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
