"""The texts of chunks that are alike but for their text, found without reading the rest of them.

A server writes the same bytes around each piece of an answer. Once it is known which, the piece is what stands between
them, read as one JSON string: either that is all that differs, and so it is exactly what decoding the whole chunk would
give, or it cannot be read, and the chunk has to be decoded. The same goes for many such chunks in a row, with the bytes
of their server-sent events around them.
"""

from collections.abc import Callable

import msgspec

MAX_LEARNED = 8
"""Some servers write something else into each chunk: there is nothing to learn from them."""
_NAME = b'"content":'
_BETWEEN = b"\n\n"
_PROBE = "\x01 another text"

_DECODER = msgspec.json.Decoder(str)
_decode, _decode_lines = _DECODER.decode, _DECODER.decode_lines
_encode = msgspec.json.Encoder().encode


class TextSlot:
    """*read_text* decodes a chunk and gives its text, when it says nothing else; else an empty text."""

    __slots__ = ("_after", "_before", "_between", "_edge", "_foot", "_head", "_learned", "_read_text")

    def __init__(self, read_text: Callable[[bytes], str]) -> None:
        self._read_text = read_text
        self._before = self._after = b""
        self._head = self._between = self._foot = b""  # around the texts of a block
        self._edge = 0
        self._learned = 0

    def find(self, data: bytes) -> str:
        """The text of a chunk; empty when it has to be decoded."""
        edge = self._edge
        if edge and data.startswith(self._before) and data.endswith(self._after):
            try:
                return _decode(data[edge : len(data) - len(self._after) + 1])
            except ValueError:
                pass  # it holds more than a text, or something that is none
        return ""

    def find_run(self, block: bytes, at: int) -> tuple[list[str], int]:
        """The texts of the whole chunks in *block* from *at* on, where an event begins, and where the last of them ends.
        None, and *at*, when the first has to be decoded, or one between others."""
        if not self._edge or not block.startswith(self._head, at):
            return [], at
        last = block.rfind(self._foot, at)
        if last < 0:
            return [], at
        end = last + len(self._foot)
        if block.find(_BETWEEN, at) == end - len(_BETWEEN):  # it stands alone
            try:
                return [_decode(block[at + len(self._head) - 1 : last + 1])], end
            except ValueError:
                return [], at
        run = block[at:end]
        edge, rest = len(self._head), len(self._foot) - len(_BETWEEN)
        pieces = [event[edge:-rest] for event in run[: -len(_BETWEEN)].split(_BETWEEN)]
        if self._head + self._between.join(pieces) + self._foot != run:
            return [], at
        try:
            # A line end cannot be part of a JSON string: as many strings as pieces means that each piece is one.
            texts = _decode_lines(b'"%b"' % b'"\n"'.join(pieces))
        except ValueError:
            return [], at
        return (texts, end) if len(texts) == len(pieces) else ([], at)

    def learn(self, data: bytes, text: str) -> None:
        """Take what stands around *text*, all that the chunk *data* says, for what stands around the next one."""
        if self._learned == MAX_LEARNED or b"\n" in data:  # of several lines, each with a name of its own
            return
        self._learned += 1
        start = data.find(_NAME) + len(_NAME)
        start += data[start : start + 1] == b" "
        written = _encode(text)
        if data[start : start + len(written)] != written:
            return
        before, after = data[: start + 1], data[start + len(written) - 1 :]
        if self._read_text(before[:-1] + _encode(_PROBE) + after[1:]) == _PROBE:
            self._before, self._after, self._edge = before, after, start
            self._head, self._foot = b"data: " + before, after + b"\n\n"
            self._between = self._foot + self._head
