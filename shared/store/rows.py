"""What the scripts are given and answer, as data."""

from dataclasses import dataclass
from typing import Literal, cast

from shared.wire.responses import Status

Lane = Literal["foreground", "background"]
PAGE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class NewResponse:
    """What submit writes. ``opening`` are the first frames (``opening_count`` of them), ``begin`` the later
    ``response.in_progress``; all empty when the response has no log. ``items`` is a JSON array."""

    id: str
    tenant: str
    lane: Lane
    inbox: str
    stream: bool
    background: bool
    store: bool
    keep_s: int
    parent: str
    request_id: str
    request: bytes
    object: bytes
    items: bytes
    created_ms: int
    opening: bytes = b""
    opening_count: int = 0
    begin: bytes = b""
    head_start_ms: int = 0
    """It queues as if it had come so much earlier."""
    conversation: str = ""
    read: tuple[int, int] = (0, 0)
    """How many batches and deleted items of the conversation were read, when its context was checked."""
    idempotency: tuple[str, str] = ("", "")
    """Hashes of the Idempotency-Key and of the body."""


Submitted = Literal["ok", "full", "capped", "parent", "conversation", "locked", "made", "reused"]


@dataclass(frozen=True, slots=True)
class Load:
    """What one partition has to do. ``ended`` (by final status) counts on for ever, or begins anew when Redis has lost
    it; ages are of the first in each lane."""

    ended: dict[str, int]
    unsettled: int
    to_pack: int
    waiting: dict[Lane, int]
    oldest_s: dict[Lane, float]

    @property
    def settled(self) -> int:
        return sum(self.ended.values())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A response as it stands. ``seq`` is the number of events so far; ``object`` the stored Response, whose status
    is overruled by ``status`` while it is not terminal."""

    status: Status
    seq: int
    stream: bool
    background: bool
    store: bool
    shown: bool
    attempt: int
    object: bytes
    place: int | None = None
    """In its queue, from 0; ``None`` unless it waits there for its first run."""
    attempts: str = ""
    """The calls to backends, as ``backend:outcome:seconds``, by commas."""

    @property
    def visible(self) -> bool:
        """Whether its id is known to anybody but the connection that created it."""
        return self.store or self.background


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of the events ``first`` to ``first + count - 1``."""

    first: int
    count: int
    frames: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A response's log behind some number, at most ``PAGE_BYTES`` (or one batch) of it. The log goes on when the last
    batch ends before ``seq``."""

    status: Status
    seq: int
    stream: bool
    visible: bool
    batches: list[Batch]

    @property
    def large(self) -> bool:
        """Whether it holds more than a page should: that is always a single batch."""
        return len(self.batches) == 1 and len(self.batches[0].frames) > PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Claimed:
    """A response that this worker runs now. ``request`` is JSON, ``items`` a JSON array; ``age_ms`` the time
    since it was submitted, by Redis' clock."""

    id: str
    attempt: int
    seq: int
    tries: int
    releases: int
    stream: bool
    age_ms: int
    request_id: str
    lane: Lane
    parent: str
    request: bytes
    items: bytes
    tenant: str
    attempts: str
    """The calls to backends of earlier executions: see `Snapshot`."""
    sticky: str
    """The backend that the turn before has come from; empty without one."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """What the reaper did or must do: see ``reap.lua``."""

    id: str
    what: Literal["pack", "requeued", "settle", "empty"]
    attempt: int
    reason: Literal["ended", "lost", "cancelled", "waited", "waiting"]


CancelAnswer = tuple[Literal["gone", "ended", "settled", "moved", "noted"], str]


def status_of(word: bytes) -> Status:
    return cast(Status, word.decode())


def claimed_of(row: list[bytes]) -> Claimed:
    response_id, attempt, seq, tries, releases, stream, age, request_id, lane, parent, request, items, *more = row
    tenant, attempts, before = (each.decode() for each in more)
    sticky = before.rpartition(",")[2].partition(":")[0]
    counts = int(attempt), int(seq), int(tries), int(releases)
    lane_name = cast(Lane, lane.decode())
    return Claimed(
        response_id.decode(), *counts, stream == b"1", int(age), request_id.decode(), lane_name,
        parent.decode(), request, items, tenant, attempts, sticky,
    )  # fmt: skip
