"""Whatever is sent: never a 5xx, never a hang, always the envelope. Real processes, the echo model, a seed.

``RESPOOL_FUZZ`` is the number of requests (2,000 unless given), ``RESPOOL_FUZZ_SEED`` the seed. A failure names both, and
the request as it was sent; Hypothesis shrinks it first.
"""

import asyncio
import copy
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from yarl import URL

from support.cluster_thread import ClusterThread
from support.contract import check_answer, check_error_answer, check_stream, parse_sse

REQUESTS = int(os.environ.get("RESPOOL_FUZZ", "2000"))
SEED = int(os.environ.get("RESPOOL_FUZZ_SEED", "20260421"))
TIMEOUT_S = 20.0
"""For one request. Nothing that is sent asks for a longer wait."""
MAX_BODY_BYTES = 1 << 18
PART = 5000
"""Requests from one seed; the next part has the next one, and new objects to ask for. Hypothesis remembers all it made."""
AT_ONCE = 10
"""Requests of one example, sent together."""
ENV = {"RESPOOL_MAX_BODY_BYTES": str(MAX_BODY_BYTES), "RESPOOL_RETENTION_S": "60", "RESPOOL_SEAL_KEY": "s" * 32}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    method: str
    path: str
    """As it is sent: quoted, with its query."""
    headers: dict[str, str]
    body: bytes | None


@dataclass(slots=True)
class Known:
    """Ids that exist."""

    responses: list[str]
    conversations: list[str]
    items: list[str]
    summary: Json
    """A ``compaction`` item that opens."""


