"""The body of one stream, block by block, to the `Answer` that is read from it."""

from shared.core.sse import SSEDecoder
from worker.translate.dialect import Answer

MAX_APART = 4
"""So many events in a row are taken one by one, to see whether those behind them can be skimmed."""


class Reading:
    """An answer skims what it can; the rest of a block it is fed event by event."""

    __slots__ = ("_answer", "_sse")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._sse = SSEDecoder()

    def feed(self, block: bytes) -> bool:
        """Whether the stream has said that it is over. Raises ``UpstreamError`` and `LineTooLong`."""
        if len(block) > self._sse.max_line_bytes:  # an event in it could be too long
            return self._feed(block)
        at = apart = 0
        while apart < MAX_APART:
            if self._sse.between_events:
                start, at = at, self._answer.skim(block, at)
                if at > start:  # all that can be skimmed: at most the end of an event or of the answer is left
                    break
            end = block.find(b"\n\n", at) + 2
            if end < 2:
                break
            if self._feed(block[at:end]):
                return True
            at = end
            apart += 1
        return at < len(block) and self._feed(block[at:] if at else block)

    def _feed(self, block: bytes) -> bool:
        for event in self._sse.feed(block):
            if event.data == b"[DONE]":
                return True
            self._answer.feed(event.data, event.event)
        return False
