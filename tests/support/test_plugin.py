"""The plugin: what the clients see is recorded whole, and a broken answer fails the test that saw it."""

import asyncio
import copy
import gzip
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from support.canned import SSE_HEADERS, CannedServer
from support.clients import RawClient
from support.contract import DONE, render_frame, render_sse
from support.recorder import Recorder
from support.samples import RESPONSE_ID, make_response, make_stream
from support.schemas import Json

RESPONSE = f"/v1/responses/{RESPONSE_ID}"
STREAM = make_stream()
FINAL: Json = STREAM[-1]["response"]
ERROR = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}}


@pytest_asyncio.fixture
async def canned() -> AsyncIterator[CannedServer]:
    async with CannedServer() as server:
        yield server


async def test_the_official_client_is_recorded_byte_for_byte(
    canned: CannedServer, recorder: Recorder, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    canned.give("POST /v1/responses", render_sse(STREAM))
    canned.give(f"GET {RESPONSE}", FINAL)
    client = openai_client(canned.base_url)
    stream = await client.responses.create(model="tiny", input="hi", stream=True)
    assert [event.type async for event in stream] == [event["type"] for event in STREAM]
    assert (await client.responses.retrieve(RESPONSE_ID)).id == RESPONSE_ID
    first, second = recorder.exchanges
    assert bytes(first.body) == render_sse(STREAM)
    assert first.complete
    assert str(second) == f"GET {RESPONSE} -> 200"
    assert first.finished < second.started < second.finished
    assert recorder.violations() == []


async def test_the_helper_of_the_official_client_accepts_the_samples(
    canned: CannedServer, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    canned.give(f"GET {RESPONSE}?stream=true", render_sse(STREAM))
    async with openai_client(canned.base_url).responses.stream(response_id=RESPONSE_ID) as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Hello"
    assert [item.type for item in final.output] == [item["type"] for item in FINAL["output"]]


async def test_the_synchronous_client_is_recorded_too(
    canned: CannedServer, recorder: Recorder, openai_sync_client: Callable[..., openai.OpenAI]
) -> None:
    canned.give("POST /v1/responses", render_sse(STREAM))

    def use() -> list[str]:
        client = openai_sync_client(canned.base_url)
        return [event.type for event in client.responses.create(model="tiny", input="hi", stream=True)]

    assert len(await asyncio.to_thread(use)) == len(STREAM)
    assert bytes(recorder.exchanges[0].body) == render_sse(STREAM)
    assert recorder.exchanges[0].complete


async def test_the_raw_client_reads_frames_and_may_leave_early(
    canned: CannedServer, recorder: Recorder, raw_client: Callable[..., RawClient]
) -> None:
    canned.give("POST /v1/responses", b": ping\n\n" + render_sse(STREAM))
    client = raw_client(canned.base_url)
    async with client.stream("POST", "/v1/responses", json={}) as stream:
        assert [event async for event in stream.events()] == STREAM
    async with client.stream("POST", "/v1/responses", json={}) as stream:
        frames = stream.frames()
        assert await anext(frames) == b": ping\n\n"
        assert await anext(frames) == render_frame(STREAM[0])
        assert await anext(stream.events()) == STREAM[1]
    whole, cut = recorder.exchanges
    assert whole.ended
    assert not cut.ended
    assert cut.finished


async def test_a_stream_may_break_off_but_what_came_must_be_right(
    canned: CannedServer, recorder: Recorder, raw_client: Callable[..., RawClient]
) -> None:
    canned.give("POST /v1/responses", render_sse(STREAM[:7], done=False), breaks=True)
    async with raw_client(canned.base_url).stream("POST", "/v1/responses") as stream:
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
    assert len(recorder.exchanges[0].body) == len(render_sse(STREAM[:7], done=False))
    assert recorder.violations() == []


async def test_a_compressed_answer_is_read(
    canned: CannedServer, recorder: Recorder, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    body = gzip.compress(b'{"error":{"message":"No."}}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip", "x-request-id": "req_1"}
    canned.give(f"GET {RESPONSE}", body, status=404, headers=headers)
    with pytest.raises(openai.NotFoundError):
        await openai_client(canned.base_url).responses.retrieve(RESPONSE_ID)
    assert any("has no key 'type'" in line for line in recorder.violations())
    recorder.exchanges.clear()


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() != name}


JSON = {"Content-Type": "application/json"}
OTHER = copy.deepcopy(STREAM)
OTHER[4]["delta"] = "B "


@pytest.mark.expects_violation
@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([(RESPONSE, make_response(temperature=None), {})], "at /temperature"),
        ([(RESPONSE, FINAL, {"headers": JSON})], "no x-request-id header"),
        ([(RESPONSE, FINAL, {"status": 202})], "success is always HTTP 200, not 202"),
        ([(RESPONSE, ERROR, {"status": 500})], "does not fit HTTP 500"),
        ([(RESPONSE, ERROR, {"status": 429})], "Retry-After"),
        ([(RESPONSE, {"detail": "x"}, {"status": 404})], "error answer without an error object"),
        ([(RESPONSE, b"404: Not Found", {"status": 404, "headers": {"Content-Type": "text/plain"}})], "not JSON"),
        ([("/v1/files", b"{", {"headers": JSON})], "body is not JSON"),
        ([(f"{RESPONSE}?stream=true", render_sse(STREAM[:-1]), {})], "ends without a terminal event"),
        ([(f"{RESPONSE}?stream=true", render_sse(STREAM, done=False), {})], "does not end with data: [DONE]"),
        ([(f"{RESPONSE}?stream=true", render_sse(STREAM) + DONE, {})], "comes after [DONE]"),
        ([(f"{RESPONSE}?stream=true", render_sse(STREAM), {"status": 201})], "a stream with HTTP 201"),
        (
            [(f"{RESPONSE}?stream=true", render_sse(STREAM), {"headers": without(SSE_HEADERS, "cache-control")})],
            "header cache-control is None",
        ),
        ([(f"{RESPONSE}?stream=true&starting_after=3", render_sse(STREAM[5:]), {})], "expected 4"),
        (
            [(f"{RESPONSE}?stream=true", render_sse(STREAM), {}), (RESPONSE, {**FINAL, "service_tier": "flex"}, {})],
            "the finished response differs from the one in",
        ),
        (
            [(RESPONSE, make_response("cancelled"), {}), (RESPONSE, make_response(), {})],
            "status: 'cancelled' became 'completed'",
        ),
        (
            [
                (f"{RESPONSE}?stream=true", render_sse(STREAM), {}),
                (f"{RESPONSE}?stream=true&starting_after=3", render_sse(OTHER[4:]), {}),
            ],
            "event 4 of",
        ),
        (
            [
                (f"{RESPONSE}?stream=true", render_sse(STREAM), {}),
                (
                    f"{RESPONSE}?stream=true&starting_after=43",
                    render_sse(STREAM[44:]).replace(b'{"type"', b'{ "type"', 1),
                    {},
                ),
            ],
            "event 44 of",
        ),
    ],
)
async def test_each_broken_exchange_is_named(
    canned: CannedServer,
    recorder: Recorder,
    raw_client: Callable[..., RawClient],
    answers: list[tuple[str, Any, Any]],
    complaint: str,
) -> None:
    for path, body, options in answers:
        canned.give(f"GET {path}", body, **options)
    client = raw_client(canned.base_url)
    for path, _, _ in answers:
        await client.get(path)
    found = recorder.violations()
    assert any(complaint in line for line in found), found


async def test_good_exchanges_of_one_response_agree(
    canned: CannedServer, recorder: Recorder, raw_client: Callable[..., RawClient]
) -> None:
    client = raw_client(canned.base_url)
    for path, body in [
        (f"{RESPONSE}?stream=true", render_sse(STREAM)),
        (f"{RESPONSE}?stream=true&starting_after=9", render_sse(STREAM[10:])),
        (f"{RESPONSE}?stream=true&starting_after={len(STREAM)}", DONE),
        (RESPONSE, FINAL),
        (f"{RESPONSE}?include[]=message.output_text.logprobs", {**FINAL, "output": []}),
    ]:
        canned.give(f"GET {path}", body)
        assert (await client.get(path)).status == 200
    assert recorder.violations() == []


INNER = """
import pytest
from support.canned import CannedServer
from support.contract import render_sse
from support.samples import make_stream

async def play(raw_client, events):
    async with CannedServer() as server:
        server.give("POST /v1/responses", render_sse(events))
        await raw_client(server.base_url).post("/v1/responses")

async def test_good(raw_client):
    await play(raw_client, make_stream())

async def test_bad(raw_client):
    events = make_stream()
    events[-1]["response"]["output"].pop()
    await play(raw_client, events)

@pytest.mark.expects_violation
async def test_bad_on_purpose(raw_client, recorder):
    await play(raw_client, make_stream()[1:])
    assert recorder.violations()
"""


def test_a_broken_event_fails_the_test_that_saw_it(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["support.plugin"]')
    pytester.makepyfile(INNER)
    tests = Path(__file__).parent.parent
    options = ("-o", "asyncio_mode=auto", "-o", f"pythonpath={tests}", "--strict-markers", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_bad *", "*response.output has 5 items, 6 were streamed*"])
