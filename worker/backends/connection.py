"""A connection to a backend: HTTP/1.1, one request after another; each answer is pushed to who asked, as it is read.

    new or kept --ask--> asking --the answer's end--> kept, for KEEP_S
                           |  |--leave--> leaving --the answer's end, soon--> kept
                           |                 |--more than DRAIN_BYTES, DRAIN_S--> closed
                           '--drop, broken, late--> closed
Nothing here waits: a read is parsed, told to the listener and done with. llhttp does the parsing (RFC 9112).
"""

import asyncio
import errno
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import httptools

from shared.deadline import Deadline

KEEP_S = 15.0
"""So long a connection is kept that nobody needs."""
DRAIN_S, DRAIN_BYTES = 1.0, 64 << 10
"""What is still read of an answer whose rest does not matter, to keep its connection."""
MAX_HEAD_BYTES = 64 << 10
"""In reads that bring nothing of a body: headers, interim answers, trailers."""
TURN_BYTES = 24 << 10
"""So much is parsed and told in one turn of the loop, however much there is: others are waiting, and what it has brought is
on its way while the rest is parsed."""

NOTHING = memoryview(b"")


class Broken(ConnectionError):
    """The connection ended before the answer did, or what came is no HTTP."""


class Unanswered(Broken):
    """It ended ahead of the first byte of the answer."""


