"""The texts of chunks that are alike but for their text, found without reading the rest of them.

A server writes the same bytes around each piece of an answer. Once it is known which, the piece is what stands between
them, read as one JSON string: either that is all that differs, and so it is exactly what decoding the whole chunk would
give, or it cannot be read, and the chunk has to be decoded.
"""

from collections.abc import Callable

import msgspec

MAX_LEARNED = 8
"""Some servers write something else into each chunk: there is nothing to learn from them."""
_NAME = b'"content":'
_PROBE = "\x01 another text"

_decode = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class TextSlot:
    """*read_text* decodes a chunk and gives its text, when it says nothing else; else an empty text."""

    __slots__ = ("_after", "_before", "_edge", "_learned", "_read_text")

    def __init__(self, read_text: Callable[[bytes], str]) -> None:
        self._read_text = read_text
        self._before = self._after = b""
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

    def learn(self, data: bytes, text: str) -> None:
        """Take what stands around *text*, all that the chunk *data* says, for what stands around the next one."""
        if self._learned == MAX_LEARNED:
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
