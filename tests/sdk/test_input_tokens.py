"""Counting the tokens of a context before it is run: by the backend's tokenizer, or by estimate."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from fakes.upstream import FakeUpstream, hang, send, start, status
from support.clients import RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread
from support.llamacpp import LlamaCpp

PATH, HEADER = "/v1/responses/input_tokens", "x-respool-token-count"
KEY = "sk-very-secret"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


def table(address: str, profile: str, **more: str) -> str:
    return chat_model(address, profile, profile=profile, key_env="BACKEND_KEY", **more).partition("[models.echo]")[0]


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket, llamacpp: LlamaCpp) -> Iterator[ClusterThread]:
    """Models: `vllm`, `llamacpp` and `openai` are the test's upstream, by profile, `anthropic` and `responses` by dialect;
    `tiny` and those that begin with it are a real llama.cpp, over each dialect."""
    address = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    rows = [table(address, "vllm", model="org/name"), table(address, "llamacpp"), table(address, "openai")]
    for dialect, profile in (("anthropic", "anthropic"), ("responses", "openai")):
        rows.append(
            f'[models.{dialect}]\ndialect = "{dialect}"\nbase_url = "{address}"\nprofile = "{profile}"\nmodel = "theirs"\n'
            'key_env = "BACKEND_KEY"\n'
        )
        rows.append(
            f'[models.tiny-{dialect}]\ndialect = "{dialect}"\nbase_url = "{llamacpp.base_url}"\nmodel = "tiny"\n'
            'profile = "llamacpp"\n'
        )
    config = "".join([*rows, chat_model(llamacpp.base_url, "tiny", profile="llamacpp")])
    with ClusterThread(config=config, env={"BACKEND_KEY": KEY}) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


Count = Callable[..., Any]


@pytest.fixture
def count(raw: RawClient) -> Count:
    """``await count(**body)`` -> (tokens, exact or estimate)."""

    async def ask(**body: Any) -> tuple[int, str]:
        answer = await raw.post(PATH, json=body)
        assert answer.status == 200, answer.body
        assert set(answer.json()) == {"object", "input_tokens"}
        assert answer.json()["object"] == "response.input_tokens"
        return answer.json()["input_tokens"], answer.headers[HEADER]

    return ask


async def test_estimates(count: Count) -> None:
    short, kind = await count(model="openai", input="word " * 100)
    assert kind == "estimate"
    assert 100 < short < 160
    longer, _ = await count(model="openai", input="word " * 100, instructions="word " * 80, tools=[TOOL])
    assert longer > short + 100
    assert (await count(model="openai", input=[{"role": "user", "content": [IMAGE]}]))[0] > 500


async def test_nothing_is_needed(count: Count, raw: RawClient) -> None:
    assert await count() == (0, "estimate")
    assert await count(model=None, input=None, tools=None, personality="friendly") == (0, "estimate")
    assert (await count(input="word " * 100))[0] > 100
    assert (await raw.post(PATH)).json() == {"object": "response.input_tokens", "input_tokens": 0}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "nobody"}, "model", "model_not_found"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "invalid_type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"previous_response_id": "resp_unknown"}, "previous_response_id", "previous_response_not_found"),
        ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id", "mutually_exclusive_parameters"),
        ({"reasoning": {"effort": "wild"}}, "reasoning.effort", "invalid_value"),
    ],
)
async def test_refusals(body: dict[str, Any], param: str, code: str, raw: RawClient) -> None:
    answer = await raw.post(PATH, json=body)
    assert answer.status == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


async def test_what_does_not_count_is_not_checked(count: Count) -> None:
    assert (await count(model="echo", input="hi", max_output_tokens=1, temperature=9, stream="yes"))[1] == "estimate"


async def test_history_counts(count: Count, client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="echo", input="word " * 100)
    alone, _ = await count(model="openai", input="hi")
    chained, _ = await count(model="openai", input="hi", previous_response_id=first.id)
    assert chained > alone + 200  # what was said, and what was answered
    conversation = await client.conversations.create(items=[{"role": "user", "content": "word " * 100}])
    assert (await count(input="hi", conversation=conversation.id))[0] > alone + 100
    listed = await client.conversations.items.list(conversation.id)
    assert len(listed.data) == 1


async def test_vllm_counts(count: Count, upstream: FakeUpstream) -> None:
    upstream.queue(status(200, {"count": 42, "max_model_len": 4096, "tokens": [1, 2]}))
    assert await count(model="vllm", input="hi", instructions="Be brief.", tools=[TOOL]) == (42, "exact")
    call = await upstream.called()
    assert call.path == "/tokenize"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.body["model"] == "org/name"
    assert [message["role"] for message in call.body["messages"]] == ["system", "user"]
    assert call.body["tools"][0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("dialect", "path", "told"),
    [
        ("anthropic", "/v1/messages/count_tokens", {"model", "messages", "system", "tools"}),
        ("responses", "/v1/responses/input_tokens", {"model", "input", "instructions", "tools"}),
    ],
)
async def test_those_who_made_a_dialect_count(
    dialect: str, path: str, told: set[str], count: Count, upstream: FakeUpstream
) -> None:
    upstream.queue(status(200, {"object": "response.input_tokens", "input_tokens": 42}))
    assert await count(model=dialect, input="hi", instructions="Be brief.", tools=[TOOL]) == (42, "exact")
    call = await upstream.called()
    assert (call.path, call.body.keys(), call.body["model"]) == (path, told, "theirs")
    header, value = ("x-api-key", KEY) if dialect == "anthropic" else ("authorization", f"Bearer {KEY}")
    assert call.headers[header] == value
    assert ("anthropic-version" in call.headers) == (dialect == "anthropic")


async def test_older_llamacpp_counts_its_prompt(count: Count, upstream: FakeUpstream) -> None:
    upstream.queue(status(404))
    upstream.queue(status(200, {"prompt": "<|user|>hi"}))
    upstream.queue(status(200, {"tokens": [1, {"id": 2, "piece": "x"}, 3]}))
    assert await count(model="llamacpp", input="hi") == (3, "exact")
    assert [call.path for call in upstream.calls] == [
        "/v1/chat/completions/input_tokens",
        "/apply-template",
        "/tokenize",
    ]
    assert upstream.calls[2].body["content"] == "<|user|>hi"


@pytest.mark.parametrize(
    "script",
    [
        [status(500)],
        [status(404)],
        [status(200, {"count": 0})],
        [status(200, {"count": "many"})],
        [status(200, b"junk")],
        [status(200, b"\xff")],
        [status(302, b"", {"Location": "http://127.0.0.1:9/"})],
        [start(), send(b"x" * 100), hang()],
        [hang()],
    ],
    ids=["500", "404", "zero", "text", "junk", "bytes", "redirect", "stalled", "silent"],
)
async def test_without_an_answer_it_is_an_estimate(script: list[Any], count: Count, upstream: FakeUpstream) -> None:
    upstream.queue(*script)
    async with asyncio.timeout(5):
        assert (await count(model="vllm", input="hi"))[1] == "estimate"
    assert len(upstream.calls) == 1


async def test_other_backends_and_other_contexts_are_not_asked(count: Count, upstream: FakeUpstream) -> None:
    assert (await count(model="openai", input="hi"))[1] == "estimate"
    assert (await count(model="vllm", input=[{"role": "user", "content": [IMAGE]}]))[1] == "estimate"
    assert (await count(model="vllm", input="hi", tool_choice="none", tools=[TOOL]))[1] == "estimate"
    assert upstream.calls == []


async def test_a_backend_that_is_away(count: Count, service: ClusterThread) -> None:
    assert (await count(model="vllm", input="hi"))[1] == "estimate"  # nobody listens behind the socket


@pytest.mark.parametrize(
    "body",
    [
        {"input": "tell me a story"},
        {"input": "weather in Paris", "instructions": "Be brief.", "tools": [{**TOOL, "name": "get_weather"}]},
        {"input": [{"role": role, "content": "hi"} for role in ("developer", "user", "assistant", "user")]},
    ],
)
@pytest.mark.parametrize("model", ["tiny", "tiny-anthropic", "tiny-responses"])
async def test_a_real_llamacpp_counts_what_it_takes(
    model: str, body: dict[str, Any], count: Count, client: openai.AsyncOpenAI
) -> None:
    counted = await count(model=model, **body)
    response = await client.responses.create(model=model, max_output_tokens=16, temperature=0, **body)
    assert response.usage is not None
    assert counted == (response.usage.input_tokens, "exact")
    assert (await client.responses.input_tokens.count(model=model, **body)).input_tokens == counted[0]
