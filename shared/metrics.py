"""What processes count, and how it is shown: docs/metrics.md lists every name.

Each process counts for itself and tells what it has in its heartbeat (``Report``), so workers need no port, and whichever
front end is asked shows all of them, told apart by the label ``process``. Named log events are counted where they are
logged (``shared/logs.py``), whatever the log level; nothing is counted per event of a stream, and no label has a value
that a client can choose.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

TELL_S = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

REGISTRY = CollectorRegistry()
EVENTS_TOTAL = Counter(
    "respool_events", "Named log events (docs/logs.md), whatever the log level.", ["event"], registry=REGISTRY
)
REFUSED = Counter("respool_refused", "New work that was refused, by reason.", ["reason"], registry=REGISTRY)
REAPED = Counter(
    "respool_reaped", "Responses settled in place of their worker, by reason.", ["reason"], registry=REGISTRY
)
REQUESTS = Counter(
    "respool_http_requests",
    "Answers to HTTP requests, by status; open paths are not counted.",
    ["status"],
    registry=REGISTRY,
)
TURNS = Counter(
    "respool_turns", "Turns over WebSockets, by the status that a POST would have had.", ["status"], registry=REGISTRY
)
CALLS = Counter(
    "respool_upstream_calls",
    "Calls to model backends, by backend and outcome.",
    ["backend", "outcome"],
    registry=REGISTRY,
)
TOKENS = Counter("respool_tokens", "Tokens that backends reported, in and out.", ["direction"], registry=REGISTRY)
WEBHOOKS = Counter(
    "respool_webhooks",
    "Attempts to deliver webhooks, by endpoint and outcome.",
    ["endpoint", "outcome"],
    registry=REGISTRY,
)
QUEUED = Histogram("respool_queue_seconds", "From submission to the first claim.", buckets=SECONDS, registry=REGISTRY)
FIRST = Histogram(
    "respool_first_output_seconds",
    "From submission to the first output of a stream.",
    buckets=SECONDS,
    registry=REGISTRY,
)
RUN = Histogram("respool_run_seconds", "From a claim to the end of that run.", buckets=SECONDS, registry=REGISTRY)
COUNTED_BY: Mapping[str, tuple[Counter, str]] = {
    "response.refused": (REFUSED, "reason"),
    "response.reaped": (REAPED, "reason"),
    "request.served": (REQUESTS, "status"),
    "turn.served": (TURNS, "status"),
}
"""Events that are counted once more, by the value of a field that has few."""

GAUGES: Mapping[str, tuple[str, str]] = {
    "respool_settled_total": (
        "status",
        "Responses that have ended, by final status: counted in Redis, each once; begins anew when Redis loses it.",
    ),
    "respool_queue_depth": ("lane", "Responses that wait for a worker."),
    "respool_queue_oldest_seconds": ("lane", "How long ago the first in the queue was accepted."),
    "respool_unsettled": ("", "Accepted responses that have not ended."),
    "respool_running": ("", "Responses that workers run now."),
    "respool_slots": ("", "Responses that the living workers can run at once."),
    "respool_pack_backlog": ("", "Ended responses that are still to be made small."),
    "respool_processes": ("room", "Living processes."),
    "respool_redis_used_bytes": ("", "Memory that Redis uses."),
    "respool_redis_max_bytes": ("", "Redis' `maxmemory`; 0: no limit."),
}
"""The label, and what the asked front end knows of the whole: all show the same, so take ``max`` of them, not ``sum``."""

Sample = tuple[str, dict[str, str], float]
_decode = msgspec.json.Decoder(list[Sample]).decode


def preset(events: Iterable[str]) -> None:
    """Show *events* from the start, as 0: else the first of each would not be seen as an increase."""
    for event in events:
        EVENTS_TOTAL.labels(event)


def count(event: str, fields: Mapping[str, object]) -> None:
    labelled(EVENTS_TOTAL, event).inc()
    if event in COUNTED_BY:
        counter, field = COUNTED_BY[event]
        labelled(counter, str(fields.get(field))).inc()


@functools.cache
def labelled(counter: Counter, *values: str) -> Counter:
    """What counts these values of its labels: to find it costs more than to count."""
    return counter.labels(*values)


def samples() -> list[Sample]:
    """All that this process has counted."""
    found = (sample for family in REGISTRY.collect() for sample in family.samples)
    return [(each.name, each.labels, each.value) for each in found if not each.name.endswith("_created")]


def read_report(told: bytes) -> list[Sample]:
    """What another process has told; nothing when it cannot be read (a newer version may tell otherwise)."""
    try:
        return _decode(told)
    except msgspec.MsgspecError:
        return []


class Report:
    """What goes into a heartbeat: everything, but only every ``TELL_S``, because heartbeats go into Redis' log."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due = 0.0

    def fields(self) -> dict[str, int | bytes]:
        now = self._clock()
        if now < self._due:
            return {}
        self._due = now + TELL_S
        return {"metrics": msgspec.json.encode(samples())}


class _Shown(Collector):
    def __init__(self, processes: Mapping[str, list[Sample]], gauges: Mapping[str, Mapping[str, float]]) -> None:
        self._processes = processes
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        families = {
            family.name: Metric(family.name, family.documentation, family.type) for family in REGISTRY.collect()
        }
        for process, told in self._processes.items():
            for name, labels, value in told:
                family = families.get(name) or families.get(name.rpartition("_")[0])
                if family is not None:
                    family.add_sample(name, {"process": process, **labels}, value)
        yield from families.values()
        for name, values in self._gauges.items():
            label, meaning = GAUGES[name]
            counts = name.endswith("_total")
            family = Metric(name.removesuffix("_total"), meaning, "counter" if counts else "gauge")
            for value_of, value in values.items():
                family.add_sample(name, {label: value_of} if label else {}, value)
            yield family


def render(processes: Mapping[str, list[Sample]], gauges: Mapping[str, Mapping[str, float]]) -> bytes:
    """The text format of Prometheus. *gauges*: name -> value of its label ('' without one) -> value."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown(processes, gauges))
    return generate_latest(registry)
