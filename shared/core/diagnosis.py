"""What `respool doctor` says of a snapshot: what is stuck or odd, and what will happen to it, and when. Pure."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from shared.core.admission import FULL_SHARE
from shared.core.lifecycle import MAX_CRASHES, SCHEMA

LONG_S = 60.0
"""Who waits longer in the queue is told of."""
SOON_S = 5.0
"""So long an entry may wait although there are free slots: claims take turns, and bells can be lost."""
SILENT_S = 3.0
"""Every process signs once a second."""
NEAR_SHARE = 0.75
"""Of ``maxmemory``."""


class Case(NamedTuple):
    """An unsettled response. ``due_s``: from now until somebody must look at it (below 0: since); ``waits_s``: for how
    long it has been free to be claimed (below 0: it waits for its next try so much longer)."""

    id: str
    version: int
    status: str
    owner: str
    lane: str
    attempt: int
    crashes: int
    shown: bool
    cancel: bool
    due_s: float
    waits_s: float
    queued: bool
    readable: bool
    """Its request is there."""


class Process(NamedTuple):
    """One that reads its inbox. ``alive``: its heartbeat is there, too."""

    name: str
    alive: bool
    held: int = 0
    slots: int = 0
    draining: bool = False

    @property
    def works(self) -> bool:
        return self.name.startswith("w-")


class Backlog(NamedTuple):
    """What waits to be sent to an endpoint of webhooks."""

    endpoint: str
    waiting: int
    overdue: int
    """They should have been tried a minute ago."""
    failing: int
    """They have failed, and the next attempt is minutes away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A snapshot. Lists are cut to a bound; ``unsettled`` and ``waiting`` count all."""

    cases: Sequence[Case] = ()
    strays: Sequence[tuple[str, str]] = ()
    """Queue entries without a response that waits: id, lane."""
    unsettled: int = 0
    waiting: int = 0
    oldest_s: float = 0.0
    overdue_packs: int = 0
    """Ended responses that should have been packed a minute ago."""
    tick_s: float | None = None
    """Since a process last signed; ``None``: none has for a day."""
    grace_s: float = 0.0
    """Redis was away: so long no lease counts as over."""
    processes: Sequence[Process] = ()
    used_bytes: int = 0
    max_bytes: int = 0
    webhooks: Sequence[Backlog] = ()


class Limits(NamedTuple):
    """The settings that decide what comes next."""

    max_queue: int
    max_queue_s: float


class Trouble(NamedTuple):
    """``what`` is a word for programs, ``about`` an id or a name."""

    what: str
    about: str
    message: str


def diagnose(survey: Survey, limits: Limits) -> list[Trouble]:
    """Everything odd, what concerns all first. Empty: healthy."""
    workers = [each for each in survey.processes if each.works and each.alive]
    when = "now" if workers else "as soon as a worker runs"
    if survey.grace_s > 0 and workers:
        when = f"in {survey.grace_s:.0f} s (Redis was away, so leases get more time)"
    alive = {each.name for each in survey.processes if each.alive}
    return [
        *_processes(survey, workers),
        *_store(survey),
        *_queue(survey, workers, limits),
        *_webhooks(survey),
        *(trouble for case in survey.cases if (trouble := _case(case, alive, when, limits))),
        *(
            Trouble("stray_entry", response_id, f"is in the queue {lane}, but is no response that waits: the next claim drops it")
            for response_id, lane in survey.strays
        ),
    ]  # fmt: skip


def _processes(survey: Survey, workers: Sequence[Process]) -> Iterator[Trouble]:
    if not workers:
        yield Trouble(
            "no_workers", "", "no worker runs: nothing is run, and nothing that is stuck is settled, until one does"
        )
    elif all(each.draining for each in workers):
        yield Trouble("no_workers", "", "all workers are draining: what waits is run when another one has started")
    if not any(not each.works and each.alive for each in survey.processes):
        yield Trouble(
            "no_front_ends", "", "no front end runs: nobody can create, read or follow responses until one does"
        )
    for each in survey.processes:
        if not each.alive:
            yield Trouble(
                "silent_process",
                each.name,
                "is connected, but gives no sign of life (frozen, blocked, or Redis refuses to write): what it runs is taken from it when its leases are over",
            )
    if survey.tick_s is not None and survey.tick_s > SILENT_S and survey.processes:
        yield Trouble("no_ticks", "", f"no front end has signed for {survey.tick_s:.0f} s, though they do every second")


def _store(survey: Survey) -> Iterator[Trouble]:
    if survey.max_bytes and survey.used_bytes >= NEAR_SHARE * survey.max_bytes:
        share = survey.used_bytes / survey.max_bytes
        then = "new work is refused" if share >= FULL_SHARE else f"new work is refused at {FULL_SHARE:.0%}"
        yield Trouble(
            "memory",
            "",
            f"Redis uses {share:.0%} of its maxmemory: {then}, until responses expire or maxmemory is raised",
        )
    if survey.overdue_packs:
        yield Trouble(
            "pack_backlog",
            "",
            f"{survey.overdue_packs} ended responses should have been packed a minute ago: they take more memory until workers get to them",
        )


def _queue(survey: Survey, workers: Sequence[Process], limits: Limits) -> Iterator[Trouble]:
    free = sum(max(0, each.slots - each.held) for each in workers if not each.draining)
    if survey.waiting >= limits.max_queue:
        yield Trouble(
            "queue_full",
            "",
            f"{survey.waiting} responses wait: new ones are refused with 503 below max_queue ({limits.max_queue}) only",
        )
    if survey.waiting and free and survey.oldest_s > SOON_S:
        yield Trouble(
            "idle_workers",
            "",
            f"{survey.waiting} responses wait, the first for {survey.oldest_s:.0f} s, though workers have {free} free slots: look at their logs (redis.unavailable, loop.lagged)",
        )


def _webhooks(survey: Survey) -> Iterator[Trouble]:
    for endpoint, waiting, overdue, failing in survey.webhooks:
        if overdue:
            yield Trouble(
                "webhook_backlog",
                endpoint,
                f"{waiting} events wait to be sent, {overdue} of them for more than a minute: no worker has this endpoint in its configuration, or it takes them more slowly than they come",
            )
        if failing:
            yield Trouble(
                "webhook_failing",
                endpoint,
                f"{waiting} events wait to be sent, {failing} of them failed and the next attempt is minutes away (look for webhook.failed in the logs): they are tried at least once an hour, for 72 h or as long as their responses are kept",
            )


def _case(case: Case, alive: Set[str], when: str, limits: Limits) -> Trouble | None:
    if case.version > SCHEMA:
        return Trouble(
            "newer_record",
            case.id,
            f"was written by a newer version (v {case.version}, this one knows {SCHEMA}): only processes of that version touch it",
        )
    if case.owner:
        return _running(case, alive, when)
    if not case.readable:
        return Trouble("no_request", case.id, "its stored request is gone: it ends as failed when it is claimed")
    if case.waits_s > limits.max_queue_s:
        return Trouble(
            "queued_too_long",
            case.id,
            f"has waited for {case.waits_s:.0f} s, longer than max_queue_s: it ends as failed {_at(case, when)}",
        )
    if case.queued:
        if case.waits_s <= LONG_S:
            return None
        left_s = limits.max_queue_s - case.waits_s
        return Trouble(
            "queued_long",
            case.id,
            f"has waited in the queue {case.lane} for {case.waits_s:.0f} s: it runs when a worker gets to it, and ends as failed in {left_s:.0f} s",
        )
    if case.waits_s < 0:  # for its next try, as it should
        return None
    return Trouble("unqueued", case.id, f"neither runs nor stands in a queue: it is put back {_at(case, when)}")


def _running(case: Case, alive: Set[str], when: str) -> Trouble | None:
    if case.cancel:
        then = "it ends as cancelled"
    elif case.shown:
        then = "it ends as failed with its partial output, because some of it was seen"
    elif case.crashes + 1 >= MAX_CRASHES:
        then = "it ends as failed, because it has lost a worker before"
    else:
        then = "it runs again, because nobody has seen output"
    if case.due_s < 0:
        return Trouble(
            "lease_over", case.id, f"its lease ({case.owner}) has been over for {-case.due_s:.1f} s: {then}, {when}"
        )
    if case.owner not in alive:
        return Trouble(
            "owner_gone",
            case.id,
            f"its owner {case.owner} gives no sign of life: {then}, when its lease is over in {case.due_s:.1f} s",
        )
    return None


def _at(case: Case, when: str) -> str:
    return f"in {case.due_s:.0f} s" if case.due_s > 0 and when == "now" else when