class Sender:
    """Sends from an event loop of its own, because Hypothesis is not asynchronous."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sender", daemon=True)

    def __enter__(self) -> "Sender":
        self._thread.start()
        self._session = self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), auto_decompress=False)

    def _run(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(2 * TIMEOUT_S)

    def send(self, cases: list[Case]) -> list[tuple[int, dict[str, str], bytes]]:
        """Status, headers and body of each; -1 for one that hung, -2 for a connection that broke."""
        return self._run(asyncio.wait_for(self._send_all(cases), 2 * TIMEOUT_S))  # type: ignore[no-any-return]

    async def _send_all(self, cases: list[Case]) -> list[tuple[int, dict[str, str], bytes]]:
        return await asyncio.gather(*(self._send(case) for case in cases))

    async def _send(self, case: Case) -> tuple[int, dict[str, str], bytes]:
        url = URL(self._origin + case.path, encoded=True)
        try:
            async with self._session.request(
                case.method, url, headers=case.headers, data=case.body, allow_redirects=False
            ) as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status, headers, await answer.read()
        except TimeoutError:
            return -1, {}, b""
        except aiohttp.ClientError as error:
            return -2, {}, repr(error).encode()


def fault(case: Case, status: int, headers: dict[str, str], body: bytes) -> str | None:
    """What is wrong with an answer."""
    if status == -1:
        return "no answer: it hangs"
    if status == -2:
        return f"the connection broke: {body.decode()}"
    if status >= 500:
        return "a fault of the server"
    if "x-request-id" not in headers:
        return "no request id"
    if case.method == "HEAD":
        return None
    kind = headers.get("content-type", "").partition(";")[0]
    if status >= 400:
        if kind != "application/json":
            return f"an error as {kind}"
        return told(check_error_answer(status, headers, json.loads(body)))
    if kind == "text/event-stream":
        parsed = parse_sse(body)
        return told([*parsed.violations, *check_stream(parsed.events, starting_after(case))])
    if kind == "application/json":
        return told(check_answer(case.path.partition("?")[0], json.loads(body)))
    return None if case.path.startswith("/docs") else f"an answer as {kind}"


def starting_after(case: Case) -> int | None:
    """Of a resumed stream. When the query has it several times, the first one counts."""
    queries = URL(case.path, encoded=True).query.items() if case.method == "GET" else ()
    return next((int(value) for name, value in queries if name == "starting_after"), None)


def told(violations: list[str]) -> str | None:
    return "; ".join(violations[:5]) or None


TEXT = st.text(max_size=20)
NUMBERS = (
    st.sampled_from([0, -1, 1, 15, 16, 2**31, 2**53, 2**63, 2**64, 10**40, -0.0, 0.5, 1e308, 1e-320]) | st.integers()
)
WORDS = st.sampled_from(
    ["", "auto", "none", "required", "function", "custom", "message", "input_text", "output_text", "reasoning", "user", "\x00",
     "\ud800", "echo:words=3", "echo:call", "echo:think", "echo:fail", "echo:break", "default", "resp_", "item_reference", "null"]
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), TEXT, WORDS)
KEYS = st.sampled_from(
    ["type", "role", "content", "text", "id", "name", "status", "call_id", "output", "arguments", "parameters", "format",
     "schema", "strict", "mode", "tools", "effort", "summary", "image_url", "file_data", "detail", "phase", "namespace", "encrypted_content", ""]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | TEXT, inner, max_size=4), max_leaves=8
)

TOOL: Json = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
CALL: Json = {
    "type": "function_call",
    "call_id": "c1",
    "name": "f",
    "arguments": "{}",
    "id": "fc_1",
    "status": "completed",
}
ANSWER: Json = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "4"}]}
IMAGE: Json = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}
FILE: Json = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}
SAID: Json = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [{"type": "output_text", "text": "ok", "annotations": [], "logprobs": []}]}  # fmt: skip
THOUGHT: Json = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "s"}],
    "encrypted_content": None,
}
ASKED: Json = {"role": "user", "content": [{"type": "input_text", "text": "hi"}, IMAGE, FILE]}
SCHEMA: Json = {
    "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
    "verbosity": "low",
}

CREATES: list[Json] = [
    {"model": "echo", "input": "Hello there"},
    {"model": "echo", "input": "echo:words=4 echo:think", "stream": True, "stream_options": {"include_obfuscation": True}},
    {"model": "echo", "input": "Hello", "background": True, "store": False, "stream": True},
    {"model": "echo", "input": [ASKED, THOUGHT, CALL, ANSWER, SAID, {"role": "developer", "content": "be brief"}], "tools": [TOOL]},
    {"model": "echo", "input": "echo:call", "tools": [TOOL, {"type": "custom", "name": "c"}, {"type": "web_search"}], "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": False},
    {"model": "echo", "input": "hi", "tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
    {"model": "echo", "input": "hi", "text": SCHEMA, "reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    {"model": "echo", "input": "hi", "temperature": 1, "top_p": 0.5, "max_output_tokens": 16, "max_tool_calls": 2, "top_logprobs": 3, "presence_penalty": 1, "frequency_penalty": -1, "seed": 7, "stop": ["a"], "top_k": 4, "repetition_penalty": 1.1},
    {"model": "echo", "input": "hi", "instructions": "be", "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "truncation": "auto", "service_tier": "flex", "prompt": {"id": "p", "variables": {"a": "b"}}},
]  # fmt: skip
CONVERSATIONS: list[Json] = [
    {"metadata": {"a": "b"}, "items": [ASKED, CALL, ANSWER, SAID]},
    {"metadata": None},
    {"items": [{"type": "message", "role": "user", "content": "hi"}]},
]


@st.composite
def bodies(draw: st.DrawFn, goods: list[Json], known: Known) -> bytes | None:
    """A good body with up to three faults in it, anything as JSON, or bytes."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.none() | st.binary(max_size=40))
    if kind == 1:
        return dump(draw(VALUES))
    if kind == 2:
        return draw(st.sampled_from([b"[" * 5000, b'{"input":' * 2000, b'{"a":1e999}', b"\xef\xbb\xbf{}", b'"\xff"', b"{}" + b" " * MAX_BODY_BYTES]))  # fmt: skip
    body = copy.deepcopy(draw(st.sampled_from(goods)))
    if kind == 3:
        body["previous_response_id"] = draw(ids(known.responses))
    if kind == 4:
        body["conversation"] = draw(ids(known.conversations) | st.builds(lambda i: {"id": i}, ids(known.conversations)))
    if kind == 5 and isinstance(body.get("input"), list):
        body["input"].append({"type": draw(st.none() | st.just("item_reference")), "id": draw(ids(known.items))})
    for key in ("input", "items"):
        if kind in (7, 8) and isinstance(body.get(key), list):
            body[key].insert(draw(st.integers(0, len(body[key]))), copy.deepcopy(known.summary))
    for _ in range(draw(st.integers(0, 3))):
        spoil(draw, body)
    raw = dump(body)
    if kind == 6:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    return raw


