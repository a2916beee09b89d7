"""Keeps what went over the wire during one test, and judges all of it at the end."""

import itertools
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.contract import DONE, TERMINAL, check_answer, check_error_answer, check_stream, parse_sse
from support.schemas import Json

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
INFLATE = {"gzip": 31, "deflate": 15}  # zlib's window bits


@dataclass(slots=True)
class Exchange:
    """One request and its answer. `started` and `finished` are ticks of one clock of the recorder."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str]  # names in lower case
    started: int
    finished: int = 0
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False  # the server said that the body is over; otherwise the client left or the connection broke

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.url).query)

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_stream(self) -> bool:
        return self.content_type == "text/event-stream"

    @property
    def complete(self) -> bool:
        """Whether the body is all there; official clients hang up right after [DONE]."""
        return self.ended or (self.is_stream and self.body.endswith(DONE))

    def content(self) -> bytes:
        coding = self.headers.get("content-encoding", "identity")
        return zlib.decompress(self.body, INFLATE[coding]) if coding in INFLATE else bytes(self.body)

    def json(self) -> Any:
        return json.loads(self.content())

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        return f"{self.method} {target} -> {self.status}"


class Recorder:
    """All exchanges of one test, in the order in which their answers began."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._ticks = itertools.count(1)

    def tick(self) -> int:
        """The time on the recorder's own clock; a request takes one before it is sent."""
        return next(self._ticks)

    def begin(self, method: str, url: str, status: int, headers: Mapping[str, str], started: int) -> Exchange:
        """A new exchange, to which the caller adds the body and whose end it notes with `finish`."""
        lower = {name.lower(): value for name, value in headers.items()}
        exchange = Exchange(method.upper(), url, status, lower, started)
        self.exchanges.append(exchange)
        return exchange

    def finish(self, exchange: Exchange, *, ended: bool) -> None:
        """The body is over: by the server's word (`ended`), or because someone hung up. Only the first call counts."""
        if not exchange.finished:
            exchange.finished = self.tick()
            exchange.ended = ended

    def violations(self) -> list[str]:
        """Everything wrong with any exchange by itself, and with what several of them say about one response."""
        found = [f"{exchange}: {line}" for exchange in self.exchanges for line in check_exchange(exchange)]
        return [*found, *_differing_frames(self.exchanges), *_changed_endings(self.exchanges)]


def check_exchange(exchange: Exchange) -> list[str]:
    """Violations of one answer, whatever it is."""
    found = [] if exchange.headers.get("x-request-id") else ["no x-request-id header"]
    if exchange.is_stream:
        return [*found, *_check_stream(exchange)]
    if not exchange.ended or not exchange.path.startswith("/v1/") or exchange.method == "HEAD":
        return found
    if exchange.status == 204 and not exchange.body:
        return found
    if exchange.content_type != "application/json":
        return [*found, f"content type is {exchange.content_type!r}, not JSON: {bytes(exchange.body[:120])!r}"]
    try:
        body = exchange.json()
    except ValueError as error:
        return [*found, f"body is not JSON ({error}): {bytes(exchange.body[:120])!r}"]
    if exchange.status >= 400:
        return [*found, *check_error_answer(exchange.status, exchange.headers, body)]
    if exchange.path.startswith("/v1/responses") and exchange.status != 200:
        found.append(f"success is always HTTP 200, not {exchange.status}")
    return [*found, *check_answer(exchange.path, body)]


def _check_stream(exchange: Exchange) -> Iterator[str]:
    if exchange.status != 200:
        yield f"a stream with HTTP {exchange.status}"
    for name, value in STREAM_HEADERS.items():
        if value not in exchange.headers.get(name, ""):
            yield f"header {name} is {exchange.headers.get(name)!r}, wanted {value!r}"
    if exchange.headers.get("content-encoding", "identity") != "identity":
        yield "a stream must not be compressed"
    cut = not exchange.complete
    parsed = parse_sse(bytes(exchange.body), cut=cut)
    yield from parsed.violations
    yield from check_stream(parsed.events, _starting_after(exchange), cut=cut)


def _starting_after(exchange: Exchange) -> int | None:
    value = exchange.query.get("starting_after", [""])[-1]
    return int(value) if value.isdecimal() else None


def _response_id(exchange: Exchange, events: list[Json]) -> str | None:
    for event in events:
        if isinstance(response := event.get("response"), dict):
            return str(response.get("id"))
    head, _, last = exchange.path.rpartition("/")
    return last if head == "/v1/responses" else None


def _differing_frames(exchanges: list[Exchange]) -> Iterator[str]:
    """Two streams of one response show other bytes under the same number."""
    known: dict[tuple[str | None, Any], tuple[bytes, Exchange]] = {}
    for exchange in exchanges:
        if not exchange.is_stream:
            continue
        parsed = parse_sse(bytes(exchange.body), cut=True)
        response_id = _response_id(exchange, parsed.events)
        for event, frame in zip(parsed.events, parsed.frames, strict=True):
            if event.get("type") == "error":
                continue  # is about this connection alone
            number = event.get("sequence_number")
            before, other = known.setdefault((response_id, number), (frame, exchange))
            if before != frame:
                yield f"{exchange}: event {number} of {response_id} is {frame!r}, in {other} it was {before!r}"
                break


def _changed_endings(exchanges: list[Exchange]) -> Iterator[str]:
    """A GET shows a finished response otherwise than a stream or an answer that ended before it was asked."""
    endings = [(exchange, response) for exchange in exchanges if (response := _ending(exchange))]
    reads = [exchange for exchange in exchanges if _is_read(exchange)]
    for read in reads:
        shown = read.json()
        for exchange, response in endings:
            if exchange.finished < read.started and response["id"] == shown.get("id") and response != shown:
                keys = sorted(key for key in {**response, **shown} if response.get(key) != shown.get(key))
                pairs = "; ".join(f"{key}: {response.get(key)!r} became {shown.get(key)!r}" for key in keys)
                yield f"{read}: the finished response differs from the one in {exchange}: {pairs}"
                break


def _ending(exchange: Exchange) -> Json | None:
    """The finished Response that an exchange showed, if it did."""
    if exchange.status != 200 or not exchange.complete:
        return None
    if exchange.is_stream:
        events = parse_sse(bytes(exchange.body), cut=True).events
        response = events[-1].get("response") if events else None
    else:
        response = _json_or_none(exchange)
    if not isinstance(response, dict) or response.get("object") != "response":
        return None
    return response if response.get("status") in TERMINAL else None


def _is_read(exchange: Exchange) -> bool:
    """Whether it is a GET that shows a whole Response; what `include[]` asks for may be shown additionally."""
    if exchange.method != "GET" or exchange.status != 200 or not exchange.complete or exchange.is_stream:
        return False
    body = _json_or_none(exchange)
    return (
        isinstance(body, dict) and body.get("object") == "response" and "include" not in exchange.url.partition("?")[2]
    )


def _json_or_none(exchange: Exchange) -> Any:
    try:
        return exchange.json()
    except ValueError:
        return None
