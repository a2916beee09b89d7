"""Streams: as they happen, cut at every place and resumed, read by several at once, and left by their readers."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from fakes.upstream import FakeUpstream, Script, call_delta, chunk, hang, reply, send, wait
from support.clients import RawClient
from support.cluster_thread import ClusterThread
from support.contract import DONE, parse_sse
from support.recorder import Recorder

TEXT_EVENTS = [
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * 4,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
BEFORE_GATE = 7
"""How many of these events there are when `held_in_the_middle` holds its breath."""


def held_in_the_middle(gate: asyncio.Event) -> Script:
    return [send(chunk("Once "), chunk("upon ")), wait(gate), reply("a ", "time.")]


def frames_of(recorder: Recorder, method: str, response_id: str) -> list[list[bytes]]:
    """The frames of each stream of this response, in the order in which they began."""
    streams = [
        parse_sse(bytes(each.body), cut=True)
        for each in recorder.exchanges
        if each.is_stream and each.method == method and response_id.encode() in each.url.encode() + bytes(each.body)
    ]
    return [stream.frames for stream in streams]


async def test_events_come_while_the_backend_still_works(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    upstream.queue(*held_in_the_middle(gate))
    stream = await client.responses.create(model="tiny", input="hi", stream=True)
    seen = []
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta" and event.delta == "upon ":
            gate.set()
    assert [event.type for event in seen] == [name for name in TEXT_EVENTS if name != "response.queued"]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output_text == "Once upon a time."


async def test_the_stream_manager_builds_the_final_response(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    calls = [call_delta(0, call_id="call_a", name="get_time", arguments='{"city": "Oslo"}')]
    upstream.queue(reply("Wait.", reasoning=["Hmm."], calls=calls))
    tool: Any = {"type": "function", "name": "get_time", "parameters": {"type": "object"}, "strict": False}
    async with client.responses.stream(model="tiny", input="hi", tools=[tool]) as stream:
        deltas = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert deltas == ["Wait."]
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output[2].to_dict()["arguments"] == '{"city": "Oslo"}'


async def test_a_background_stream_cut_anywhere_is_resumed_without_gap_or_duplicate(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, recorder: Recorder
) -> None:
    gates = {f"cut {k}": asyncio.Event() for k in range(1, len(TEXT_EVENTS) + 1)}
    upstream.respond = lambda call: held_in_the_middle(gates[call.last_user_text])

    async def cut_and_resume(k: int) -> tuple[str, int, list[str]]:
        gate = gates[f"cut {k}"]
        if k > BEFORE_GATE:
            gate.set()
        stream = await client.responses.create(model="tiny", input=f"cut {k}", stream=True, background=True)
        seen = [event async for event in _first(stream, k)]
        await stream.close()
        created = seen[0]
        assert created.type == "response.created"
        resumed = await client.responses.retrieve(
            created.response.id, stream=True, starting_after=seen[-1].sequence_number
        )
        gate.set()  # what comes now, nobody has seen before
        seen += [event async for event in resumed]
        return created.response.id, k, [event.type for event in seen]

    for response_id, k, types in await asyncio.gather(*map(cut_and_resume, range(1, len(TEXT_EVENTS) + 1))):
        assert types == TEXT_EVENTS, f"cut after {k}"
        whole = [event async for event in await client.responses.retrieve(response_id, stream=True)]
        assert len(whole) == len(TEXT_EVENTS)
        (first,) = frames_of(recorder, "POST", response_id)
        rest, replay = frames_of(recorder, "GET", response_id)
        assert b"".join(first[:k] + rest) == b"".join(replay), f"cut after {k}"


async def _first(stream: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(stream)


async def test_the_stream_manager_skips_what_is_known(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    upstream.queue(*held_in_the_middle(gate))
    stream = await client.responses.create(model="tiny", input="hi", stream=True, background=True)
    seen = [event async for event in _first(stream, 6)]
    await stream.close()
    response_id = seen[0].response.id
    async with client.responses.stream(response_id=response_id, starting_after=seen[-1].sequence_number) as resumed:
        rest = []
        async for event in resumed:
            gate.set()
            rest.append(event)
        final = await resumed.get_final_response()
    assert [event.sequence_number for event in rest] == list(range(6, len(TEXT_EVENTS)))
    assert final.output_text == "Once upon a time."


async def test_a_stored_foreground_stream_can_be_replayed_too(
    client: openai.AsyncOpenAI, recorder: Recorder, upstream: FakeUpstream
) -> None:
    stream = await client.responses.create(model="echo", input="echo:words=5 echo:think", stream=True)
    seen = [event async for event in stream]
    response_id = seen[0].response.id
    for after in (0, 7, len(seen) - 2):
        resumed = await client.responses.retrieve(response_id, stream=True, starting_after=after)
        assert [event.sequence_number async for event in resumed] == list(range(after + 1, len(seen)))
    assert (await client.responses.retrieve(response_id)).output_text == "w0 w1 w2 w3 w4 "


async def test_beyond_the_end_there_is_nothing_but_the_end(client: openai.AsyncOpenAI, raw: RawClient) -> None:
    stream = await client.responses.create(model="echo", input="echo:words=1", stream=True)
    last = [event async for event in stream][-1]
    path = f"/v1/responses/{last.response.id}?stream=true&starting_after="
    for after in (last.sequence_number, 10_000, 2**31 - 1):
        answer = await raw.get(f"{path}{after}")
        assert (answer.status, answer.body) == (200, DONE)


async def test_several_readers_each_from_their_own_place(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, recorder: Recorder
) -> None:
    gate = asyncio.Event()
    upstream.queue(*held_in_the_middle(gate))
    stream = await client.responses.create(model="tiny", input="hi", stream=True, background=True)
    created = await anext(stream)

    async def read(after: int) -> list[int]:
        resumed = await client.responses.retrieve(created.response.id, stream=True, starting_after=after)
        return [event.sequence_number async for event in resumed]

    readers = [asyncio.create_task(read(after)) for after in range(5)]
    rest = []
    async for event in stream:
        rest.append(event.sequence_number)
        if len(rest) == BEFORE_GATE - 1:
            gate.set()
    assert rest == list(range(1, len(TEXT_EVENTS)))
    assert await asyncio.gather(*readers) == [list(range(after + 1, len(TEXT_EVENTS))) for after in range(5)]


async def test_a_background_run_goes_on_without_its_reader(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, service: ClusterThread
) -> None:
    gate = asyncio.Event()
    upstream.queue(*held_in_the_middle(gate))
    stream = await client.responses.create(model="tiny", input="hi", stream=True, background=True)
    created = await anext(stream)
    await stream.close()
    gate.set()
    await service.settled(created.response.id)
    assert (await client.responses.retrieve(created.response.id)).output_text == "Once upon a time."


@pytest.mark.parametrize("store", [True, False])
async def test_a_foreground_stream_that_is_left_is_cancelled(
    store: bool, client: openai.AsyncOpenAI, raw: RawClient, upstream: FakeUpstream, service: ClusterThread
) -> None:
    upstream.queue(send(chunk("Once ")), hang())
    body = {"model": "tiny", "input": "hi", "stream": True, "store": store}
    async with raw.stream("POST", "/v1/responses", json=body) as stream:
        async for event in stream.events():
            if event["type"] == "response.output_text.delta":
                response_id = event["item_id"]
                break
    await upstream.disconnected()
    response_id = f"resp_{response_id.removeprefix('msg_')[:-4]}"
    assert (await service.settled(response_id))["status"] == "cancelled"
    if store:
        response = await client.responses.retrieve(response_id)
        assert response.status == "cancelled"
        assert response.output_text == "Once "


async def test_a_held_call_whose_client_hangs_up_is_cancelled(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(send(chunk("Once ")), hang())
    call = asyncio.create_task(raw.post("/v1/responses", json={"model": "tiny", "input": "hi"}))
    await upstream.called()
    call.cancel()
    await asyncio.wait([call])
    await upstream.disconnected()


async def test_a_client_that_closes_its_side_has_hung_up(upstream: FakeUpstream, service: ClusterThread) -> None:
    """To a server it looks like one that has gone, and for those nothing may go on."""
    upstream.queue(hang())
    url = urlsplit(service.origin)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    body = b'{"model": "tiny", "input": "hi"}'
    writer.write(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await upstream.called()
    writer.write_eof()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    await upstream.disconnected()


async def test_long_and_unusual_text_arrives_as_it_was(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    text = 'naïve 日本語 🏳️‍🌈 \u2028 \x00 \\ " \r\n\r\ndata: [DONE]\n\nevent: x\n' + "é" * 100_000
    upstream.queue(reply(*(text[at : at + 997] for at in range(0, len(text), 997))))
    async with client.responses.stream(model="tiny", input="hi") as stream:
        final = await stream.get_final_response()
    assert final.output_text == text
    assert (await client.responses.retrieve(final.id)).output_text == text


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("stream=true&starting_after=-1", 400, "starting_after"),
        ("stream=true&starting_after=one", 400, "starting_after"),
        (f"stream=true&starting_after={2**53}", 400, "starting_after"),
        ("stream=perhaps", 400, "stream"),
        ("stream=&starting_after=3", 400, "starting_after"),
        ("include_obfuscation=bogus", 400, "include_obfuscation"),
        ("stream=true", 400, "stream"),
        ("starting_after=3", 400, "starting_after"),
        ("stream=true&wait=3", 400, "wait"),
    ],
)
async def test_what_cannot_be_streamed(
    query: str, status: int, param: str, client: openai.AsyncOpenAI, raw: RawClient
) -> None:
    response = await client.responses.create(model="echo", input="hi")
    answer = await raw.get(f"/v1/responses/{response.id}?{query}")
    assert answer.status == status
    assert answer.json()["error"]["param"] == param


async def test_the_head_of_a_stream_has_no_body(client: openai.AsyncOpenAI, service: ClusterThread) -> None:
    stream = await client.responses.create(model="echo", input="hi", stream=True)
    (response_id,) = [event.response.id async for event in stream if event.type == "response.completed"]
    url = urlsplit(service.origin)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    for _ in range(2):  # over one connection
        writer.write(f"HEAD /v1/responses/{response_id}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/event-stream" in head
    writer.close()


async def test_the_synchronous_stream_manager_resumes(
    client: openai.AsyncOpenAI, service: ClusterThread, openai_sync_client: Callable[..., openai.OpenAI]
) -> None:
    created = await anext(
        await client.responses.create(model="echo", input="echo:words=3", stream=True, background=True)
    )

    def resume() -> str:
        other = openai_sync_client(service.origin)
        with other.responses.stream(response_id=created.response.id, starting_after=2) as stream:
            return stream.get_final_response().output_text

    assert await asyncio.to_thread(resume) == "w0 w1 w2 "
