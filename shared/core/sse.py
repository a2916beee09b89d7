"""Server-sent events, decoding: blocks of bytes in, events out, wherever the network cut them.

Source: the WHATWG's "Interpreting an event stream". ``id`` and ``retry`` mean nothing to us and are skipped.
"""

import msgspec

BOM = b"\xef\xbb\xbf"


class SSEEvent(msgspec.Struct, frozen=True, gc=False):
    """``event`` is empty when the stream did not name it; ``data`` are the data lines, joined by line feeds."""

    event: str
    data: bytes


class LineTooLong(ValueError):
    """A line, or the data of one event, is beyond the cap. The decoder is of no use any more."""


class SSEDecoder:
    """Is fed the body of one stream. An event without its blank line at the end of the body never happened."""

    __slots__ = (
        "_after_cr",
        "_counted",
        "_data",
        "_event",
        "_head",
        "_size_bytes",
        "_tail",
        "_tail_bytes",
        "max_line_bytes",
    )

    def __init__(self, max_line_bytes: int = 1 << 20) -> None:
        self.max_line_bytes = max_line_bytes
        self._head: bytes | None = b""  # the first bytes, until it is known whether they are a BOM
        self._after_cr = False
        self._tail: list[bytes] = []  # the line that is not over, in pieces: joined once
        self._tail_bytes = 0
        self._event = ""
        self._data: list[bytes] = []
        self._counted = self._size_bytes = 0  # lines of _data, and how much they are with their ends

    @property
    def between_events(self) -> bool:
        """Whether what comes next begins an event."""
        return self._head is None and not (self._tail or self._data or self._event or self._after_cr)

    def feed(self, block: bytes) -> list[SSEEvent]:
        """The events that *block* completes. Raises `LineTooLong`."""
        if self._head is not None:
            block = self._without_bom(block)
        if self._after_cr or b"\r" in block:
            block = self._with_lf(block)
        whole, found, rest = block.rpartition(b"\n")
        events: list[SSEEvent] = []
        if found:
            if self._tail:
                whole = b"".join(self._tail) + whole
                self._tail.clear()
                self._tail_bytes = 0
            events = self._read(whole.split(b"\n"))
        if rest:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
            if self._tail_bytes > self.max_line_bytes:
                raise LineTooLong(f"a line of more than {self.max_line_bytes} bytes")
        return events

    def _read(self, lines: list[bytes]) -> list[SSEEvent]:
        events: list[SSEEvent] = []
        data, most = self._data, self.max_line_bytes - len(b"data: ")
        for line in lines:
            if line[:6] == b"data: ":  # all but a few
                data.append(line[6:])
            elif not line:
                if data:
                    joined = data[0] if len(data) == 1 else b"\n".join(data)
                    if len(joined) > most:
                        raise LineTooLong(f"an event of more than {self.max_line_bytes} bytes")
                    events.append(SSEEvent(self._event, joined))
                    data.clear()
                    self._counted = self._size_bytes = 0
                self._event = ""
            else:
                self._read_field(line)
        if data:  # the event goes on in a later block
            self._size_bytes += sum(len(line) + 1 for line in data[self._counted :])
            self._counted = len(data)
            if self._size_bytes - 1 > most:
                raise LineTooLong(f"an event of more than {self.max_line_bytes} bytes")
        return events

    def _read_field(self, line: bytes) -> None:
        if len(line) > self.max_line_bytes:
            raise LineTooLong(f"a line of more than {self.max_line_bytes} bytes")
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")

    def _without_bom(self, block: bytes) -> bytes:
        block = (self._head or b"") + block
        if len(block) < len(BOM) and BOM.startswith(block):
            self._head = block
            return b""
        self._head = None
        return block.removeprefix(BOM)

    def _with_lf(self, block: bytes) -> bytes:
        """All line ends as LF. A CR ends its line at once; an LF right behind it, also in the next block, is its other half."""
        if not block:
            return block
        if self._after_cr:
            block = block.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = block.endswith(b"\r")
        return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
