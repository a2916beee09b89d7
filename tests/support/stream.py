"""Checks the order of the events of one response, and that folding them gives the response at the end.

created, queued?, in_progress, (item added, (part added, delta*, done, part done)*, item done)*, terminal
"""

from collections.abc import Iterable

from support.fold import ITEM_TEXT_KEY, PARTS_ALLOWED, TEXT_KEY, ZERO_FIELDS, Item, Part, Text, empty_part, ends_alike
from support.objects import STATUS_OF_EVENT, check_event, item_rules
from support.schemas import Json

TERMINAL_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
PART_EVENTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
PART_TEXT_EVENTS = {
    "response.output_text": ("content", "output_text"),
    "response.refusal": ("content", "refusal"),
    "response.reasoning_text": ("content", "reasoning_text"),
    "response.reasoning": ("content", "reasoning_text"),
    "response.reasoning_summary_text": ("summary", "summary_text"),
}
ITEM_TEXT_EVENTS = {
    "response.function_call_arguments": "function_call",
    "response.custom_tool_call_input": "custom_tool_call",
    "response.mcp_call_arguments": "mcp_call",
}
# what the snapshots of one response may say differently
MAY_CHANGE = {"status", "output", "usage", "error", "incomplete_details", "completed_at", "service_tier", "moderation"}


def check_stream(
    events: Iterable[Json], starting_after: int | None = None, *, cut: bool = False, interleaved: bool = False
) -> list[str]:
    """Violations of a stream; with *cut* the reader left early and what it got must be a valid beginning."""
    checker = StreamChecker(starting_after, interleaved=interleaved)
    found = [line for event in events for line in checker.feed(event)]
    return [*found, *checker.end(cut=cut)]


