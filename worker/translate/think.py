"""Takes reasoning out of a content that has it between marks, such as ``<think>``."""

from typing import Literal

Kind = Literal["text", "reasoning"]


class ThinkSplitter:
    """Is fed the content of one answer, cut anywhere. Only a mark in front of all text counts."""

    __slots__ = ("_closing", "_held", "_inside", "_opening", "_state")

    def __init__(self, opening: str, closing: str, *, starts_inside: bool = False) -> None:
        """*starts_inside*: the prompt held the opening mark already; the model may repeat it."""
        self._opening = opening
        self._closing = closing
        self._inside: Kind = "reasoning" if starts_inside else "text"
        self._state: Literal["before", "inside", "behind", "text"] = "before"
        self._held = ""

    def feed(self, content: str) -> list[tuple[Kind, str]]:
        """What is certain by now, in order; no text is empty."""
        if self._state == "text":
            return [("text", content)] if content else []
        found: list[tuple[Kind, str]] = []
        self._held += content
        if self._state == "before":
            self._leave_start(found)
        if self._state == "inside":
            self._read_inside(found)
        if self._state == "behind":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "text"
                found.append(("text", self._held))
                self._held = ""
        return found

    def finish(self) -> list[tuple[Kind, str]]:
        """What was held back, when no more comes. Reasoning without its closing mark is reasoning."""
        held, self._held = self._held, ""
        kind: Kind = "reasoning" if self._state == "inside" else self._inside
        self._state = "text"
        return [(kind, held)] if held else []

    def _leave_start(self, found: list[tuple[Kind, str]]) -> None:
        start = self._held.lstrip()
        if start.startswith(self._opening):
            self._state, self._held = "inside", start[len(self._opening) :]
        elif not self._opening.startswith(start):
            if self._inside == "reasoning":
                self._state = "inside"
            else:
                self._state = "text"
                found.append(("text", self._held))
                self._held = ""

    def _read_inside(self, found: list[tuple[Kind, str]]) -> None:
        thought, closed, rest = self._held.partition(self._closing)
        if closed:
            self._state, self._held = "behind", rest
        else:
            keep = self._half_mark(thought)
            thought, self._held = thought[: len(thought) - keep], thought[len(thought) - keep :]
        if thought:
            found.append(("reasoning", thought))

    def _half_mark(self, text: str) -> int:
        """How many characters at the end of *text* may be the beginning of the closing mark."""
        longest = min(len(text), len(self._closing) - 1)
        return next((size for size in range(longest, 0, -1) if self._closing.startswith(text[-size:])), 0)
