"""The HTTP cases of the Open Responses compliance suite (release 2026-04-24), with its kinds of bodies.

Its schemas are checked by the clients of these tests (`support.plugin`), on every answer and every event.
"""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.upstream import FakeUpstream, call_delta, reply
from support.clients import RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread
from support.contract import parse_sse

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content, **more}


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    """A front end and a worker that can compact."""
    address = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    with ClusterThread(env={"RESPOOL_SEAL_KEY": "s" * 32}, config=chat_model(address, "tiny")) as cluster:
        yield cluster


COMPLETED: dict[str, tuple[list[Any], list[tuple[str, Any]]]] = {
    # the input, and what the backend is told
    "basic-response": ([said("user", "Say hello.")], [("user", "Say hello.")]),
    "assistant-phase": (
        [
            said("user", "What is 2 + 2?"),
            said("assistant", "Let me add.", phase="commentary"),
            said("assistant", "4", phase="final_answer"),
            said("user", "Say it again."),
        ],
        [("user", "What is 2 + 2?"), ("assistant", "Let me add."), ("assistant", "4"), ("user", "Say it again.")],
    ),
    "system-prompt": (
        [said("system", "You are a pirate."), said("user", "Say hello.")],
        [("system", "You are a pirate."), ("user", "Say hello.")],
    ),
    "image-input": (
        [said("user", [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PIXEL}])],
        [
            (
                "user",
                [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": PIXEL, "detail": "auto"}},
                ],
            )
        ],
    ),
    "multi-turn": (
        [said("user", "I am Ada."), said("assistant", "Hello Ada!"), said("user", "Who am I?")],
        [("user", "I am Ada."), ("assistant", "Hello Ada!"), ("user", "Who am I?")],
    ),
}


@pytest.mark.parametrize(("items", "told"), COMPLETED.values(), ids=COMPLETED)
async def test_completed(items: list[Any], told: list[tuple[str, Any]], raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("Ahoy."))
    answer = await raw.post("/v1/responses", json={"model": "tiny", "input": items})
    response = answer.json()
    assert (answer.status, response["status"]) == (200, "completed")
    assert response["output"][0]["content"][0]["text"] == "Ahoy."
    messages = (await upstream.called()).body["messages"]
    assert [(message["role"], message["content"]) for message in messages] == told


async def test_phases_are_kept(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("4"))
    items = COMPLETED["assistant-phase"][0]
    response = (await raw.post("/v1/responses", json={"model": "tiny", "input": items})).json()
    listed = (await raw.get(f"/v1/responses/{response['id']}/input_items?order=asc")).json()["data"]
    assert [item.get("phase") for item in listed] == [None, "commentary", "final_answer", None]


async def test_streaming_response(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("One ", "two ", "three."))
    body = {"model": "tiny", "input": [said("user", "Count to three.")], "stream": True}
    events = parse_sse((await raw.post("/v1/responses", json=body)).body).events
    assert len(events) > 1
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.completed", "completed")


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calling_without_strict(stream: bool, raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(
        reply(calls=[call_delta(0, call_id="call_1", name="get_weather", arguments='{"location": "San Francisco"}')])
    )
    body = {"model": "tiny", "input": [said("user", "Weather in San Francisco?")], "tools": [WEATHER], "stream": stream}
    answer = await raw.post("/v1/responses", json=body)
    events = parse_sse(answer.body).events if stream else []
    response = events[-1]["response"] if stream else answer.json()
    (call,) = response["output"]
    assert (call["type"], call["name"], call["arguments"]) == (
        "function_call",
        "get_weather",
        '{"location": "San Francisco"}',
    )
    if stream:
        types = [event["type"] for event in events]
        for wanted in ("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"):
            assert f"response.{wanted}" in types


async def test_compact_response(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("They said hello."))
    spoken = [{"type": "output_text", "text": "Hello!"}]  # without annotations
    items = [said("user", "Hello."), said("assistant", spoken), said("user", "Bye.")]
    answer = await raw.post("/v1/responses/compact", json={"model": "tiny", "input": items, "prompt_cache_key": "key"})
    compacted = answer.json()
    assert (answer.status, compacted["object"]) == (200, "response.compaction")
    assert [item["type"] for item in compacted["output"]] == ["message", "message", "compaction"]
    upstream.queue(reply("Hello again."))
    chained = [*compacted["output"], said("user", "Hello again.")]
    turn = (await raw.post("/v1/responses", json={"model": "tiny", "input": chained, "store": False})).json()
    assert turn["status"] == "completed"


async def test_compact_missing_model(raw: RawClient) -> None:
    answer = await raw.post("/v1/responses/compact", json={"input": [said("user", "Hello.")]})
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "model"
