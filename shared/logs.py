"""Logging: one set-up for both rooms and the launcher, and the list of all event names.

Loggers are made with ``log = structlog.get_logger()``; ``log.info("response.settled", status=...)``. What libraries log
through the standard library comes out in the same form, with their text as the event.
"""

import functools
import io
import logging
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared import metrics

EVENTS: Mapping[str, str] = {
    "process.started": "A process is up and serving.",
    "process.draining": "A process was told to stop: it takes nothing new and finishes what it has.",
    "process.refused": "A process could not start: the line says what to mend.",
    "process.stopped": "A process has ended its work.",
    "process.starved": "A worker had no memory left and ended at once; its responses are taken over by others.",
    "request.served": "One HTTP request was answered: the summary line; `error` is the code of a refusal.",
    "request.malformed": "What came was no HTTP request: the client got a 400, and nothing of it is repeated here.",
    "request.failed": "A bug ended a request: the client got a 500, the traceback is here.",
    "socket.opened": "A client has opened a WebSocket.",
    "socket.closed": "A WebSocket has ended: the line says with which close code (1006: without one), after how long, and how many turns it had.",
    "turn.served": "One response over a WebSocket was relayed to its end, or refused: the summary line.",
    "parameter.dropped": "A parameter does not reach its backend, as the profile says; told once for each backend and parameter.",
    "response.refused": "A front end took no new work: the line says why.",
    "response.settled": "A response reached its final status: the summary line of a run, with its model, calls to backends and tokens.",
    "response.dropped": "A run has ended without a say in its response, which is another's now: it was requeued, reaped or deleted.",
    "response.cancelled": "A cancel call was answered.",
    "response.requeued": "A response of a dead worker goes back to the queue, to be tried again.",
    "response.reconciled": "A response that was neither queued nor running (its wait for another try is over, or its queue entry was lost) was queued again.",
    "response.released": "A stopping worker handed a response back.",
    "response.reaped": "A response of a dead worker was settled in its place.",
    "response.skipped": "A response was written by a newer version: it is left to processes of that version; told once by each process.",
    "response.fenced": "A worker learned that a response is no longer its own, and dropped it.",
    "prompt.failed": "A template's file cannot be read: the line says what to mend.",
    "job.failed": "A bug ended a run: the response fails or is run again, the traceback is here.",
    "job.unreadable": "A stored request cannot be read back, perhaps because a newer version wrote it.",
    "outbox.failed": "A bug ended a flush: its responses are left to their leases, the traceback is here.",
    "reaper.failed": "A response of a dead worker could not be settled; it is tried again.",
    "lease.failed": "Leases could not be renewed, for no known reason; it is tried again, the traceback is here.",
    "tick.failed": "A bug, or an odd answer of Redis, cost a sign of life; the next one follows in a second.",
    "rewriting.failed": "A bug, or an odd answer of Valkey, hid whether its file is to be made small; the launcher looks again in a second.",
    "lease.lost": "A worker could not renew a lease in time.",
    "log.refilled": "Redis had lost the last events of a response; the worker wrote them again.",
    "response.purged": "Redis used more than `max_stored_bytes`: so many of the oldest ended responses were removed.",
    "response.packed": "What is stored of an ended response was made small (debug level).",
    "webhook.delivered": "The receiver of a webhook has acknowledged an event.",
    "webhook.failed": "The receiver of a webhook did not acknowledge an event (the line says why): it is sent again.",
    "webhook.abandoned": "An event was given up: for 72 h, or for as long as its response is kept, nobody has acknowledged it.",
    "courier.failed": "A bug kept webhooks from being sent; it is tried again, the traceback is here.",
    "hub.connected": "The subscription to this process's inbox stands.",
    "hub.lost": "The subscription broke; it is made again.",
    "hub.failed": "A bug, or a message of another version, was met in the inbox; its readers look at the log.",
    "hub.overflowed": "A reader was too slow for its queue and goes back to the log.",
    "reader.repaired": "A reader noticed a gap and filled it from the log.",
    "backend.opened": "A backend failed again and again: this worker does not ask it for a while, then with one call.",
    "upstream.called": "A model backend began to answer (debug level).",
    "upstream.failed": "A call to a model backend failed: it is made again, or the run fails.",
    "upstream.unreachable": "Nobody answers at a backend's address.",
    "output.unfit": "An answer did not meet `tool_choice` or `text.format`: it is asked for once more, or the response fails.",
    "upstream.retried": "A model backend failed; the call is made again.",
    "upstream.strange": "Something in an answer was left out, or was not as it should be; the answer was used.",
    "tokenizer.failed": "A backend's tokenizer could not be asked: tokens are estimated.",
    "loop.lagged": "The event loop was blocked for longer than 500 ms.",
    "redis.unavailable": "Redis does not answer, or refuses to write.",
    "redis.warned": "Redis is set up in a way that puts data at risk.",
    "child.started": "`respool up` started a process.",
    "child.exited": "A process of `respool up` ended.",
    "child.frozen": "A process of `respool up` gave no sign of life for too long, while Redis answered: it is killed, and started again.",
    "watchdog.failed": "A bug, or an odd answer of Redis, hid whether the processes of `respool up` live; it looks again in a second.",
    "child.restarted": "A process of `respool up` that had ended is started again.",
}