class StreamChecker:
    """Is fed the events of one stream in order; answers with what is wrong with each.

    A stream that resumes *starting_after* a number is checked as far as it can be without its beginning.
    With *interleaved* an item may be added while another one is still open.
    """

    def __init__(self, starting_after: int | None = None, *, interleaved: bool = False) -> None:
        self._resumed = starting_after is not None
        self._next = 0 if starting_after is None else starting_after + 1
        self._interleaved = interleaved
        self._names: list[str] = []
        self._first: Json | None = None  # the first snapshot of the response
        self._running = False
        self._items: dict[int, Item] = {}
        self._final: Json | None = None
        self._error = False
        self._found: list[str] = []

    @property
    def final(self) -> Json | None:
        """The response of the terminal event, once that was fed."""
        return self._final

    @property
    def output(self) -> list[Json]:
        """The items that were closed so far, in their order."""
        return [item.final for _, item in sorted(self._items.items()) if item.final is not None]

    def feed(self, event: Json) -> list[str]:
        name = str(event.get("type"))
        found = check_event(event)
        if not found:  # the rules below may rely on every field
            self._found = found
            self._order(name, event)
        if type(number := event.get("sequence_number")) is int:
            if number != self._next:
                found.append(f"sequence_number is {number}, expected {self._next}")
            self._next = number + 1
        label = f"event {event.get('sequence_number')} {name}: "
        self._names.append(name)
        return [label + line for line in found]

    def end(self, *, cut: bool = False) -> list[str]:
        """What is missing at the end of the stream."""
        if cut or self._error or self._final is not None or (self._resumed and not self._names):
            return []
        return ["the stream ends without a terminal event" if self._names else "the stream holds no event at all"]

    def _order(self, name: str, event: Json) -> None:
        if self._final is not None:
            self._say("comes after the terminal event")
        if self._error:
            self._say("comes after an error event")
        if not self._names and not self._resumed and name not in ("response.created", "error"):
            self._say("the first event must be response.created")
        stem, _, verb = name.rpartition(".")
        if name in STATUS_OF_EVENT:
            self._lifecycle(name, event["response"])
        elif name == "error":
            self._error = True
        else:
            if not (self._running or self._resumed):
                self._say("comes before response.in_progress")
            if name == "response.output_item.added":
                self._item_added(event)
                return
            if (item := self._find_item(event)) is None:
                return
            if name == "response.output_item.done":
                self._item_done(item, event["item"])
            elif stem in PART_EVENTS:
                self._part(item, PART_EVENTS[stem], verb, event)
            elif stem in PART_TEXT_EVENTS:
                self._part_text(item, *PART_TEXT_EVENTS[stem], verb, event)
            elif stem in ITEM_TEXT_EVENTS:
                self._item_text(item, ITEM_TEXT_EVENTS[stem], verb, event)
            elif name == "response.output_text.annotation.added":
                self._annotation(item, event)

    def _lifecycle(self, name: str, response: Json) -> None:
        if self._first is None:
            self._first = response
        for key in {**self._first, **response}:
            if key not in MAY_CHANGE and self._first.get(key) != response.get(key):
                self._say(f"response.{key} became {response.get(key)!r}, was {self._first.get(key)!r}")
        if name in TERMINAL_EVENTS:
            self._terminal(name, response)
            return
        if response["output"]:
            self._say("response.output is not empty in a snapshot from before the first item")
        if name in self._names or (name == "response.created" and self._resumed):
            self._say("comes a second time")
        if self._items or (self._running and name != "response.in_progress"):
            self._say("comes too late")
        self._running = self._running or name == "response.in_progress"

    def _terminal(self, name: str, response: Json) -> None:
        self._final = response
        if name != "response.failed" and not (self._running or self._resumed):
            self._say("comes without response.in_progress")
        for item in self._items.values():
            if item.final is None:
                self._say(f"item {item.index} is still open")
            elif item.final.get("status") == "incomplete" and name == "response.completed":
                self._say(f"item {item.index} was closed as incomplete")
        output = response["output"]
        if not self._resumed and len(output) != len(self._items):
            self._say(f"response.output has {len(output)} items, {len(self._items)} were streamed")
        for index, item in self._items.items():
            said = output[index] if index < len(output) else None
            if item.final is not None and said != item.final:
                self._say(f"response.output/{index} is not the item that was closed: {said} {item.final}")

    def _item_added(self, event: Json) -> None:
        index, item = event["output_index"], event["item"]
        kind = item["type"]
        self._found += item_rules(item)
        if index in self._items:
            self._say(f"output_index {index} was added before")
            return
        expected = max(self._items, default=-1) + 1
        if index != expected and (self._items or not self._resumed):
            self._say(f"output_index is {index}, expected {expected}")
        if item["id"] in {other.item_id for other in self._items.values()}:
            self._say(f"item id {item['id']!r} was used before")
        for other in self._items.values():
            if other.final is None and not self._interleaved:
                self._say(f"item {other.index} is still open")
            elif other.final is not None and other.final.get("status") == "incomplete":
                self._say(f"item {other.index} ended incomplete, nothing may follow it")
        if item.get("status") != "in_progress" and kind in ZERO_FIELDS:
            self._say(f"item.status is {item.get('status')!r}, not 'in_progress'")
        for key, zero in ZERO_FIELDS.get(kind, {}).items():
            if item.get(key) != zero:
                self._say(f"item.{key} is {item.get(key)!r}, an item is added empty")
        if kind == "reasoning" and item.get("content"):
            self._say("item.content is not empty, an item is added empty")
        self._items[index] = Item(index, item["id"], kind, item, Text(whole=True))

    def _find_item(self, event: Json) -> Item | None:
        """The open item that the event is about; a reader that came in late gets one made of what the event says."""
        index = event["output_index"]
        said = event.get("item", {})
        item_id = said.get("id") if said else event["item_id"]
        if index not in self._items and self._resumed:
            if self._items and index > max(self._items):
                self._say(f"output_index {index} was never added")
                return None
            kind = said.get("type") or _kind_of_item(event["type"])
            self._items[index] = Item(index, item_id, kind, None, Text(whole=False))
        item = self._items.get(index)
        if item is None:
            self._say(f"comes before the output_item.added of output_index {index}")
            return None
        if item.item_id != item_id:
            self._say(f"item id is {item_id!r}, item {index} was added as {item.item_id!r}")
        if item.final is not None:
            self._say(f"item {index} is closed already")
            return None
        if not item.kind:
            item.kind = said.get("type") or _kind_of_item(event["type"])
        return item

    def _item_done(self, item: Item, said: Json) -> None:
        self._found += item_rules(said)
        for part in item.open_parts():
            self._say(f"{part} is still open")
        if item.whole and item.kind in ITEM_TEXT_KEY and not item.text.said:
            self._say(f"comes before the done event of {ITEM_TEXT_KEY[item.kind]}")
        if item.kind in ZERO_FIELDS and said.get("status") not in ("completed", "incomplete"):
            self._say(f"item.status is {said.get('status')!r} at its end")
        self._found += item.misfits(said)
        item.final = said

    def _part(self, item: Item, place: str, verb: str, event: Json) -> None:
        index, said = event[f"{place}_index"], event["part"]
        parts = item.parts[place]
        if verb == "added":
            kind = said["type"]
            if item.kind and kind not in PARTS_ALLOWED.get((item.kind, place), ()):
                self._say(f"a {kind} part does not belong into the {place} of a {item.kind}")
                return
            expected = max(parts, default=-1) + 1
            if index != expected and (item.whole or parts):
                self._say(f"{place}_index is {index}, expected {expected}")
            for part in item.open_parts():
                self._say(f"{part} is still open")
            if said != empty_part(kind):
                self._say(f"part is {said}, a part is added as {empty_part(kind)}")
            parts.setdefault(index, Part(kind, Text(whole=True)))
            return
        if (closing := self._find_part(item, place, index, said["type"])) is None:
            return
        if closing.text.whole and not closing.text.said:
            self._say("comes before the done event of its text")
        self._found += closing.misfits(said)
        closing.final = said

    def _part_text(self, item: Item, place: str, kind: str, verb: str, event: Json) -> None:
        part = self._find_part(item, place, event[f"{place}_index"], kind)
        if part is None:
            return
        if part.kind != kind:
            self._say(f"the open part is a {part.kind}")
            return
        logprobs = event.get("logprobs") or []
        if verb == "delta":
            part.logprobs += logprobs
        elif kind == "output_text":
            self._found += ends_alike("logprobs", part.logprobs, logprobs, whole=part.text.whole)
        self._text(part.text, verb, event.get("delta"), event.get(TEXT_KEY[kind]), may_be_empty=bool(logprobs))

    def _item_text(self, item: Item, kind: str, verb: str, event: Json) -> None:
        item.kind = item.kind or kind
        if item.kind != kind:
            self._say(f"item {item.index} is a {item.kind}")
            return
        if verb == "done" and item.added is not None and event.get("name", item.added["name"]) != item.added["name"]:
            self._say(f"name is {event['name']!r}, was added as {item.added['name']!r}")
        self._text(item.text, verb, event.get("delta"), event.get(ITEM_TEXT_KEY[kind]))

    def _text(self, text: Text, verb: str, delta: str | None, full: str | None, *, may_be_empty: bool = False) -> None:
        if text.said:
            self._say("comes after the done event of this text")
        elif verb == "delta":
            text.joined += delta or ""
            if not delta and not may_be_empty:
                self._say("delta is empty")
        else:
            text.said = True
            if not text.fits(full):
                self._say(f"says {full!r}, the deltas were {text.joined!r}")

    def _annotation(self, item: Item, event: Json) -> None:
        part = self._find_part(item, "content", event["content_index"], "output_text")
        if part is None:
            return
        if part.text.whole and event["annotation_index"] != len(part.annotations):
            self._say(f"annotation_index is {event['annotation_index']}, expected {len(part.annotations)}")
        if part.text.said:
            self._say("comes after the done event of this text")
        part.annotations.append(event["annotation"])

    def _find_part(self, item: Item, place: str, index: int, kind: str) -> Part | None:
        parts = item.parts[place]
        if index not in parts and not item.whole and index >= max(parts, default=0):
            parts[index] = Part(kind, Text(whole=False))
        part = parts.get(index)
        if part is None:
            self._say(f"comes before the {place} part {index} was added")
        elif part.final is not None:
            self._say(f"{place} part {index} is closed already")
            return None
        return part

    def _say(self, line: str) -> None:
        self._found.append(line)


def _kind_of_item(event_name: str) -> str:
    """The type of item that only this kind of event can be about; empty when several have it."""
    stem = event_name.rpartition(".")[0]
    if stem in PART_TEXT_EVENTS:
        place, part = PART_TEXT_EVENTS[stem]
        owners = {kind for (kind, where), parts in PARTS_ALLOWED.items() if where == place and part in parts}
        return owners.pop()
    return ITEM_TEXT_EVENTS.get(stem, "")
