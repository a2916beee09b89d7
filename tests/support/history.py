"""What clients saw: exchanges as they went over the wire, and all of them that are about one response."""

import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.contract import DONE, TERMINAL, parse_sse
from support.schemas import Json

INFLATE = {"gzip": 31, "deflate": 15}  # zlib's window bits
RESPONSES = "/v1/responses"


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
    sent: Any = None  # the JSON that was sent, if the client told
    key: str = ""  # the Idempotency-Key that was sent
    at: float = field(default_factory=time.monotonic)  # seconds when the answer began
    over_at: float = 0.0

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

    @property
    def starting_after(self) -> int | None:
        value = self.query.get("starting_after", [""])[-1]
        return int(value) if value.isdecimal() else None

    def content(self) -> bytes:
        coding = self.headers.get("content-encoding", "identity")
        return zlib.decompress(self.body, INFLATE[coding]) if coding in INFLATE else bytes(self.body)

    def json(self) -> Any:
        return json.loads(self.content())

    def json_or_none(self) -> Any:
        try:
            return self.json()
        except ValueError:
            return None

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        return f"{self.method} {target} -> {self.status}"


@dataclass(frozen=True)
class Stream:
    """An event stream that a client read, or began to read. `error` events are about the connection and left out."""

    exchange: Exchange
    events: list[Json]
    frames: list[bytes]  # of these events

    @property
    def final(self) -> Json | None:
        """The finished response of the terminal event, if the stream came so far."""
        response = self.events[-1].get("response") if self.events else None
        return response if isinstance(response, dict) and response.get("status") in TERMINAL else None


@dataclass(frozen=True, slots=True)
class View:
    """A response as one answer showed it, at the end of that answer."""

    exchange: Exchange
    status: str
    response: Json
    whole: bool
    """Whether it is the Response as such, without what `include` adds."""

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL


@dataclass
class History:
    """Everything that clients saw of one response, in the order in which the answers began."""

    response_id: str
    exchanges: list[Exchange] = field(default_factory=list)

    @cached_property
    def streams(self) -> list[Stream]:
        found = []
        for exchange in self.exchanges:
            if exchange.is_stream and exchange.status == 200:
                parsed = parse_sse(bytes(exchange.body), cut=True)
                pairs = [
                    pair for pair in zip(parsed.events, parsed.frames, strict=True) if pair[0].get("type") != "error"
                ]
                found.append(Stream(exchange, [event for event, _ in pairs], [frame for _, frame in pairs]))
        return found

    @cached_property
    def views(self) -> list[View]:
        """Every whole answer that shows the response, of streams their end; in the order in which they were over."""
        found = []
        for exchange in self.exchanges:
            if exchange.status != 200 or exchange.is_stream or not exchange.complete:
                continue
            body = exchange.json_or_none()
            if isinstance(body, dict) and body.get("object") == "response":
                whole = "include" not in exchange.url.partition("?")[2]
                found.append(View(exchange, str(body.get("status")), body, whole))
        found += [
            View(stream.exchange, str(response["status"]), response, whole=True)
            for stream in self.streams
            if (response := stream.final) and stream.exchange.complete
        ]
        return sorted(found, key=lambda view: view.exchange.finished)

    @property
    def creates(self) -> list[Exchange]:
        return [each for each in self.exchanges if each.method == "POST" and each.path == RESPONSES]

    @property
    def sent(self) -> Json:
        """The body of the create call; empty when no client told it."""
        return next((each.sent for each in self.creates if isinstance(each.sent, dict)), {})

    @property
    def kept(self) -> bool:
        """Whether its id can be asked for by the contract; a response that nobody saw created counts as kept."""
        return self.sent.get("store") is not False or self.sent.get("background") is True

    @property
    def deletes(self) -> list[Exchange]:
        """Deletions that were asked for, and not refused."""
        return [each for each in self.exchanges if each.method == "DELETE" and each.status in (200, 404)]

    @property
    def cancels(self) -> list[Exchange]:
        """Cancels that were answered with 200."""
        return [each for each in self.exchanges if each.path.endswith("/cancel") and each.status == 200 and each.ended]


def histories(exchanges: Iterable[Exchange]) -> dict[str, History]:
    """What was seen, by response; answers that name none are left out."""
    found: dict[str, History] = {}
    for exchange in exchanges:
        for response_id in _ids_of(exchange):
            found.setdefault(response_id, History(response_id)).exchanges.append(exchange)
    return found


def _ids_of(exchange: Exchange) -> Iterator[str]:
    if exchange.path.startswith(f"{RESPONSES}/resp_"):
        yield exchange.path.removeprefix(f"{RESPONSES}/").partition("/")[0]
    elif exchange.path == RESPONSES and exchange.status == 200:
        if exchange.is_stream:
            first = bytes(exchange.body).partition(b"\ndata: ")[2].partition(b"\n\n")
            body = _decoded(first[0]).get("response") if first[1] else None
        else:
            body = exchange.json_or_none() if exchange.complete else None
        if isinstance(body, dict) and isinstance(body.get("id"), str):
            yield body["id"]


def _decoded(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
