"""Blocks of an answer that overlap upstream, as items that never do: the emitter has one item open at a time.

Blocks take turns, in the order in which they first say something:

    a block that is over       gives its turn to whoever waits
    text or reasoning          also gives it to a block that is new (llama.cpp ends all blocks at the very end)
    a call                     keeps it until its arguments are whole: half a call is of no use

What comes for a block whose turn is not, or no longer, waits, and is said when the turn is free: nothing is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.errors import UpstreamError

MAX_BLOCKS = 4096
MAX_WAITING_CHARS = 1 << 20
"""Bounds of what one answer may hold back, and so is not yet counted as output."""


class Writer(Protocol):
    """Says one block to the emitter."""

    def begin(self) -> None:
        """Its turn has come; called again when it has another one."""
        ...

    @property
    def whole(self) -> bool:
        """Whether a new block may take the turn although this one is not over."""
        ...

    def finish(self) -> None:
        """Say what is left before something else is said."""
        ...


@dataclass(slots=True, eq=False)
class Block:
    writer: Writer
    over: bool = False
    had_turn: bool = False
    waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)


class Blocks:
    """The blocks of one answer."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._current: Block | None = None
        self._waiting_chars = 0

    @property
    def silent(self) -> bool:
        """Whether nothing was said yet."""
        return self._current is None

    def open(self, writer: Writer) -> Block:
        if len(self._blocks) >= MAX_BLOCKS:
            raise UpstreamError(f"The model backend sent more than {MAX_BLOCKS} pieces of output.")
        self._blocks.append(Block(writer))
        return self._blocks[-1]

    def tell(self, block: Block, say: Callable[..., None], *arguments: Any) -> None:
        """``say(*arguments)``, at once or when its turn has come. Raises ``UpstreamError`` when too much waits."""
        if block is self._current or self._take_turn(block):
            say(*arguments)
            return
        block.waiting.append((say, arguments))
        self._waiting_chars += 1 + sum(len(one) for one in arguments if isinstance(one, str))
        if self._waiting_chars > MAX_WAITING_CHARS:
            raise UpstreamError("The model backend sent too much of several pieces of output at once.")

    def close(self, block: Block) -> None:
        """Nothing more comes for it."""
        block.over = True
        if block is self._current:
            self._free_turn()

    def finish(self) -> None:
        """The answer is over: say everything that waits."""
        for block in self._blocks:
            block.over = True
        self._free_turn()
        if self._current is not None:
            self._current.writer.finish()

    def _take_turn(self, block: Block) -> bool:
        while block is not self._current:
            current = self._current
            if current is not None and not current.over and (block.had_turn or not current.writer.whole):
                return False
            self._give_turn(next((one for one in self._blocks if one.waiting), block))
        return True

    def _free_turn(self) -> None:
        while self._current is None or self._current.over:
            waiting = next((one for one in self._blocks if one.waiting), None)
            if waiting is None:
                return
            self._give_turn(waiting)

    def _give_turn(self, block: Block) -> None:
        if self._current is not None:
            self._current.writer.finish()
        self._current, block.had_turn = block, True
        block.writer.begin()
        waiting, block.waiting = block.waiting, []
        for say, arguments in waiting:
            say(*arguments)
