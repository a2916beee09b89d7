"""Provider state over turns with the official client: by chain, by conversation, and by items that the client holds."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from typing import Any

import openai
import pytest
import pytest_asyncio

from fakes.upstream import DONE, FakeUpstream, call_delta, chunk, reply, send
from support.cluster_thread import ClusterThread

SIGNATURE = {"google": {"thought_signature": "c2lnbmVk"}}
TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
OUTPUT: Any = {"type": "function_call_output", "call_id": "call_f", "output": "42"}
SEALED: Any = ["reasoning.encrypted_content"]
MODELS = """
[models.gemini]
dialect = "chat"
base_url = "{url}"
profile = "gemini"
[models.deepseek]
dialect = "chat"
base_url = "{url}"
profile = "deepseek"
"""
KEYS = "".join(
    f'[[keys]]\nname = "{name}"\ntenant = "{name}"\nsha256 = "{sha256(f"sk-{name}".encode()).hexdigest()}"\n'
    for name in ("us", "them")
)


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    url = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    env = {"RESPOOL_SEAL_KEY": "k" * 32}
    with ClusterThread(env=env, config=MODELS.format(url=url) + KEYS) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


@pytest.fixture
def us(service: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    return openai_client(service.origin, api_key="sk-us")


@pytest.fixture
def them(service: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    return openai_client(service.origin, api_key="sk-them")


def signed_call() -> Any:
    delta = call_delta(0, call_id="call_f", name="f", arguments="{}") | {"extra_content": SIGNATURE}
    return send(chunk(calls=[delta]), chunk(finish="stop"), DONE)


async def told(upstream: FakeUpstream, index: int = 1) -> Any:
    """The assistant's message in a request that reached the backend."""
    messages = (await upstream.called(index)).body["messages"]
    (message,) = [message for message in messages if message["role"] == "assistant"]
    return message


async def test_a_chain_gives_the_signature_back(us: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(signed_call())
    first = await us.responses.create(model="gemini", input="x", tools=[TOOL])
    assert [item.type for item in first.output] == ["reasoning", "function_call"]
    upstream.queue(reply("ok"))
    await us.responses.create(model="gemini", input=[OUTPUT], previous_response_id=first.id)
    assert (await told(upstream))["tool_calls"][0]["extra_content"] == SIGNATURE


async def test_a_conversation_gives_the_signature_back(us: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    conversation = await us.conversations.create()
    upstream.queue(signed_call())
    await us.responses.create(model="gemini", input="x", tools=[TOOL], conversation=conversation.id)
    upstream.queue(reply("ok"))
    await us.responses.create(model="gemini", input=[OUTPUT], conversation=conversation.id)
    assert (await told(upstream))["tool_calls"][0]["extra_content"] == SIGNATURE


async def unstored(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> list[Any]:
    """What a client holds of an unstored, streamed turn."""
    upstream.queue(signed_call())
    async with client.responses.stream(model="gemini", input="x", tools=[TOOL], store=False, include=SEALED) as stream:
        async for _ in stream:
            pass
        first = await stream.get_final_response()
    return [{"role": "user", "content": "x"}, *(item.model_dump(exclude_none=True) for item in first.output), OUTPUT]


def without_parsed(items: list[Any]) -> list[Any]:
    """The SDK's helper adds fields of its own to what it has parsed."""
    return [{key: value for key, value in item.items() if key != "parsed_arguments"} for item in items]


async def test_items_of_the_client_give_the_signature_back(us: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    items = without_parsed(await unstored(us, upstream))
    upstream.queue(reply("ok"))
    await us.responses.create(model="gemini", input=items, store=False)
    assert (await told(upstream))["tool_calls"][0]["extra_content"] == SIGNATURE


async def test_what_is_not_ours_is_ignored(
    us: openai.AsyncOpenAI, them: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    items = without_parsed(await unstored(us, upstream))
    forged = [item | {"encrypted_content": "rsp1.AAAA"} if item.get("type") == "reasoning" else item for item in items]
    for index, (client, given) in enumerate([(them, items), (us, forged)], start=1):
        upstream.queue(reply("ok"))
        response = await client.responses.create(model="gemini", input=given, store=False)
        assert response.status == "completed"
        assert (await told(upstream, index))["tool_calls"][0].get("extra_content") != SIGNATURE


async def test_a_client_that_keeps_no_reasoning_text(us: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    """As Codex does: it sends back the sealed text alone."""
    call = call_delta(0, call_id="call_f", name="f", arguments="{}")
    upstream.queue(reply(reasoning=["Hm", "."], calls=[call]))
    first = await us.responses.create(model="deepseek", input="x", tools=[TOOL], store=False, include=SEALED)
    items: Any = [{"role": "user", "content": "x"}]
    for item in first.output:
        kept = item.model_dump(exclude_none=True)
        kept.pop("content", None)
        items.append(kept)
    upstream.queue(reply("ok"))
    await us.responses.create(model="deepseek", input=[*items, OUTPUT], store=False)
    assert (await told(upstream))["reasoning_content"] == "Hm."
