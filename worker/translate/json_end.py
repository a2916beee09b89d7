"""Tells when JSON that comes in fragments is whole."""

import re

_MARKS = re.compile(r'[{}\[\]"\\]')


class JsonEnd:
    """Finds the end of one JSON object or array that comes in fragments."""

    def __init__(self) -> None:
        self.reached = False
        self._depth = 0
        self._inside = False  # a text
        self._escaped_at_edge = False

    def feed(self, fragment: str) -> None:
        skip = 0 if self._escaped_at_edge and fragment else -1
        self._escaped_at_edge = self._escaped_at_edge and not fragment
        for mark in _MARKS.finditer(fragment):
            if mark.start() == skip or self.reached:
                continue
            sign = mark.group()
            if self._inside:
                if sign == "\\":
                    skip = mark.end()
                    self._escaped_at_edge = skip == len(fragment)
                elif sign == '"':
                    self._inside = False
            elif sign == '"':
                self._inside = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
                self.reached = self._depth <= 0
