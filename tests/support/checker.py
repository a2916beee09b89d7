"""Says which promise was broken, from what clients saw, what Redis holds, and how often the backend was called.

In a test, when everything has ended:

    assert_kept(await check(recorder, cluster.redis, calls=upstream.calls_of))

`check` needs the test's `Recorder` (the fixture; clients made by `raw_client` and `openai_client` write into it). It
reads Redis, and answers with a list of `Violation`, each with the name of a promise (a key of `PROMISES`) and the
response; `assert_kept` raises with all of them. To show that a fault is noticed:

    assert "numbers" in broken(await check(recorder, cluster.redis))

What may be told besides (see `Rules`): a deadline, how many upstream calls each name may have cost, and the full text
that a completed answer must have. The name of a response is the first word of its last user text (`support.faults`).
When the fake backend is asked with the phrase `marked`, its words carry the number of the call that made them, and an
output made by two executions is noticed (`doubled`).

Everything but `check` is pure: it takes exchanges (`support.history`) and `Stored` (`support.stored`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from redis.asyncio import Redis

from support.contract import TERMINAL, check_answer, check_error_answer, check_stream, parse_sse
from support.history import RESPONSES, Exchange, History, histories
from support.schemas import Json
from support.stored import Stored, StoredResponse, read_store

PROMISES: Mapping[str, str] = {
    "contract": "every answer and every stream is well-formed by itself",
    "lost": "an accepted response, and every event of it that was seen, is there until it is deleted",
    "stuck": "an accepted response ends",
    "late": "an accepted response ends within its deadline",
    "flipped": "a status never goes back, and a finished response never changes",
    "uncancelled": "a cancel that was answered with 200 stays cancelled in every later view",
    "numbers": "the numbers of a response's events are 0..n without gap or duplicate",
    "ending": "a log has one terminal event, at its end",
    "bytes": "no byte differs between two readers of one response, nor between a reader and the log",
    "fold": "the stored object is what its events add up to, and says what the record says",
    "doubled": "at most one execution is visible, and one Idempotency-Key makes one response",
    "calls": "the backend is called as often as expected",
    "text": "a completed answer is whole, any other is a beginning of it",
    "given up": "what nobody saw output of is run again, not failed",
    "left": "nothing is left behind: no queue entry, lease or request, no key without a lifetime",
}
RANK = {"queued": 0, "in_progress": 1}
MARK = re.compile(r"\b(?P<word>word\d+)\.(?P<call>\d+)x*")
"""A word of the fake backend, its call, and padding."""
MAX_CRASHES = 2
TRIES = 3
"""Upstream calls that one execution may make."""
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
SHOWN = 20
SHORTENED_CHARS = 300


@dataclass(frozen=True, slots=True)
class Violation:
    promise: str  # a key of PROMISES
    text: str
    response_id: str = ""

    def __post_init__(self) -> None:
        assert self.promise in PROMISES, self.promise

    def __str__(self) -> str:
        about = f" {self.response_id}" if self.response_id and self.response_id not in self.text else ""
        return f"[{self.promise}]{about} {self.text}"


class Called(Protocol):
    """A call that has come to the backend."""

    @property
    def unanswered(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What a test knows besides. Names are the first words of texts."""

    deadline_s: float | None = None
    """Seconds from acceptance to the end, by Redis' clock."""
    calls: Callable[[str], Sequence["Called"]] | None = None
    """The upstream calls of a name; how many may be is derived from the record, unless *expected* says it."""
    expected: Mapping[str, int] = field(default_factory=dict)
    text: Callable[[str], str] | None = None
    """The whole text that the backend gives to an input text, without marks."""


async def check(
    recorder: "HasExchanges",
    redis: Redis,
    *,
    calls: Callable[[str], Sequence["Called"]] | None = None,
    expected: Mapping[str, int] | None = None,
    deadline_s: float | None = None,
    text: Callable[[str], str] | None = None,
) -> list[Violation]:
    """Everything that is wrong, when all has ended. The arguments are those of `Rules`."""
    return judge(recorder.exchanges, await read_store(redis), Rules(deadline_s, calls, expected or {}, text))


class HasExchanges(Protocol):
    """A recorder, as far as the checker needs one."""

    exchanges: list[Exchange]


def assert_kept(found: Sequence[Violation]) -> None:
    more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    assert not found, "\n".join(["promises were broken:", *map(str, found[:SHOWN]), *more])


def broken(found: Iterable[Violation]) -> set[str]:
    """The names of the promises that were broken."""
    return {violation.promise for violation in found}


