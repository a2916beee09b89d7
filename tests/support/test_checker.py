"""For each promise a history made by hand that breaks it and must be reported; and clean ones that must not."""

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis.asyncio import Redis

from support.checker import PROMISES, Rules, assert_kept, broken, describe, judge
from support.contract import render_sse
from support.history import Exchange, histories
from support.samples import RESPONSE_ID as ID
from support.samples import make_response, make_stream, message_events, number
from support.schemas import Json
from support.stored import PREFIX, Stored, StoredResponse, read_store

SSE_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
JSON_HEADERS = {"content-type": "application/json"}
TEXT = "word0.7 word1.7 "


def stream_of(text: str = TEXT, status: str = "completed") -> list[Json]:
    """The events of a response with one message, begun by the tool-less part of the samples."""
    created, queued, running = make_stream()[:3]
    words = [f"{word} " for word in text.split()]
    message = message_events(0, "msg_a0", words, end="completed" if status == "completed" else "incomplete")
    opening = copy.deepcopy([created, queued, running])
    for event in opening:
        event["response"]["tools"] = make_response()["tools"]
        event["response"]["background"] = True
    final = make_response(status, [message[-1]["item"]], background=True)
    kind = "failed" if status == "cancelled" else status
    return number(*opening, *message, {"type": f"response.{kind}", "response": final})


@dataclass(frozen=True)
class Called:
    unanswered: bool = False


@dataclass
class Case:
    """What one response left behind: exchanges, record, object and log; each test breaks something of it."""

    events: list[Json] = field(default_factory=stream_of)
    exchanges: list[Exchange] = field(default_factory=list)
    record: dict[str, str] = field(default_factory=dict)
    log: list[Json] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    calls: list[Called] = field(default_factory=lambda: [Called()])
    ticks: Any = field(default_factory=lambda: itertools.count(1))
    rules: Rules = field(default_factory=Rules)
    stored: bool = True

    def __post_init__(self) -> None:
        self.log = copy.deepcopy(self.events)
        self.object = copy.deepcopy(self.events[-1]["response"])
        self.output = copy.deepcopy(self.object["output"])
        self.record = {
            "status": self.object["status"], "seq": str(len(self.events)), "stream": "1", "store": "1", "background": "1",
            "owner": "", "inboxes": "", "attempt": "1", "crashes": "0", "shown": "1", "created": "1000", "ended": "3000",
        }  # fmt: skip
        self.rules = Rules(deadline_s=60, calls=lambda _: self.calls, text=lambda _: "word0 word1 ")

    def say(self, method: str, path: str, body: Any, *, status: int = 200, key: str = "", sent: Any = None) -> Exchange:
        sse = isinstance(body, list)
        content = render_sse(body) if sse else json.dumps(body).encode()
        headers = {"x-request-id": "req_1", **(SSE_HEADERS if sse else JSON_HEADERS)}
        exchange = Exchange(method, f"http://x{path}", status, headers, next(self.ticks), sent=sent, key=key)
        exchange.body += content
        exchange.finished, exchange.ended = next(self.ticks), True
        self.exchanges.append(exchange)
        return exchange

    def create(self, key: str = "") -> Exchange:
        sent = {"model": "tiny", "input": "r1 words=2 marked", "background": True, "stream": True}
        return self.say("POST", "/v1/responses", self.events, sent=sent, key=key)

    def get(self, body: Json | None = None, **options: Any) -> Exchange:
        return self.say("GET", f"/v1/responses/{ID}", self.object if body is None else body, **options)

    def resume(self, after: int, events: list[Json] | None = None) -> Exchange:
        rest = self.events[after + 1 :] if events is None else events
        return self.say("GET", f"/v1/responses/{ID}?stream=true&starting_after={after}", rest)

    def cancel(self, body: Json) -> Exchange:
        return self.say("POST", f"/v1/responses/{ID}/cancel", body)

    def broken(self) -> set[str]:
        kept = StoredResponse(self.record, self.object, render_sse(self.log, done=False) or None, [], self.output)
        stored = Stored({ID: kept} if self.stored else {}, self.left)
        found = judge(self.exchanges, stored, self.rules)
        assert all(str(violation) for violation in found)
        return broken(found)


def error(status: int) -> Json:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": "no", "type": kind, "param": None, "code": None}}


def test_a_clean_history_is_clean() -> None:
    case = Case()
    case.get(make_response("queued", background=True))
    case.create(key="k")
    case.resume(4)
    case.resume(len(case.events) - 1)
    case.get()
    case.say("GET", f"/v1/responses/{ID}?include[]=x", {**case.object, "output": []})
    case.create(key="k")
    assert case.broken() == set()


def test_a_clean_cancelled_history_is_clean() -> None:
    case = Case(stream_of("word0.7 ", "cancelled"))
    case.create()
    case.cancel(case.object)
    case.get()
    case.cancel(case.object)
    assert case.broken() == set()


def test_a_deleted_response_may_be_gone() -> None:
    case = Case(stored=False)
    case.create()
    case.say("DELETE", f"/v1/responses/{ID}", {"id": ID, "object": "response.deleted", "deleted": True})
    case.get(error(404), status=404)
    assert case.broken() == set()


