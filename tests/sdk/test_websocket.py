"""WebSocket mode with the official client: the cases of the Open Responses compliance suite (release 2026-04-24), turns
that continue unstored ones, lanes, and what is refused."""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.resources.responses.responses import AsyncResponsesConnection

from fakes.upstream import DONE, FakeUpstream, call_delta, chunk, hang, reply, send, start, status, wait
from support.clients import RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread
from support.plugin import KEY
from support.sockets import Socket, connected, refused

MAX_BODY_BYTES = 1 << 20
TOOL: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
UNKNOWN = "resp_0006h1szyha9dpdyz2tat2rsm3y9ng7fg3"
NOT_FOUND = (400, "previous_response_not_found")
WAIT_S = 20.0
OPEN = [start(), send(chunk("One "))]
REST = [send(chunk("two."), chunk(finish="stop"), DONE)]


def queue(upstream: FakeUpstream, *scripts: Any) -> None:
    """One script for each call, or a text that is its answer."""
    for script in scripts:
        upstream.queue(*([reply(script)] if isinstance(script, str) else script))


def key_row(name: str, key: str) -> str:
    return f'[[keys]]\nname = "{name}"\ntenant = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    """Two front ends and a worker that can compact; a key is needed."""
    address = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    env = {"RESPOOL_SEAL_KEY": "s" * 32, "RESPOOL_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
    config = key_row("us", KEY) + key_row("them", "sk-theirs") + chat_model(address, "tiny")
    with ClusterThread(env=env, config=config, front_ends=2) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


@pytest_asyncio.fixture
async def ws(service: ClusterThread) -> AsyncIterator[Socket]:
    async with connected(service.origin, key=KEY) as ws:
        yield ws


@pytest_asyncio.fixture
async def official(client: openai.AsyncOpenAI) -> AsyncIterator[AsyncResponsesConnection]:
    async with client.responses.connect() as connection:
        yield connection


async def turn(connection: AsyncResponsesConnection, **fields: Any) -> Any:
    """The last event of a turn of the official client."""
    await connection.response.create(model="tiny", **fields)
    async with asyncio.timeout(WAIT_S):
        while True:
            event = await connection.recv()
            if event.type in ("response.completed", "response.failed", "error"):
                return event


def said(upstream: FakeUpstream, number: int) -> list[tuple[str, Any]]:
    """What the backend was told in its call of that number."""
    return [(message["role"], message["content"]) for message in upstream.calls[number].body["messages"]]


# the suite


async def test_websocket_response(official: AsyncResponsesConnection, upstream: FakeUpstream) -> None:
    upstream.queue(reply("Hi."))
    event = await turn(official, input=[{"type": "message", "role": "user", "content": "Say hello."}])
    assert (event.type, event.response.status, event.response.output_text) == ("response.completed", "completed", "Hi.")


async def test_websocket_sequential_responses(official: AsyncResponsesConnection, upstream: FakeUpstream) -> None:
    for word in ("One.", "Two."):
        upstream.queue(reply(word))
        event = await turn(official, input="Say a word.", store=False)
        assert (event.response.status, event.response.output_text) == ("completed", word)


async def test_websocket_continuation(official: AsyncResponsesConnection, upstream: FakeUpstream) -> None:
    queue(upstream, "Noted.", "Seven.")
    first = await turn(official, input="My number is seven.", store=False)
    second = await turn(official, input="Which?", store=False, previous_response_id=first.response.id)
    assert (second.response.status, second.response.previous_response_id) == ("completed", first.response.id)
    assert said(upstream, 1) == [("user", "My number is seven."), ("assistant", "Noted."), ("user", "Which?")]


async def test_websocket_reconnect_store_false_recovery(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    async with client.responses.connect() as first:
        response = (await turn(first, input="hi", store=False)).response
    async with client.responses.connect() as second:
        event = await turn(second, input="more", store=False, previous_response_id=response.id)
        assert (event.type, event.error.code) == ("error", "previous_response_not_found")
        assert (await turn(second, input="afresh", store=False)).response.status == "completed"


async def test_websocket_previous_response_not_found(official: AsyncResponsesConnection) -> None:
    event = await turn(official, input="hi", previous_response_id=UNKNOWN)
    assert (event.type, event.status, event.error.code) == ("error", 400, "previous_response_not_found")
    assert event.error.param == "previous_response_id"


async def test_websocket_failed_continuation_evicts_cache(
    official: AsyncResponsesConnection, upstream: FakeUpstream
) -> None:
    first = (await turn(official, input="hi", store=False)).response
    output: Any = [{"type": "function_call_output", "call_id": "call_missing", "output": "x"}]
    second = await turn(official, input=output, store=False, previous_response_id=first.id)
    assert (second.type, second.status) == ("error", 400)
    assert "call_missing" in second.error.message
    third = await turn(official, input="again", store=False, previous_response_id=first.id)
    assert (third.type, third.error.code) == ("error", "previous_response_not_found")
    assert len(upstream.calls) == 1


async def test_a_message_without_a_turn_takes_nothing_from_its_parent(ws: Socket, upstream: FakeUpstream) -> None:
    queue(upstream, "One.", "Two.")
    parent = {"previous_response_id": (await ws.turn("hi", store=False))["id"]}
    await ws.create("x", stream_id="a b", **parent)
    assert (await ws.next())["error"]["code"] == "invalid_stream_id"
    assert (await ws.turn("more", **parent))["status"] == "completed"


async def test_websocket_compact_new_chain(
    official: AsyncResponsesConnection, raw: RawClient, upstream: FakeUpstream
) -> None:
    queue(upstream, "A talk about tea.", "Yes.")
    talk: Any = [
        {"role": "user", "content": "I like tea."},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Noted."}]},
    ]
    items = (await raw.post("/v1/responses/compact", json={"model": "tiny", "input": talk})).json()["output"]
    event = await turn(official, input=[*items, {"role": "user", "content": "Do I?"}], store=False)
    assert (event.type, event.response.output_text) == ("response.completed", "Yes.")
    assert "A talk about tea." in str(said(upstream, 1))


# the same as over SSE


async def test_the_events_are_those_of_the_log(ws: Socket, raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("One ", "two ", "three."))
    await ws.create("count")
    events = await ws.rest()
    response_id = events[0]["response"]["id"]
    async with raw.stream("GET", f"/v1/responses/{response_id}?stream=true") as stream:
        assert [event async for event in stream.events()] == events
    assert (await raw.get(f"/v1/responses/{response_id}")).json() == events[-1]["response"]


async def test_stream_and_its_options_are_ignored(ws: Socket, upstream: FakeUpstream) -> None:
    response = await ws.turn("hi", stream=False, stream_options={"include_obfuscation": "nonsense"})
    assert response["status"] == "completed"


async def test_a_failed_run_is_told_as_such_and_evicts_its_parent(ws: Socket, upstream: FakeUpstream) -> None:
    queue(upstream, "Fine.", [status(400)], "Fine.")
    first = await ws.turn("hi", store=False)
    failed = await ws.turn("more", store=False, previous_response_id=first["id"])
    assert failed["status"] == "failed"
    assert await ws.error("more", store=False, previous_response_id=first["id"]) == NOT_FOUND
    assert await ws.error("more", store=False, previous_response_id=failed["id"]) == NOT_FOUND
    assert (await ws.turn("afresh"))["status"] == "completed"


# turns


async def test_stored_and_unstored_turns_in_one_chain(ws: Socket, raw: RawClient, upstream: FakeUpstream) -> None:
    """What is stored is found in the store, with what it was told; what is not, only here and only while it is the latest."""
    queue(upstream, "One.", "Two.", "Three.", "Four.")
    stored = await ws.turn("first")
    unstored = await ws.turn("second", store=False, previous_response_id=stored["id"])
    again = await ws.turn("third", previous_response_id=unstored["id"])
    assert await ws.error("x", previous_response_id=unstored["id"]) == NOT_FOUND  # it is not the latest any more
    last = await ws.turn("fourth", store=False, previous_response_id=again["id"])
    assert last["output"][0]["content"][0]["text"] == "Four."
    told = [("user", "first"), ("assistant", "One."), ("user", "second"), ("assistant", "Two."), ("user", "third")]
    assert said(upstream, 2) == told
    assert said(upstream, 3) == [*told, ("assistant", "Three."), ("user", "fourth")]
    listed = (await raw.get(f"/v1/responses/{again['id']}/input_items?order=asc")).json()["data"]
    assert [item["content"][0]["text"] for item in listed] == ["first", "One.", "second", "Two.", "third"]
    assert len({item["id"] for item in [*listed, *again["output"]]}) == 6
    assert (await raw.get(f"/v1/responses/{unstored['id']}")).status == 404


async def test_tools_over_unstored_turns(ws: Socket, upstream: FakeUpstream) -> None:
    asked = call_delta(0, call_id="call_1", name="get_weather", arguments='{"in": "Oslo"}')
    queue(upstream, [reply(calls=[asked])], "Sunny.")
    first = await ws.turn("weather", store=False, tools=[TOOL])
    call = next(item for item in first["output"] if item["type"] == "function_call")
    output = [{"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]
    second = await ws.turn(output, store=False, tools=[TOOL], previous_response_id=first["id"])
    assert second["output"][0]["content"][0]["text"] == "Sunny."
    assert [role for role, _ in said(upstream, 1)] == ["user", "assistant", "tool"]


async def test_an_unanswered_call_is_refused(ws: Socket, upstream: FakeUpstream) -> None:
    upstream.queue(reply(calls=[call_delta(0, call_id="call_1", name="get_weather", arguments="{}")]))
    first = await ws.turn("weather", store=False, tools=[TOOL])
    event = await ws.turn("never mind", store=False, previous_response_id=first["id"])
    assert event["error"]["message"].startswith("No tool output found for function call call_1")


async def test_references_to_items_of_an_unstored_parent(ws: Socket, upstream: FakeUpstream) -> None:
    queue(upstream, "One.", "Two.")
    first = await ws.turn("first", store=False)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert (await ws.turn([reference], previous_response_id=first["id"], store=False))["status"] == "completed"
    assert said(upstream, 1)[1:] == [("assistant", "One."), ("assistant", "One.")]


async def test_what_is_too_large_to_be_remembered_is_forgotten(ws: Socket, upstream: FakeUpstream) -> None:
    """Nine turns of almost 1 MiB each: the memory holds 8 MiB."""
    parent: dict[str, Any] = {}
    for _ in range(8):
        response = await ws.turn("x" * (MAX_BODY_BYTES - 1000), store=False, **parent)
        assert response["status"] == "completed"
        parent = {"previous_response_id": response["id"]}
    response = await ws.turn("x" * (MAX_BODY_BYTES - 1000), store=False, **parent)
    assert await ws.error("y", previous_response_id=response["id"]) == NOT_FOUND


@pytest.mark.parametrize("store", [True, False])
async def test_a_warm_up_is_the_parent_of_the_first_turn(
    store: bool, ws: Socket, raw: RawClient, upstream: FakeUpstream
) -> None:
    """As Codex does: everything but output is prepared, then the real turn continues it."""
    upstream.queue(reply("Ready."))
    await ws.create([{"role": "developer", "content": "Be brief."}], generate=False, store=store)
    events = await ws.rest()
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.completed"]
    warm = events[-1]["response"]
    assert (warm["status"], warm["output"], warm["usage"]) == ("completed", [], None)
    assert upstream.calls == []
    assert (await raw.get(f"/v1/responses/{warm['id']}")).status == (200 if store else 404)
    response = await ws.turn("hi", store=store, previous_response_id=warm["id"])
    assert response["output"][0]["content"][0]["text"] == "Ready."
    assert said(upstream, 0) == [("system", "Be brief."), ("user", "hi")]


async def test_a_conversation_takes_turns(ws: Socket, raw: RawClient, upstream: FakeUpstream) -> None:
    queue(upstream, "One.", "Two.")
    conversation = (await raw.post("/v1/conversations", json={})).json()["id"]
    for text in ("first", "second"):
        assert (await ws.turn(text, conversation=conversation))["conversation"] == {"id": conversation}
    assert said(upstream, 1) == [("user", "first"), ("assistant", "One."), ("user", "second")]


async def test_another_front_end_reads_and_follows_what_is_made_here(
    service: ClusterThread, ws: Socket, raw_client: Callable[[str], RawClient], upstream: FakeUpstream
) -> None:
    gate = asyncio.Event()
    queue(upstream, [*OPEN, wait(gate), *REST], "Three.")
    elsewhere = service.cluster.front_ends[1].origin
    await ws.create("first")
    seen = await ws.until("response.output_text.delta")
    response_id = seen[0]["response"]["id"]
    path = f"/v1/responses/{response_id}?stream=true"
    async with raw_client(elsewhere).stream("GET", path) as stream:
        gate.set()
        events = [event async for event in stream.events()]
    assert seen + await ws.rest() == events
    async with connected(elsewhere, key=KEY) as other:
        assert (await other.turn("more", previous_response_id=response_id))["status"] == "completed"


# lanes


async def test_the_default_lane_is_first_come_first_served(ws: Socket, upstream: FakeUpstream) -> None:
    for text in ("one", "two", "three"):
        upstream.queue(reply(text))
        await ws.create(text)
    ends = [(await ws.rest())[-1]["response"]["output"][0]["content"][0]["text"] for _ in range(3)]
    assert ends == ["one", "two", "three"]  # and no event of a lane comes between those of another response in it


async def test_a_lane_does_not_wait_for_another(ws: Socket, upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    queue(upstream, [*OPEN, wait(gate), *REST])
    await ws.create("slow", stream_id="slow")
    await ws.until("response.output_text.delta")
    upstream.queue(reply("quick"))
    assert (await ws.turn("quick", stream_id="quick"))["status"] == "completed"
    assert await ws.error("x", stream_id="quick", previous_response_id=UNKNOWN) == NOT_FOUND
    gate.set()
    (*_, last) = await ws.rest("slow")
    assert (last["type"], last["stream_id"]) == ("response.completed", "slow")


async def test_many_lanes_at_once(ws: Socket, upstream: FakeUpstream) -> None:
    """Twice as many as may be in flight, two turns each: every stream is whole, and in order."""
    names = [f"lane-{number}" for number in range(32)]
    for word in ("first", "second"):
        for name in names:
            await ws.create(f"{word} words=20", stream_id=name)
    ends: list[str] = []
    while len(ends) < 64:
        event = await ws.next()
        assert event["type"] != "error"
        ends += [event["stream_id"]] if event["type"] == "response.completed" else []
    assert sorted(ends) == sorted(names * 2)
    assert await ws.error("one more", stream_id="lane-32") == (400, "websocket_stream_limit_reached")
    assert (await ws.turn("still there"))["status"] == "completed"


async def test_not_more_than_sixteen_are_in_flight(ws: Socket, upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    queue(upstream, *([*OPEN, wait(gate), *REST] for _ in range(17)))
    for number in range(17):
        await ws.create("hold", stream_id=f"lane-{number}")
    begun = [(await ws.until("response.output_text.delta"))[-1]["stream_id"] for _ in range(16)]
    assert sorted(begun) == sorted(f"lane-{number}" for number in range(16))
    assert len(upstream.calls) == 16
    gate.set()
    assert (await ws.rest("lane-16"))[-1]["type"] == "response.completed"


async def test_what_waits_is_bounded(ws: Socket, upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    queue(upstream, [*OPEN, wait(gate), *REST])
    for _ in range(66):  # one runs, 64 wait
        await ws.create("x")
    (*_, refusal) = await ws.until("error")
    assert (refusal["status"], refusal["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refusal["error"]["headers"] == {"retry-after": "1"}
    gate.set()
    for _ in range(65):
        assert (await ws.rest())[-1]["type"] == "response.completed"


# what is refused


MALFORMED: list[tuple[Any, str, str | None]] = [
    ("{", "invalid_request_error", None),
    ("[]", "invalid_request_error", None),
    ("null", "invalid_request_error", None),
    ({"model": "tiny", "input": "hi"}, "missing_required_parameter", "type"),
    ({"type": "response.cancel"}, "invalid_value", "type"),
    ({"type": ["response.create"]}, "invalid_type", "type"),
    ({"type": "response.create", "stream_id": ""}, "invalid_stream_id", "stream_id"),
    ({"type": "response.create", "stream_id": "a b"}, "invalid_stream_id", "stream_id"),
    ({"type": "response.create", "stream_id": "x" * 257}, "invalid_stream_id", "stream_id"),
    ({"type": "response.create", "input": "hi"}, "missing_required_parameter", "model"),
    ({"type": "response.create", "model": "tiny"}, "missing_required_parameter", "input"),
    ({"type": "response.create", "model": "nobody", "input": "hi"}, "model_not_found", "model"),
    ({"type": "response.create", "model": "tiny", "input": "hi", "background": True}, "unsupported_parameter", "background"),
    ({"type": "response.create", "model": "tiny", "input": "hi", "background": "yes"}, "invalid_type", "background"),
    ({"type": "response.create", "model": "tiny", "input": "hi", "generate": 1}, "invalid_type", "generate"),
    ({"type": "response.create", "model": "tiny", "input": "hi", "temperature": 3}, "decimal_above_max_value", "temperature"),
    ({"type": "response.create", "model": "tiny", "input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "invalid_request_error", "input"),
]  # fmt: skip


async def test_what_is_wrong_is_told_and_closes_nothing(ws: Socket, upstream: FakeUpstream) -> None:
    for message, code, param in MALFORMED:
        await ws.send(message)
        event = await ws.next()
        assert (event["type"], event["status"]) == ("error", 400), message
        assert (event["error"]["code"], event["error"]["param"]) == (code, param), message
        assert "stream_id" not in event
    for data in (b'{"type": "response.create"}', b"\xff"):
        await ws.connection.send_bytes(data)
        assert (await ws.next())["error"]["code"] == "invalid_request_error"
    await ws.connection.send_frame(b'{"type": "\xff"}', 1)  # type: ignore[arg-type]  # text that is no UTF-8
    assert (await ws.next())["error"]["code"] == "invalid_request_error"
    assert (await ws.turn("hi"))["status"] == "completed"


async def test_an_error_names_the_lane_that_it_is_for(ws: Socket) -> None:
    event = await ws.turn("hi", stream_id="a.b", model="nobody")
    assert (event["stream_id"], event["error"]["code"]) == ("a.b", "model_not_found")


async def test_steering_is_not_supported(official: AsyncResponsesConnection) -> None:
    await official.send({"type": "response.steer", "previous_response_id": "resp_x", "input": "Be brief."})
    event: Any = await official.recv()
    assert (event.type, event.error.code) == ("response.steer.failed", "steering_not_supported")
    assert (event.steer.input, event.steer.previous_response_id) == ("Be brief.", "resp_x")


async def test_what_is_just_small_enough_is_taken(ws: Socket, upstream: FakeUpstream) -> None:
    def message(size: int) -> str:
        frame = json.dumps({"type": "response.create", "model": "tiny", "input": "", "store": False})
        return frame.replace('""', f'"{"x" * (size - len(frame))}"')

    await ws.send(message(MAX_BODY_BYTES))
    assert (await ws.rest())[-1]["type"] == "response.completed"
    await ws.send(message(MAX_BODY_BYTES + 1))
    assert await ws.closed() == 1009


@pytest.mark.parametrize(
    ("headers", "http", "code"),
    [
        ({}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer wrong"}, 401, "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY}", "Sec-WebSocket-Version": "3"}, 400, None),
        ({"Authorization": f"Bearer {KEY}", "Sec-WebSocket-Key": "short"}, 400, None),
    ],
)
async def test_bad_handshakes(headers: dict[str, str], http: int, code: str | None, service: ClusterThread) -> None:
    status, error = await refused(service.origin, headers)
    assert (status, error["code"], error["type"]) == (http, code, "invalid_request_error")


async def test_what_belongs_to_another_tenant_does_not_exist(
    service: ClusterThread, ws: Socket, upstream: FakeUpstream
) -> None:
    stored, unstored = await ws.turn("hi"), await ws.turn("hi", store=False, stream_id="a")
    async with connected(service.origin, key="sk-theirs") as other:
        for response in (stored, unstored):
            assert await other.error("more", previous_response_id=response["id"]) == NOT_FOUND


async def test_a_client_that_sends_what_codex_sends(service: ClusterThread, upstream: FakeUpstream) -> None:
    headers = {"OpenAI-Beta": "responses_websockets=2026-02-06", "Sec-WebSocket-Extensions": "permessage-deflate"}
    async with connected(service.origin, key=KEY, headers=headers) as ws:
        tools = [TOOL, {"type": "web_search"}]
        warm = await ws.turn([], generate=False, store=False, tools=tools, instructions="Be brief.")
        response = await ws.turn("hi", store=False, tools=tools, previous_response_id=warm["id"], include=[])
        assert response["status"] == "completed"


async def test_leaving_cancels_what_runs(service: ClusterThread, upstream: FakeUpstream, raw: RawClient) -> None:
    queue(upstream, [*OPEN, hang()])
    async with connected(service.origin, key=KEY) as ws:
        await ws.create("x")
        seen = await ws.until("response.output_text.delta")
    await upstream.disconnected(0)
    response_id = seen[0]["response"]["id"]
    assert (await service.settled(response_id))["status"] == "cancelled"
    assert (await raw.get(f"/v1/responses/{response_id}")).json()["status"] == "cancelled"


async def test_nothing_that_was_offered_beside_the_key_is_logged(service: ClusterThread) -> None:
    """Pages in browsers send keys as a subprotocol, having no other way."""
    offered = {"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.sk-secret"}
    async with connected(service.origin, key=KEY, headers=offered) as ws:
        assert await ws.error("hi", model="nobody") == (400, "model_not_found")
    assert "sk-secret" not in str(service.cluster.front_ends[0].lines)


async def test_a_socket_and_its_turns_are_logged(service: ClusterThread, upstream: FakeUpstream) -> None:
    (front_end, _) = service.cluster.front_ends
    async with connected(service.origin, key=KEY) as ws:
        await ws.turn("hi", stream_id="logged")
        await ws.turn("hi", stream_id="logged", model="nobody")
    await service.logged(front_end, "turn.served", stream_id="logged", status=200)
    line = await service.logged(front_end, "turn.served", stream_id="logged", status=400)
    request_id = line["request_id"]
    assert (await service.logged(front_end, "socket.closed", request_id=request_id))["turns"] == 2
    await service.logged(front_end, "request.served", request_id=request_id, status=101)