def judge(exchanges: Iterable[Exchange], stored: Stored, rules: Rules | None = None) -> list[Violation]:
    """What clients saw, against itself, against the store, and against *rules*."""
    exchanges, rules = list(exchanges), rules or Rules()
    seen = histories(exchanges)
    found = [*judge_exchanges(exchanges), *_keys(exchanges, seen), *(Violation("left", line) for line in stored.left)]
    for response_id in sorted({*seen, *stored.responses}):
        history, kept = seen.get(response_id, History(response_id)), stored.responses.get(response_id)
        lines = [*_existence(history, kept), *_executions(history, kept, rules), *_texts(history, kept, rules)]
        if kept is not None:
            lines += [*_record(kept, rules), *_log(history, kept), *_against_store(history, kept)]
        found += [Violation(promise, text, response_id) for promise, text in lines]
    return found


def judge_exchanges(exchanges: Iterable[Exchange]) -> list[Violation]:
    """Everything wrong with any exchange by itself, and with what several of them say about one response."""
    exchanges = list(exchanges)
    found = [Violation(_promise_of(line), f"{each}: {line}") for each in exchanges for line in check_exchange(each)]
    for response_id, history in histories(exchanges).items():
        lines = [*_differing_frames(history), *_changed_endings(history), *_statuses(history), *_uncancelled(history)]
        found += [Violation(promise, text, response_id) for promise, text in lines]
    return found


Found = Iterator[tuple[str, str]]


# one exchange


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
    if exchange.path.startswith(RESPONSES) and exchange.status != 200:
        found.append(f"success is always HTTP 200, not {exchange.status}")
    return [*found, *check_answer(exchange.path, body)]


def _promise_of(line: str) -> str:
    """What a fault of one answer breaks; most break only the contract."""
    if "sequence_number is" in line:
        return "numbers"
    return "ending" if "terminal event" in line else "contract"


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
    yield from check_stream(parsed.events, exchange.starting_after, cut=cut)


# several exchanges about one response


def _differing_frames(history: History) -> Found:
    known: dict[object, tuple[bytes, Exchange]] = {}
    for stream in history.streams:
        for event, frame in zip(stream.events, stream.frames, strict=True):
            number = event.get("sequence_number")
            before, other = known.setdefault(number, (frame, stream.exchange))
            if before != frame:
                where = f"event {number} of {history.response_id}"
                yield "bytes", f"{stream.exchange}: {where} is {frame!r}, in {other} it was {before!r}"
                break


def _changed_endings(history: History) -> Found:
    """A GET shows a finished response otherwise than what had ended before it was asked."""
    endings = [view for view in history.views if view.ended and view.whole]
    for read in history.views:
        if read.exchange.method != "GET" or read.exchange.is_stream or not read.whole:
            continue
        for view in endings:
            if view.exchange.finished >= read.exchange.started:
                break
            if view.response != read.response:
                text = f"{read.exchange}: the finished response differs from the one in {view.exchange}: "
                yield "flipped", text + _differences(view.response, read.response)
                break


def _statuses(history: History) -> Found:
    """A later look shows an earlier status, or another end."""
    for view in history.views:
        before = [other for other in history.views if other.exchange.finished < view.exchange.started]
        furthest = max(before, key=lambda other: _rank(other.status), default=None)
        if furthest is None or _rank(view.status) > _rank(furthest.status) or view.status == furthest.status:
            continue
        if view.exchange.path == RESPONSES and view.status == "queued":
            continue  # a repeated create call shows what the first one showed
        yield "flipped", f"{view.exchange}: status is {view.status}, in {furthest.exchange} it was {furthest.status}"


def _rank(status: str) -> int:
    return RANK.get(status, len(RANK))


def _uncancelled(history: History) -> Found:
    for cancel in history.cancels:
        shown = cancel.json_or_none()
        if not isinstance(shown, dict) or shown.get("status") != "cancelled":
            yield "uncancelled", f"{cancel}: the answer says {str(shown)[:SHORTENED_CHARS]}"
        for view in history.views:
            if view.exchange.started > cancel.finished and view.status != "cancelled":
                yield "uncancelled", f"{view.exchange}: status is {view.status}, after {cancel}"


def _keys(exchanges: list[Exchange], seen: Mapping[str, History]) -> list[Violation]:
    """Calls with one Idempotency-Key and one body that show two responses, unless the first was deleted."""
    made: dict[tuple[str, str], str] = {}
    found = []
    for response_id, history in seen.items():
        for create in history.creates:
            if not create.key or create.status != 200:
                continue
            call = create.key, json.dumps(create.sent, sort_keys=True)
            other = made.setdefault(call, response_id)
            if other != response_id and not seen[other].deletes and not history.deletes:
                found.append(Violation("doubled", f"{create}: its Idempotency-Key had made {other}", response_id))
    return found