def spoil(draw: st.DrawFn, body: Json) -> None:
    """One fault at some depth: a member replaced, removed, doubled or added."""
    place: Any = body
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        break
    match draw(st.integers(0, 4)):
        case 0:
            del place[key]
        case 1 if isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        case 2 if isinstance(place, dict):
            place[draw(KEYS)] = draw(VALUES)
        case _:
            place[key] = draw(VALUES)


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()  # with NaN, Infinity and lone surrogates, as they come


@st.composite
def ids(draw: st.DrawFn, known: list[str]) -> str:
    one = draw(st.sampled_from(known))
    match draw(st.integers(0, 5)):
        case 0:
            return draw(TEXT)
        case 1:
            at = draw(st.integers(0, len(one)))
            return one[:at] + draw(st.text(max_size=2)) + one[at + draw(st.integers(0, 2)) :]
        case 2:
            return draw(
                st.sampled_from(["..", "%2e%2e", "resp_" + "0" * 48, "x" * 3000, "resp_\x00", one.upper(), one + " "])
            )
        case _:
            return one


QUERY_NAMES = st.sampled_from(
    ["stream", "starting_after", "limit", "order", "after", "include", "include[]", "wait", "beta"]
)
QUERY_VALUES = TEXT | st.sampled_from(["true", "false", "1", "0", "-1", "100", "101", "asc", "desc", "1e3", "9" * 30, "٣", "reasoning.encrypted_content"])  # fmt: skip
QUERIES = st.lists(st.tuples(QUERY_NAMES, QUERY_VALUES), max_size=3)
HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Authorization", "Idempotency-Key", "X-Request-Id", "X-Client-Request-Id", "X-Tenant-Id", "X-Channel", "OpenAI-Beta",
         "Accept", "Content-Type", "Cookie", "Range", "If-None-Match", "Last-Event-ID", "X-Forwarded-For", "traceparent"]
    ),
    HEADER_TEXT | st.sampled_from(["Bearer ", "Bearer sk-x", "*/*", "text/plain; charset=utf-16", "bytes=0-1", "text/event-stream"]),
    max_size=3,
)  # fmt: skip
ENCODINGS = st.sampled_from(["gzip", "deflate", "br", "zstd", "identity", "x"])


