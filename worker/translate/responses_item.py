"""One item of another server's answer: what was said of it, and how it becomes an item of ours."""

from typing import Any, Literal

from shared.core.emitter import Emitter
from worker.translate.blocks import Block, Blocks
from worker.translate.responses_events import Theirs, read_annotation
from worker.translate.writers import CallWriter, ReasoningWriter, TextWriter

Kind = Literal["message", "reasoning", "call"]
Way = Literal["text", "refusal", "reasoning", "summary", "arguments", "input"]
Writers = TextWriter | ReasoningWriter | CallWriter


class Upstream:
    """One item of theirs, and what was said of it. Without a kind it is left out of the answer."""

    def __init__(self, kind: Kind | None, writer: Writers | None, blocks: Blocks, added: Theirs) -> None:
        """*added* is how the item was when it was told of: some say nothing more of it."""
        self.kind = kind
        self.added: Theirs | None = added if kind is not None else None
        self.over = False
        self._writer = writer
        self._blocks = blocks
        self._block: Block | None = None if writer is None else blocks.open(writer)
        self._said: dict[tuple[str, int], list[str]] = {}
        self._part: tuple[str, int] | None = None
        self._kept = False

    @property
    def text(self) -> str:
        """All that a message or a call said."""
        return "".join(piece for (way, _), pieces in self._said.items() if way != "cited" for piece in pieces)

    def said(self, way: Way, part: int) -> str:
        return "".join(self._said.get((way, part), ()))

    def say(self, way: Way, part: int, text: str, logprobs: Any = ()) -> None:
        if self._block is None or (not text and self.kind != "call"):
            return
        self._said.setdefault((way, part), []).append(text)
        self._blocks.tell(self._block, self._say, way, part, text, logprobs)

    def cite(self, annotation: Any, emit: Emitter) -> None:
        raw = read_annotation(annotation)
        cited = None if raw is None else bytes(raw).decode()
        if self._block is None or cited is None or cited in self._said.setdefault(("cited", 0), []):
            return
        self._said["cited", 0].append(cited)
        self._blocks.tell(self._block, emit.annotation, raw)

    def keep(self, sealed: str) -> None:
        if self._block is not None and isinstance(self._writer, ReasoningWriter) and not self._kept:
            self._kept = True
            self._blocks.tell(self._block, self._writer.state, sealed)

    def close(self) -> None:
        self.over = True
        if self._block is not None:
            self._blocks.close(self._block)

    def _say(self, way: Way, part: int, text: str, logprobs: Any) -> None:
        writer = self._writer
        if isinstance(writer, CallWriter):
            writer.feed(text)
            return
        if writer is None:
            return
        if self._part is not None and self._part[0] == way and self._part != (way, part):
            writer.next_part()
        self._part = (way, part)
        if isinstance(writer, ReasoningWriter):
            (writer.raw if way == "reasoning" else writer.summary)(text)
        else:
            if way == "refusal":
                writer.refusal(text)
            else:
                writer.text(text, logprobs)