_BOUND: ContextVar[Mapping[str, object]] = ContextVar("bound", default=MappingProxyType({}))
_encoder = msgspec.json.Encoder(enc_hook=repr, decimal_format="string")


class bound:  # used like a function
    """Puts *values* on every line that is logged inside it, also by tasks that are started there."""

    __slots__ = ("_token", "_values")

    def __init__(self, **values: object) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._token = _BOUND.set({**_BOUND.get(), **self._values})

    def __exit__(self, *_: object) -> None:
        _BOUND.reset(self._token)


def configure(level: str, log_format: Literal["auto", "console", "json"], *, room: str = "") -> None:
    """Set logging up for this process, once, at its start. *room* is put on every line (``api``, ``worker``, ``up``).

    ``auto`` means ``console`` on a terminal, else ``json``: one object per line, on standard output either way.
    """
    if log_format == "auto":
        log_format = "console" if sys.stdout.isatty() else "json"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no text of a client may make logging fail
    levels = {name.lower(): value for name, value in logging.getLevelNamesMapping().items()}
    number = levels[level]
    metrics.preset(EVENTS)

    def complete(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """What every line has: one step instead of structlog's four, which cost as much as all the rest of a line."""
        level = "error" if method == "exception" else method
        if event.get("event") in EVENTS:
            metrics.count(event["event"], event)
        if levels[level] < number:
            raise structlog.DropEvent
        line = {"timestamp": _now(), "level": level, "event": event.pop("event", None), **_BOUND.get(), **event}
        if room:
            line["room"] = room
        return line

    common: list[Processor] = [complete]
    if log_format == "json":
        last: list[Processor] = [_render_json]
    else:
        # The plain traceback: the pretty ones print local variables, and so keys and prompts.
        last = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(
        processors=[*common, *last],
        wrapper_class=structlog.make_filtering_bound_logger(min(number, logging.INFO)),  # what is counted is always met
        logger_factory=_Stdout,
        cache_logger_on_first_use=True,
    )
    _take_over_stdlib(number, common, last)


class _Stdout:
    """Prints to what is standard output at that moment: a logger outlives the stream that a test captured."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, message: str) -> None:
        sys.stdout.write(message + "\n")
        sys.stdout.flush()

    log = debug = info = warn = warning = error = critical = fatal = exception = msg


class _StdoutHandler(logging.Handler):
    """The same for what comes through the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        _Stdout().msg(self.format(record))


def _take_over_stdlib(level: int, common: list[Processor], last: list[Processor]) -> None:
    handler = _StdoutHandler()
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=[remove, *last]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))  # libraries chat at info; what they say there is in our own lines


def _now() -> str:
    second, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_text_of(second)}.{microseconds:06d}Z"


@functools.lru_cache(maxsize=1)
def _text_of(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _render_json(logger: WrappedLogger, method: str, line: EventDict) -> str:
    """One line of JSON, the three fixed keys first."""
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, method, line)
    try:
        return _encoder.encode(line).decode()
    except (TypeError, ValueError, RecursionError):  # e.g. a lone surrogate; a log line must not be the end of anything
        return _encoder.encode({_escaped(key): _escaped(value) for key, value in line.items()}).decode()


def _escaped(value: object) -> str:
    return ascii(value)[1:-1] if isinstance(value, str) else ascii(value)
