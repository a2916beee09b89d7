"""Large bytes that a crowd of readers holds while slow clients take them: lent up to a limit, and called back."""

import time

SLOW_S = 1.0
"""Who got rid of nothing for so long loses what it holds, once somebody else needs the room."""


class Loan:
    """``frames`` are ``None`` once they were called back."""

    __slots__ = ("at", "frames", "size")

    def __init__(self, frames: bytes) -> None:
        self.frames: bytes | None = frames
        self.size = len(frames)
        self.at = time.monotonic()

    def piece(self, at: int, size: int) -> bytes:
        """The next piece, when what came before is gone; empty at the end, or when all was called back."""
        self.at = time.monotonic()
        return self.frames[at : at + size] if self.frames is not None else b""


class Loans:
    """At most *limit_bytes* at once; one that is alone may be larger."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lent_bytes = 0
        self._loans: dict[Loan, None] = {}

    def lend(self, frames: bytes) -> Loan | None:
        """``None`` while there is no room: drop them, and wait until there is."""
        if not self.has_room(len(frames)):
            return None
        for slow in self._slow():
            if not self._fits(len(frames), self._lent_bytes, len(self._loans)):
                self.end(slow)
        loan = Loan(frames)
        self._loans[loan] = None
        self._lent_bytes += loan.size
        return loan

    def end(self, loan: Loan) -> None:
        """They are no longer needed; or no longer to be had."""
        if loan in self._loans:
            del self._loans[loan]
            self._lent_bytes -= loan.size
            loan.frames = None

    def has_room(self, size: int) -> bool:
        """Whether so much can be lent, if need be in place of what slow clients hold."""
        slow = self._slow()
        return self._fits(size, self._lent_bytes - sum(loan.size for loan in slow), len(self._loans) - len(slow))

    def _slow(self) -> list[Loan]:
        quick_since = time.monotonic() - SLOW_S
        return [loan for loan in self._loans if loan.at < quick_since]

    def _fits(self, size: int, lent_bytes: int, others: int) -> bool:
        return not others or lent_bytes + size <= self._limit_bytes
