"""Keeps what went over the wire during one test, and judges all of it at the end."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

from support.checker import judge_exchanges
from support.history import Exchange


class Recorder:
    """All exchanges of one test, in the order in which their answers began."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._ticks = itertools.count(1)

    def tick(self) -> int:
        """The time on the recorder's own clock; a request takes one before it is sent."""
        return next(self._ticks)

    def begin(
        self,
        method: str,
        url: str,
        status: int,
        headers: Mapping[str, str],
        started: int,
        *,
        sent: Any = None,
        key: str = "",
    ) -> Exchange:
        """A new exchange, to which the caller adds the body and whose end it notes with `finish`."""
        lower = {name.lower(): value for name, value in headers.items()}
        exchange = Exchange(method.upper(), url, status, lower, started, sent=sent, key=key)
        self.exchanges.append(exchange)
        return exchange

    def finish(self, exchange: Exchange, *, ended: bool) -> None:
        """The body is over: by the server's word (`ended`), or because someone hung up. Only the first call counts."""
        if not exchange.finished:
            exchange.finished = self.tick()
            exchange.over_at = time.monotonic()
            exchange.ended = ended

    def violations(self) -> list[str]:
        """Everything wrong with any exchange by itself, and with what several of them say about one response."""
        return [str(violation) for violation in judge_exchanges(self.exchanges)]