# against the store


def _existence(history: History, kept: StoredResponse | None) -> Found:
    shown = [each for each in history.exchanges if each.status == 200]
    first = min((each.finished for each in shown), default=0)
    for each in history.exchanges:
        denied = each.status == 404 and each.path.startswith(RESPONSES)
        if denied and history.kept and 0 < first < each.started and not _deleted_before(history, each.finished):
            yield "lost", f"{each}: it was there before"
    if shown and kept is None and history.kept and not history.deletes:
        yield "lost", f"it is not stored any more, and nobody deleted it; {shown[-1]} was the last to show it"


def _deleted_before(history: History, tick: int) -> bool:
    return any(each.started < tick for each in history.deletes)


def _record(kept: StoredResponse, rules: Rules) -> Found:
    record, status = kept.record, kept.status
    if status not in TERMINAL:
        yield "stuck", f"is {status} at the end: {record}"
        return
    took_s = (kept.number("ended") - kept.number("created")) / 1000
    if rules.deadline_s is not None and took_s > rules.deadline_s:
        yield "late", f"took {took_s:.1f} s from its acceptance to its end, {rules.deadline_s:g} s are allowed"
    if kept.object is None:
        yield "lost", f"is {status}, but has no object"
        return
    if kept.object.get("status") != status:
        yield "fold", f"the object says otherwise than the record: {kept.object.get('status')}, {status}"
    if kept.object.get("output") != kept.output:
        yield (
            "fold",
            f"the object's output differs from the block's: {_cut(kept.object.get('output'))} {_cut(kept.output)}",
        )
    if record.get("owner") or record.get("inboxes"):
        yield "left", f"has ended, but has an owner or inboxes: {record}"
    error = kept.object.get("error") or {}
    lost = "worker" in str(error.get("message")) and "was lost" in str(error.get("message"))
    if lost and record.get("shown") == "0" and kept.number("crashes") < MAX_CRASHES:
        yield "given up", f"failed with {error.get('message')!r} though nobody saw output of it: {record}"


def _log(history: History, kept: StoredResponse) -> Found:
    if kept.record.get("stream") != "1":
        if kept.log is not None:
            yield "left", "has a log, but was not created with stream=true"
        return
    if kept.log is None:
        yield "lost", "has no log"
        return
    parsed = parse_sse(kept.log, cut=True)
    numbers = [event.get("sequence_number") for event in parsed.events]
    wrong = next((place for place, number in enumerate(numbers) if place != number), None)
    if wrong is not None:
        yield "numbers", f"the log has event {numbers[wrong]} where {wrong} was due"
    if len(numbers) != kept.number("seq"):
        yield "numbers", f"{len(numbers)} events are logged, the record says {kept.record.get('seq')}"
    ends = [place for place, event in enumerate(parsed.events) if _ends(event)]
    if kept.status in TERMINAL and ends != [len(numbers) - 1]:
        kinds = [event.get("type") for event in parsed.events]
        yield "ending", f"terminal events at {ends} of {len(numbers)}, the last are {kinds[-5:]}"
    for line in [*parsed.violations, *check_stream(parsed.events, cut=kept.status not in TERMINAL)]:
        yield "fold", f"the log: {line}"
    if ends and kept.object is not None and parsed.events[ends[-1]].get("response") != kept.object:
        yield (
            "fold",
            f"the terminal event differs from the object: {_differences(parsed.events[ends[-1]]['response'], kept.object)}",
        )
    for stream in history.streams:
        for event, frame in zip(stream.events, stream.frames, strict=True):
            number = event.get("sequence_number")
            if not isinstance(number, int) or number >= len(parsed.frames):
                yield "lost", f"{stream.exchange}: event {number} was seen, the log ends before it"
                break
            if parsed.frames[number] != frame:
                yield "bytes", f"{stream.exchange}: event {number} is {frame!r}, the log has {parsed.frames[number]!r}"
                break


def _ends(event: Json) -> bool:
    response = event.get("response")
    return isinstance(response, dict) and response.get("status") in TERMINAL


def _against_store(history: History, kept: StoredResponse) -> Found:
    for view in history.views:
        if view.ended and view.whole and kept.object is not None and view.response != kept.object:
            promise = "uncancelled" if view.status == "cancelled" != kept.status else "flipped"
            yield promise, f"{view.exchange}: differs from what is stored: {_differences(view.response, kept.object)}"
            break


