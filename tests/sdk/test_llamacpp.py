"""The core flows against a real llama.cpp; and that it stops generating when nobody wants the answer any more."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from support.clients import RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread
from support.llamacpp import LlamaCpp

ESSAY = "write a long essay"
ESSAY_TOKENS = 1000
"""It goes on for at least so long."""
CUT_TOKENS = ESSAY_TOKENS // 2
"""A generation that was stopped after its first words has made fewer."""
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "name": name, "parameters": CITY} for name in ("get_weather", "get_time")]


@pytest.fixture(scope="module")
def real(llamacpp: LlamaCpp) -> Iterator[ClusterThread]:
    """A front end and a worker before llama.cpp."""
    cold = f'[models.cold]\ndialect = "chat"\nbase_url = "{llamacpp.base_url}"\nprofile = "llamacpp"\nmodel = "tiny"\n'
    native = f'[models.native]\ndialect = "responses"\nbase_url = "{llamacpp.base_url}"\nprofile = "llamacpp"\nmodel = "tiny"\n'
    config = f"{native}{cold}profile_overrides = {{extra_body = {{temperature = 0}}}}\n" + chat_model(
        llamacpp.base_url, "tiny", profile="llamacpp"
    )
    env = {"LOG_LEVEL": "debug", "RESPOOL_SEAL_KEY": "s" * 32}
    with ClusterThread(config=config, env=env) as cluster:
        yield cluster


@pytest.fixture
def client(real: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    return openai_client(real.origin)


async def test_text(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="tiny", input="tell me a story", temperature=0)
    assert response.status == "completed"
    assert len(response.output_text) > 100
    assert response.usage is not None
    assert response.usage.output_tokens > 50
    stream = await client.responses.create(model="tiny", input="tell me a story", temperature=0, stream=True)
    deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == response.output_text
    assert len(deltas) > 50


async def test_reasoning(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="tiny", input="think about it", temperature=0) as stream:
        response = await stream.get_final_response()
    thoughts, message = response.output
    assert thoughts.type == "reasoning"
    assert thoughts.content
    assert thoughts.content[0].text
    assert message.type == "message"
    assert response.output_text
    assert "<think>" not in response.output_text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [("weather in Paris", ["get_weather"]), ("weather in Paris and time in Oslo", ["get_weather", "get_time"])],
)
async def test_tool_calls_and_their_outputs(
    prompt: str, wanted: list[str], stream: bool, client: openai.AsyncOpenAI
) -> None:
    options: Any = {"model": "tiny", "tools": TOOLS, "temperature": 0, "max_output_tokens": 200}
    if stream:
        async with client.responses.stream(input=prompt, **options) as events:
            asked: Any = await events.get_final_response()
    else:
        asked = await client.responses.create(input=prompt, **options)
    assert asked.status == "completed"
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [call.name for call in calls] == wanted
    assert all(list(json.loads(call.arguments)) == ["city"] for call in calls)  # which city: the model is very small
    outputs: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    chained = await client.responses.create(input=outputs, previous_response_id=asked.id, **options)
    history: Any = [{"role": "user", "content": prompt}, *asked.output, *outputs]
    resent = await client.responses.create(input=history, **options)
    assert chained.status == resent.status
    assert chained.error is None
    assert chained.output_text == resent.output_text


async def test_the_length_limit(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="tiny", input=ESSAY, temperature=0, max_output_tokens=20)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 20


async def test_characters_of_several_tokens(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="tiny", input="use unicode", temperature=0)
    assert not response.output_text.isascii()
    assert "\ufffd" not in response.output_text
    stream = await client.responses.create(model="tiny", input="use unicode", temperature=0, stream=True)
    deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == response.output_text


class Place(pydantic.BaseModel):
    city: str
    sunny: bool


@pytest.mark.parametrize("model", ["tiny", "native"])
async def test_an_answer_in_a_schema(model: str, client: openai.AsyncOpenAI) -> None:
    """Also over llama.cpp's own Responses API, which ignores ``text.format``."""
    response = await client.responses.parse(
        model=model, input="hello", text_format=Place, temperature=0, max_output_tokens=400
    )
    if response.status == "completed":
        assert isinstance(response.output_parsed, Place)
    assert response.output_text.lstrip().startswith("{")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_response_stops_the_generation(
    stream: bool, client: openai.AsyncOpenAI, llamacpp: LlamaCpp, real: ClusterThread
) -> None:
    before = await asyncio.to_thread(llamacpp.wait_idle)
    count = len(real.cluster.workers[0].find("upstream.called"))
    made: Any = await client.responses.create(model="tiny", input=ESSAY, temperature=0, background=True, stream=stream)
    response_id = (await anext(made)).response.id if stream else made.id
    await real.logged(real.cluster.workers[0], "upstream.called", count=count + 1)
    cancelled = await client.responses.cancel(response_id)
    assert cancelled.status == "cancelled"
    made_tokens = await asyncio.to_thread(llamacpp.wait_idle) - before
    assert made_tokens < CUT_TOKENS
    if stream:
        await made.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_stops_the_generation(
    stream: bool, raw_client: Callable[..., RawClient], llamacpp: LlamaCpp, real: ClusterThread
) -> None:
    before = await asyncio.to_thread(llamacpp.wait_idle)
    count = len(real.cluster.workers[0].find("upstream.called"))
    settled = len(real.cluster.workers[0].find("response.settled"))
    raw = raw_client(real.origin)
    body = {"model": "tiny", "input": ESSAY, "temperature": 0, "stream": stream}

    async def call() -> None:
        async with raw.stream("POST", "/v1/responses", json=body) as answer:
            await answer.read()

    calling = asyncio.create_task(call())
    await real.logged(real.cluster.workers[0], "upstream.called", count=count + 1)
    calling.cancel()
    await asyncio.wait([calling])
    line = await real.logged(real.cluster.workers[0], "response.settled", count=settled + 1)
    assert line["status"] == "cancelled"
    assert await asyncio.to_thread(llamacpp.wait_idle) - before < CUT_TOKENS


async def test_the_essay_is_long_when_nobody_stops_it(client: openai.AsyncOpenAI, llamacpp: LlamaCpp) -> None:
    before = await asyncio.to_thread(llamacpp.wait_idle)
    response = await client.responses.create(model="tiny", input=ESSAY, temperature=0, max_output_tokens=ESSAY_TOKENS)
    assert response.status == "incomplete"
    assert await asyncio.to_thread(llamacpp.wait_idle) - before == ESSAY_TOKENS


async def test_a_context_is_compacted_and_gone_on_from(client: openai.AsyncOpenAI) -> None:
    told = await client.responses.create(model="tiny", input="tell me a story", temperature=0)
    compacted = await client.responses.compact(model="cold", previous_response_id=told.id)
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    assert compacted.usage.input_tokens > 100
    items: Any = [item.to_dict(warnings=False) for item in compacted.output]  # the client takes it for the assistant's
    again: Any = [*items, {"role": "user", "content": "tell me a story"}]
    response = await client.responses.create(model="tiny", input=again, temperature=0, max_output_tokens=16)
    assert response.output_text
    assert response.usage is not None
    alone = await client.responses.input_tokens.count(model="tiny", input="tell me a story")
    assert response.usage.input_tokens > alone.input_tokens + 20
