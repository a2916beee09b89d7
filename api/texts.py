"""Frames of the log to WebSocket text messages, by cutting bytes: nothing is decoded (RFC 6455, section 5.2).

An event is one message. A long one goes out in fragments, and so does one that comes in pieces: whatever its size, no
more than a piece of it is held.
"""

from collections.abc import Iterator

FRAGMENT_BYTES = 64 << 10
TEXT, CONTINUATION, FINAL = 0x1, 0x0, 0x80
ENDS = {b"response.completed": "completed", b"response.incomplete": "incomplete", b"response.failed": "failed"}
_EVENT, _DATA, _END = b"event: ", b"\ndata: ", b"\n\n"
HELD_BYTES = len(b"}\n\n")
"""May be the end of an event, which is not its end where a ``stream_id`` is put in."""


class Texts:
    """One response's events, each with its ``stream_id`` if there is one."""

    def __init__(self, stream_id: str = "", *, keep_bytes: int = 0) -> None:
        """The last event is kept as ``last`` if it is not larger than *keep_bytes*."""
        self.open = False
        """A message has begun and not ended: nothing but its rest may be sent."""
        self.ended = ""
        """The status that the last event tells, once it has been fed."""
        self.last = bytearray()
        self._foot = b',"stream_id":"%b"}' % stream_id.encode() if stream_id else b"}"
        self._keep_bytes = keep_bytes
        self._rest = b""
        self._kind = b""
        self._fresh = False

    def feed(self, data: bytes) -> list[bytes]:
        """What is to be written for more of the log. Each member holds whole WebSocket frames, about ``FRAGMENT_BYTES``."""
        data = self._rest + data if self._rest else data
        frames: list[bytes] = []
        at = 0
        while True:
            if not self.open:
                head = data.find(_DATA, at)
                if head < 0:
                    break
                self._kind = data[at + len(_EVENT) : head]
                at = head + len(_DATA)
                self.open = self._fresh = True
            end = data.find(_END, at)
            if end < 0:
                held = max(at, len(data) - HELD_BYTES)
                if held > at:
                    self._keep(data[at:held])
                    frames += self._frames(data[at:held], final=False)
                at = held
                break
            self._keep(data[at:end])
            frames += self._frames(data[at : end - 1] + self._foot, final=True)
            at, self.open = end + len(_END), False
            self.ended = ENDS.get(self._kind, "")
        self._rest = data[at:]
        return frames if len(frames) < 2 else list(_joined(frames))

    def _keep(self, text: bytes) -> None:
        if self._keep_bytes and self._kind in ENDS:
            self.last += text
            if len(self.last) > self._keep_bytes:
                self.last, self._keep_bytes = bytearray(), 0

    def _frames(self, text: bytes, *, final: bool) -> Iterator[bytes]:
        for start in range(0, len(text), FRAGMENT_BYTES):
            part = text[start : start + FRAGMENT_BYTES]
            is_last = final and start + FRAGMENT_BYTES >= len(text)
            yield frame_head(len(part), opcode=TEXT if self._fresh else CONTINUATION, final=is_last) + part
            self._fresh = False


def message(text: bytes) -> list[bytes]:
    """The frames of one whole message, as ``Texts.feed`` would give them."""
    return Texts().feed(b"%b%b%b%b" % (_EVENT, _DATA, text, _END))


def frame_head(size: int, *, opcode: int, final: bool) -> bytes:
    """What a server puts before the payload of a frame: no mask, no extension."""
    first = opcode | (FINAL if final else 0)
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


def _joined(frames: list[bytes]) -> Iterator[bytes]:
    """*frames* in as few pieces as possible, of not much more than ``FRAGMENT_BYTES``."""
    some: list[bytes] = []
    size = 0
    for each in frames:
        some.append(each)
        size += len(each)
        if size >= FRAGMENT_BYTES:
            yield b"".join(some)
            some, size = [], 0
    if some:
        yield b"".join(some)