class Listener(Protocol):
    """Who hears one answer. What ``begun`` and ``heard`` raise ends it, and comes back by ``failed``; one of the last two
    is called once, and nothing behind it."""

    def begun(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The head is there; names are in lower case."""
        ...

    def heard(self, block: bytes) -> None:
        """All that one read brought of the body."""
        ...

    def ended(self) -> None: ...

    def failed(self, error: Exception) -> None:
        """``Broken`` (``Unanswered`` when nothing has come), ``TimeoutError`` when the deadline has passed, ``MemoryError`` when
        there was none to read with, or what this listener raised. The connection is closed."""
        ...


class Connection(asyncio.Protocol):
    """``deadline`` is the listener's while it is asked for something: when it passes, the answer has failed."""

    def __init__(self, on_kept: Callable[["Connection"], None], on_lost: Callable[["Connection"], None]) -> None:
        self.deadline = Deadline(self._late)
        self._on_kept = on_kept
        self._on_lost = on_lost
        self._listener: Listener | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._blocks: list[bytes] = []
        self.on_body = self._blocks.append  # the parser calls it: each read's pieces are put together
        self._told = False
        """The head was passed on."""
        self._framed = False
        """The body says itself where it ends; else its end is that of the connection."""
        self._complete = True
        self._keeps = True
        self._held = False
        self._rest = NOTHING
        """What was read, and is left to later turns; nothing is read until then."""
        self._due = False
        """A later turn is already to come."""
        self._dry_bytes = self._drained_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # what may as well be understood; none of it tells where a body ends
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    @property
    def open(self) -> bool:
        return not self._transport.is_closing()

    def ask(self, head: bytes, body: bytes, listener: Listener, within_s: float) -> None:
        """Send a request. To be called when nothing else is asked."""
        self._listener = listener
        self._status, self._headers = 0, {}
        self._told, self._framed, self._complete = False, False, False
        self._dry_bytes = self._drained_bytes = 0
        self.deadline.within(within_s)
        self._transport.writelines((head, body))

    def hold(self) -> None:
        """Read no more until ``go_on``."""
        self._held = True
        self._read(False)

    def go_on(self) -> None:
        self._held = False
        self._proceed()

    def leave(self) -> None:
        """The listener hears no more; if only little is left of the answer, the connection is kept."""
        self._listener = None
        self.deadline.within(DRAIN_S)

    def drop(self) -> None:
        """Close it at once, whatever is on its way; the listener hears no more."""
        self._listener = None
        self._rest = NOTHING
        self.deadline.close()
        self._transport.abort()

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("sslcontext") is not None:
            # While we do not read, TLS still takes what comes, and uvloop's drops that when the connection ends meanwhile.
            cast(Any, transport).set_read_buffer_limits(1)  # so it stops behind the first read, ahead of the end

    def data_received(self, data: bytes) -> None:
        if len(data) <= TURN_BYTES:
            self._parse(data)
        else:
            self._read(False)
            self._rest = memoryview(data)
            self._parse_some()
            self._proceed()

    def connection_lost(self, exc: Exception | None) -> None:
        while self._rest and self._listener is not None:  # it broke while we wrote
            self._parse_some()
        self._rest = NOTHING
        self._on_lost(self)
        del self._parser  # nothing comes any more, and the two hold each other
        if self._listener is None:
            self.deadline.close()
        elif exc is None and self._told and not self._framed:
            self._finish(keeps=False)
        elif isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in (errno.ENOMEM, errno.ENOBUFS)):
            self._fail(MemoryError())  # no fault of the backend
        else:
            came = self._told or self._dry_bytes
            self._fail((Broken if came else Unanswered)(f"lost: {exc or 'closed by the backend'}"))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:
            raise Broken("an answer that nobody has asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # a trailer
        name = name.lower()
        self._headers.setdefault(name, value)
        if name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
            self._framed = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        if self._status < 200 and self._status != 101:  # interim: the answer is still to come
            self._status, self._headers, self._framed = 0, {}, False
            return
        self._complete = True
        self._keeps = self._status != 101 and self._parser.should_keep_alive()

    # Its own

    def _proceed(self) -> None:
        """To the rest in the next turn, or to what comes behind it."""
        if self._held:
            return
        if not self._rest:
            self._read(True)
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        if self._rest and not self._held:
            self._parse_some()
            self._proceed()

    def _parse_some(self) -> None:
        data, rest = self._rest[:TURN_BYTES], self._rest[TURN_BYTES:]
        self._rest = rest or NOTHING  # an empty part would hold the whole
        try:
            self._parse(data)
        except Exception as error:  # noqa: BLE001 - the loop would only log it, and the answer would be waited for
            self._fail(error)

    def _parse(self, data: bytes | memoryview) -> None:
        unasked = self._complete
        if unasked:
            self.drop()
            return
        error: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as caught:
            starved = isinstance(caught.__context__, MemoryError)  # in what the parser called
            error = MemoryError() if starved else Broken(f"no HTTP: {caught}")
        block = self._take(len(data))
        if error is None and self._dry_bytes > MAX_HEAD_BYTES:
            error = Broken("headers without end")
        if not self._tell(block):
            return
        if self._complete:
            self._finish(keeps=error is None and not self._rest)
        elif error is not None:
            self._fail(error)
        elif self._drained_bytes > DRAIN_BYTES:
            self.drop()

    def _take(self, read_bytes: int) -> bytes:
        """What the read brought of the body."""
        blocks = self._blocks
        if not blocks:
            self._dry_bytes += read_bytes
            return b""
        self._dry_bytes = 0
        block = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        blocks.clear()
        return block

    def _tell(self, block: bytes) -> bool:
        """False when that has ended the exchange."""
        try:
            if self._listener is not None and not self._told and (self._status >= 200 or self._complete):
                self._told = True
                self._listener.begun(self._status, self._headers)
            if block:
                if self._listener is not None:
                    self._listener.heard(block)
                else:
                    self._drained_bytes += len(block)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is raised where the answer is awaited
            self._fail(raised)
        return self._complete or self.open

    def _finish(self, *, keeps: bool) -> None:
        listener, self._listener = self._listener, None
        if keeps and self._keeps and self.open and not self._transport.get_write_buffer_size():
            self.deadline.within(KEEP_S)
            if self._held:
                self.go_on()
            self._on_kept(self)
        else:
            self.drop()
        if listener is not None:
            listener.ended()

    def _fail(self, error: Exception) -> None:
        listener = self._listener
        self.drop()
        if listener is not None:
            listener.failed(error)

    def _late(self) -> None:
        self._fail(TimeoutError())

    def _read(self, on: bool) -> None:
        if self.open:
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