def part(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@st.composite
def cases(draw: st.DrawFn, known: Known) -> Case:
    response, conversation = part(draw(ids(known.responses))), part(draw(ids(known.conversations)))
    item = part(draw(ids(known.items)))
    kind = draw(st.integers(0, 19))
    body: bytes | None = None
    if kind < 9:
        method, path = "POST", "/v1/responses"
        body = draw(bodies(CREATES, known))
    elif kind < 11:
        method, path = "POST", draw(st.sampled_from(["/v1/responses/input_tokens", "/v1/responses/compact"]))
        body = draw(bodies(CREATES, known))
    elif kind < 13:
        tail = draw(st.sampled_from(["", f"/{conversation}", f"/{conversation}/items"]))
        method, path = "POST", f"/v1/conversations{tail}"
        body = draw(bodies(CONVERSATIONS, known))
    else:
        paths = [
            f"/v1/responses/{response}", f"/v1/responses/{response}/input_items", f"/v1/responses/{response}/cancel",
            f"/v1/conversations/{conversation}", f"/v1/conversations/{conversation}/items",
            f"/v1/conversations/{conversation}/items/{item}", f"/v1/models/{response}", "/v1/models", "/openapi.json", "/docs",
            "/health", f"/{response}", f"/v1/{conversation}/{item}",
        ]  # fmt: skip
        path = draw(st.sampled_from(paths))
        method = draw(st.sampled_from(["GET", "GET", "GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"]))
    query = draw(QUERIES)
    if query:
        path += "?" + "&".join(f"{part(name)}={part(value)}" for name, value in query)
    headers = {"Content-Type": "application/json", **draw(HEADERS)}
    if draw(st.integers(0, 24)) == 24:
        headers["Content-Encoding"] = draw(ENCODINGS)
    return Case(method, path, headers, body)


@pytest.fixture(scope="module")
def service() -> Iterator[ClusterThread]:
    with ClusterThread(env=ENV) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def sender(service: ClusterThread) -> Iterator[Sender]:
    with Sender(service.origin) as sender:
        yield sender


def make_known(sender: Sender) -> Known:
    """Objects to ask for. They may be deleted and expire while this runs."""

    def post(path: str, body: Json) -> Json:
        [(status, _, answer)] = sender.send([Case("POST", path, {"Content-Type": "application/json"}, dump(body))])
        assert status == 200, answer
        return json.loads(answer)  # type: ignore[no-any-return]

    responses = [post("/v1/responses", body) for body in (CREATES[0], CREATES[3])]
    responses.append(post("/v1/responses", {**CREATES[0], "background": True}))
    conversation = post("/v1/conversations", CONVERSATIONS[0])
    [(_, _, listed)] = sender.send([Case("GET", f"/v1/conversations/{conversation['id']}/items", {}, None)])
    items = [item["id"] for item in json.loads(listed)["data"]] + [responses[0]["output"][0]["id"]]
    summary = post("/v1/responses/compact", {"model": "echo", "input": "hi"})["output"][-1]
    return Known([each["id"] for each in responses], [conversation["id"]], items, summary)


def play(sender: Sender, part_seed: int, requests: int, counts: Counter[int]) -> None:
    """So many requests from this seed."""
    known = make_known(sender)

    @seed(part_seed)
    @settings(
        max_examples=max(1, requests // AT_ONCE), deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(st.lists(cases(known), min_size=AT_ONCE, max_size=AT_ONCE))
    def play_batch(batch: list[Case]) -> None:
        for case, (status, headers, body) in zip(batch, sender.send(batch), strict=True):
            counts[status] += 1
            wrong = fault(case, status, headers, body)
            assert wrong is None, f"seed {part_seed}: {wrong}\n{case}\n{status} {headers}\n{body[:2000]!r}"

    play_batch()


@pytest.mark.timeout(60 + REQUESTS / 10)
def test_nothing_breaks_it(sender: Sender, service: ClusterThread, capsys: pytest.CaptureFixture[str]) -> None:
    counts, started = Counter[int](), time.monotonic()
    for number, first in enumerate(range(0, REQUESTS, PART)):
        play(sender, SEED + number, min(PART, REQUESTS - first), counts)
    for process in service.cluster.processes:
        assert process.child.returncode is None
        for event in ("request.failed", "job.failed", "outbox.failed", "reaper.failed", "job.unreadable"):
            assert process.find(event) == [], f"seed {SEED}"
    with capsys.disabled():
        told = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
        print(f"\nfuzz: {sum(counts.values())} requests in {time.monotonic() - started:.0f} s, seed {SEED} ({told})")  # noqa: T201
