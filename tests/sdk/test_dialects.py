"""The other two dialects through the whole service: what a provider wants back survives the turn, whoever carries it."""

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from fakes.upstream import FakeUpstream, frame, send, start
from support.clients import RawClient
from support.cluster_thread import ClusterThread

MODELS = """
[models.claude]
dialect = "anthropic"
base_url = "{url}"
profile = "anthropic"
key_env = "KEY"
[models.native]
dialect = "responses"
base_url = "{url}"
profile = "openai"
key_env = "KEY"
"""
CLAUDE: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 9}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "their-secret"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
THOUGHT = {"type": "reasoning", "id": "rs_theirs", "summary": [], "encrypted_content": "their-secret"}
SAID = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
NATIVE: list[dict[str, Any]] = [
    {"type": "response.output_item.added", "output_index": 0, "item": THOUGHT},
    {"type": "response.output_item.done", "output_index": 0, "item": THOUGHT},
    {"type": "response.output_item.added", "output_index": 1, "item": {**SAID, "content": []}},
    {"type": "response.output_text.delta", "item_id": "m", "delta": "Hello"},
    {"type": "response.output_item.done", "output_index": 1, "item": SAID},
    {"type": "response.completed", "response": {"status": "completed", "output": [THOUGHT, SAID]}},
]
WIRES = {"claude": CLAUDE, "native": NATIVE}


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    url = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    env = {"KEY": "backend-key", "RESPOOL_SEAL_KEY": "k" * 40}
    with ClusterThread(env=env, config=MODELS.format(url=url)) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("model", ["claude", "native"])
async def test_state_comes_back_to_the_provider(
    model: str,
    stored: bool,
    service: ClusterThread,
    upstream: FakeUpstream,
    openai_client: Callable[..., openai.AsyncOpenAI],
) -> None:
    client = openai_client(service.origin)
    for _ in range(2):
        upstream.queue(start(), send(*(frame(one) for one in WIRES[model])))
    first: Any = await client.responses.create(model=model, input="Hi", store=stored)
    assert first.output_text == "Hello"
    assert "their-secret" not in first.model_dump_json()
    again: Any = [{"role": "user", "content": "Hi"}, *first.output, {"role": "user", "content": "and?"}]
    if stored:
        await client.responses.create(model=model, input="and?", previous_response_id=first.id)
    else:
        await client.responses.create(model=model, input=again, store=False)
    call = await upstream.called(1)
    assert json.dumps(call.body).count("their-secret") == 1
    assert call.path == {"claude": "/v1/messages", "native": "/v1/responses"}[model]
    key = {"claude": ("x-api-key", "backend-key"), "native": ("authorization", "Bearer backend-key")}[model]
    assert call.headers[key[0]] == key[1]


async def test_what_the_messages_api_has_not_is_named_or_refused(
    service: ClusterThread, upstream: FakeUpstream, raw_client: Callable[..., RawClient]
) -> None:
    raw = raw_client(service.origin)
    upstream.queue(start(), send(*(frame(one) for one in CLAUDE)))
    body = {"model": "claude", "input": "Hi", "seed": 1, "temperature": 0.5, "reasoning": {"effort": "low"}}
    answer = await raw.request("POST", "/v1/responses", json=body)
    assert answer.status == 200
    assert answer.headers["x-respool-dropped"] == "seed, temperature"
    refused = await raw.request("POST", "/v1/responses", json={"model": "claude", "input": "Hi", "top_logprobs": 1})
    assert refused.status == 400
    assert len(upstream.calls) == 1