# executions


def _executions(history: History, kept: StoredResponse | None, rules: Rules) -> Found:
    marks = {mark["call"] for text in _all_texts(history, kept) for mark in MARK.finditer(text)}
    if len(marks) > 1:
        yield "doubled", f"output of several executions is visible: upstream calls {', '.join(sorted(marks))}"
    name = _input_text(history, kept).partition(" ")[0]
    if rules.calls is None or not name or kept is None:
        return
    calls = rules.calls(name)
    count = len(calls)
    least = 1 if kept.status == "completed" else 0
    # What the backend ends without a word on a connection that was kept goes out once more, and is no try of its own.
    most = TRIES * int(kept.number("attempt")) + sum(call.unanswered for call in calls)
    if name in rules.expected:
        least = most = rules.expected[name]
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        yield "calls", f"{name}: {count} upstream calls, expected {wanted}"


def _texts(history: History, kept: StoredResponse | None, rules: Rules) -> Found:
    asked = _input_text(history, kept)
    if rules.text is None or not asked:
        return
    whole = rules.text(asked)
    shown = [view.response for view in history.views if view.ended and view.whole]
    shown += [kept.object] if kept is not None and kept.object is not None and kept.status in TERMINAL else []
    for response in shown:
        text = MARK.sub(r"\g<word>", output_text(response))
        good = text == whole if response.get("status") == "completed" else whole.startswith(text)
        if not good:
            yield "text", f"the {response.get('status')} answer to {asked!r} is {_cut(text)!r}"
            return


def output_text(response: Json) -> str:
    """The text of all output messages."""
    parts = [part for item in response.get("output") or [] for part in item.get("content") or []]
    return "".join(str(part.get("text", "")) for part in parts)


def _all_texts(history: History, kept: StoredResponse | None) -> Iterator[str]:
    for view in history.views:
        yield output_text(view.response)
    for stream in history.streams:
        yield "".join(str(event["delta"]) for event in stream.events if event["type"] == "response.output_text.delta")
    if kept is not None:
        yield output_text(kept.object or {})


def _input_text(history: History, kept: StoredResponse | None) -> str:
    """The last user text of the request."""
    given = history.sent.get("input")
    if isinstance(given, str):
        return given
    items = given if isinstance(given, list) else kept.input if kept is not None else []
    for item in reversed(items):
        if item.get("role") == "user":
            content = item.get("content") or ""
            return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return ""


# words


def _differences(one: Json, other: Json) -> str:
    keys = sorted(key for key in {**one, **other} if one.get(key) != other.get(key))
    return "; ".join(f"{key}: {_cut(one.get(key))} became {_cut(other.get(key))}" for key in keys)


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHORTENED_CHARS else f"{text[:SHORTENED_CHARS]}..."


def describe(history: History, kept: StoredResponse | None, calls: Iterable[object] = ()) -> str:
    """All that is known of one response, a line for each thing: for a report of what went wrong."""
    lines = [f"history of {history.response_id}", f"  sent {_cut(history.sent)}"]
    start = min((each.at for each in history.exchanges), default=0.0)
    streams = {id(stream.exchange): stream for stream in history.streams}
    for each in history.exchanges:
        span = f"{each.at - start:8.3f} to {each.over_at - start:8.3f} s, ticks {each.started} to {each.finished}"
        if stream := streams.get(id(each)):
            numbers = [event.get("sequence_number") for event in stream.events]
            what = f"events {numbers[:1]} to {numbers[-1:]}, {len(numbers)} in all, last {[e['type'] for e in stream.events[-1:]]}"
        else:
            body = each.json_or_none()
            what = (
                f"status {body.get('status')}, error {body.get('error')}"
                if isinstance(body, dict)
                else _cut(bytes(each.body))
            )
        lines.append(f"  {span}: {each}{'' if each.complete else ' (cut)'}: {what}")
    if kept is None:
        lines.append("  not stored")
    else:
        lines += [f"  record {kept.record}", f"  object {_cut(kept.object)}"]
        if kept.log is not None:
            kinds = [
                f"{event.get('sequence_number')} {event.get('type')}" for event in parse_sse(kept.log, cut=True).events
            ]
            lines.append(f"  log: {len(kinds)} events: {', '.join(kinds[:4])} ... {', '.join(kinds[-4:])}")
    return "\n".join([*lines, *(f"  upstream {call}" for call in calls)])