def test_an_unstored_foreground_response_may_be_gone() -> None:
    case = Case(stored=False)
    case.create().sent.update(background=False, store=False)
    case.get(error(404), status=404)
    assert case.broken() == set()


def test_an_accepted_response_may_be_cut_off() -> None:
    """A reader whose connection broke in the middle of a frame."""
    case = Case()
    exchange = case.create()
    exchange.ended = False
    del exchange.body[len(exchange.body) // 2 :]
    assert case.broken() == set()


Break = Callable[[Case], Any]
CASES: dict[str, tuple[str, Break]] = {}


def breaks(promise: str) -> Callable[[Break], Break]:
    def note(change: Break) -> Break:
        CASES[change.__name__] = (promise, change)
        return change

    return note


@breaks("contract")
def an_answer_without_a_key(case: Case) -> None:
    case.get({key: value for key, value in case.object.items() if key != "model"})
    case.object.pop("model")
    case.log[-1]["response"].pop("model")


@breaks("contract")
def a_500(case: Case) -> None:
    case.get({"oops": 1}, status=500)


@breaks("lost")
def a_response_that_is_gone(case: Case) -> None:
    case.create()
    case.stored = False


@breaks("lost")
def a_404_in_between(case: Case) -> None:
    case.create()
    case.get(error(404), status=404)


@breaks("lost")
def a_log_that_is_gone(case: Case) -> None:
    case.create()
    case.log.clear()


@breaks("lost")
def events_that_were_seen_and_are_not_logged(case: Case) -> None:
    case.create()
    case.log = case.log[:5]


@breaks("stuck")
def a_response_that_runs_for_ever(case: Case) -> None:
    case.record["status"] = "in_progress"


@breaks("late")
def a_response_that_took_too_long(case: Case) -> None:
    case.record["ended"] = "61001"


@breaks("flipped")
def completed_then_failed(case: Case) -> None:
    case.get()
    case.get(make_response("failed", case.object["output"], background=True))


@breaks("flipped")
def completed_then_running(case: Case) -> None:
    case.get()
    case.get(make_response("in_progress", background=True))


@breaks("flipped")
def running_then_queued(case: Case) -> None:
    case.get(make_response("in_progress", background=True))
    case.get(make_response("queued", background=True))


@breaks("flipped")
def a_field_of_a_finished_response_changes(case: Case) -> None:
    case.get({**case.object, "completed_at": 1790000009})
    case.get()


@breaks("flipped")
def the_stored_object_is_another(case: Case) -> None:
    case.get(make_response("failed", case.object["output"], background=True))


@breaks("uncancelled")
def cancelled_then_completed(case: Case) -> None:
    case.cancel(make_response("cancelled", background=True))
    case.get()


@breaks("uncancelled")
def a_cancel_that_answers_with_a_running_response(case: Case) -> None:
    case.cancel(make_response("in_progress", background=True))


@breaks("uncancelled")
def cancelled_but_stored_as_completed(case: Case) -> None:
    case.cancel(make_response("cancelled", background=True))


@breaks("numbers")
def a_gap_behind_a_resume(case: Case) -> None:
    case.create()
    case.resume(4, case.events[6:])


@breaks("numbers")
def a_duplicate_behind_a_resume(case: Case) -> None:
    case.resume(4, case.events[4:])


@breaks("numbers")
def a_gap_in_the_log(case: Case) -> None:
    del case.log[5]
    case.record["seq"] = str(len(case.log))


@breaks("numbers")
def a_record_that_counts_otherwise(case: Case) -> None:
    case.record["seq"] = "99"


@breaks("ending")
def two_terminal_events(case: Case) -> None:
    case.log.append({**copy.deepcopy(case.log[-1]), "sequence_number": len(case.log)})
    case.record["seq"] = str(len(case.log))


@breaks("ending")
def no_terminal_event(case: Case) -> None:
    case.log.pop()
    case.record["seq"] = str(len(case.log))


@breaks("ending")
def a_stream_with_done_but_without_an_end(case: Case) -> None:
    case.resume(4, case.events[5:-1])


@breaks("bytes")
def two_readers_differ(case: Case) -> None:
    case.create()
    other = case.resume(4)
    other.body = bytearray(bytes(other.body).replace(b'{"type"', b'{ "type"', 1))


@breaks("bytes")
def a_reader_and_the_log_differ(case: Case) -> None:
    events = copy.deepcopy(case.events)
    events[5]["delta"] = "word0.7  "
    case.resume(4, events[5:6])
    case.exchanges[-1].ended = False
    case.exchanges[-1].body = bytearray(render_sse(events[5:6], done=False))


@breaks("fold")
def the_object_lacks_what_was_streamed(case: Case) -> None:
    case.object["output"] = []


@breaks("fold")
def the_object_says_another_status(case: Case) -> None:
    case.object["status"] = "failed"


@breaks("fold")
def the_log_does_not_add_up(case: Case) -> None:
    case.log[5]["delta"] = "other "


@breaks("fold")
def the_block_lacks_the_output(case: Case) -> None:
    case.output.clear()


@breaks("doubled")
def the_output_of_two_calls(case: Case) -> None:
    case.get({**case.object, "output": stream_of("word0.7 word1.8 ")[-1]["response"]["output"]})


@breaks("doubled")
def one_reader_saw_another_call(case: Case) -> None:
    other = stream_of("word0.9 word1.9 ")
    case.create()
    case.resume(3, other[4:])


@breaks("doubled")
def one_key_two_responses(case: Case) -> None:
    case.create(key="k")
    first = case.exchanges[-1]
    second = case.create(key="k")
    second.body = bytearray(bytes(first.body).replace(ID.encode(), b"resp_00other"))


@breaks("calls")
def completed_without_a_call(case: Case) -> None:
    case.create()
    case.calls.clear()


@breaks("calls")
def called_more_often_than_the_attempts_allow(case: Case) -> None:
    case.create()
    case.calls *= 4


@breaks("calls")
def called_once_more_than_expected(case: Case) -> None:
    case.create()
    case.rules = replace(case.rules, expected={"r1": 1})
    case.calls *= 2


@breaks("text")
def a_completed_answer_is_cut_short(case: Case) -> None:
    case.create()
    case.rules = replace(case.rules, text=lambda _: "word0 word1 word2 ")


@breaks("given up")
def failed_though_nobody_saw_output(case: Case) -> None:
    case.object |= {"status": "failed", "completed_at": None}
    case.object["error"] = {"code": "server_error", "message": "The worker that ran this response was lost."}
    case.record |= {"status": "failed", "shown": "0", "crashes": "1"}


@breaks("left")
def a_queue_entry(case: Case) -> None:
    case.left.append("left behind: arq:queue:{00}:background")


@breaks("left")
def an_owner_after_the_end(case: Case) -> None:
    case.record["owner"] = "w1"


@breaks("left")
def a_log_that_nobody_asked_for(case: Case) -> None:
    case.record["stream"] = "0"


@pytest.mark.parametrize("name", CASES)
def test_a_broken_promise_is_reported(name: str) -> None:
    promise, change = CASES[name]
    case = Case()
    change(case)
    assert promise in case.broken()


def test_calls_that_got_no_answer_may_be_made_again() -> None:
    case = Case()
    case.create()
    case.calls = [Called()] * 3 + [Called(unanswered=True)] * 3
    assert not case.broken()
    case.calls.append(Called())
    assert "calls" in case.broken()


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {promise for promise, _ in CASES.values()} == set(PROMISES)


def test_the_report_names_promise_and_response() -> None:
    case = Case()
    case.create()
    case.record["status"] = "in_progress"
    found = judge(
        case.exchanges, Stored({ID: StoredResponse(case.record, case.object, render_sse(case.log, done=False))})
    )
    with pytest.raises(AssertionError, match=rf"(?s)promises were broken:.*\[stuck\] {ID} is in_progress at the end"):
        assert_kept(found)
    assert_kept([])


def test_a_description_shows_every_exchange_and_the_log() -> None:
    case = Case()
    case.create()
    case.get()
    kept = StoredResponse(case.record, case.object, render_sse(case.log, done=False))
    text = describe(histories(case.exchanges)[ID], kept, ["call 7"])
    for part in ("POST /v1/responses -> 200", f"GET /v1/responses/{ID} -> 200", "11 events", "upstream call 7"):
        assert part in text, text
    assert "not stored" in describe(histories(case.exchanges)[ID], None)


async def test_the_store_is_read_as_it_is(valkey: str, redis: Redis) -> None:
    case = Case()
    before, _, behind = json.dumps(case.object).partition(output := json.dumps(case.output))
    given = json.dumps([{"role": "user", "content": "r1 words=2"}])
    block = {"input": given, "output": output, "object": before + behind, "at": len(before)}
    await redis.hset(f"{PREFIX}r:{ID}", mapping=case.record)
    await redis.hset(f"{PREFIX}b:{ID}", mapping=block)
    for place, event in enumerate(case.log):
        fields = {"f": place, "n": 1, "d": render_sse([event], done=False)}
        await redis.xadd(f"{PREFIX}e:{ID}", fields, id=f"{place + 1}-0")
    await redis.zadd("arq:queue:{00}:background", {f"{{00}}:{ID}": 1})
    for kind in "rb":
        await redis.expire(f"{PREFIX}{kind}:{ID}", 60)
    raw = Redis.from_url(valkey)  # the fixture's own client decodes
    stored = await read_store(raw)
    assert stored.left == [
        "left behind: arq:queue:{00}:background", "lives for ever: arq:queue:{00}:background", f"lives for ever: {PREFIX}e:{ID}",
    ]  # fmt: skip
    kept = stored.responses[ID]
    assert (kept.record, kept.object, kept.output) == (case.record, case.object, case.output)
    assert kept.log == render_sse(case.log, done=False)
    assert (
        broken(judge([], replace(stored, left=[]), replace(case.rules, calls=lambda name: [Called()] * (name == "r1"))))
        == set()
    )
    assert await read_store(raw, ["resp_unknown", ID]) == Stored({ID: kept})
    await raw.aclose()
