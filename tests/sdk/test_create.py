"""Create, held until the end: what comes back, what reaches the backend, and how failures look."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pydantic
import pytest

from fakes.upstream import (
    DONE,
    FakeUpstream,
    Step,
    call_delta,
    chunk,
    close,
    completion,
    end,
    reply,
    send,
    start,
    status,
    wait,
)
from support.cluster_thread import ClusterThread

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": None,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


async def test_text_comes_back_with_its_usage(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("Hel", "lo", tokens=(7, 2)))
    response = await client.responses.create(model="tiny", input="Say hello.")
    assert response.status == "completed"
    assert response.output_text == "Hello"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 2, 9)
    assert response._request_id is not None
    assert response._request_id.startswith("req_")
    call = await upstream.called()
    assert call.body["model"] == "tiny"
    assert call.body["messages"] == [{"role": "user", "content": "Say hello."}]
    assert (await client.responses.retrieve(response.id)).model_dump() == response.model_dump()


def test_the_synchronous_client(service: ClusterThread, openai_sync_client: Callable[..., openai.OpenAI]) -> None:
    client = openai_sync_client(service.origin)
    response = client.responses.create(model="echo", input="echo:words=3")
    assert response.output_text == "w0 w1 w2 "
    types = [event.type for event in client.responses.create(model="echo", input="echo:words=2", stream=True)]
    assert types[0] == "response.created"
    assert types[-1] == "response.completed"
    with client.responses.stream(model="echo", input="echo:words=4") as stream:
        assert stream.get_final_response().output_text == "w0 w1 w2 w3 "
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_unknown")


async def test_what_was_asked_is_echoed_and_reaches_the_backend(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(reply("ok"))
    response = await client.responses.create(
        model="tiny",
        input="hi",
        instructions="Be brief.",
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=64,
        metadata={"job": "42", "empty": ""},
        tools=[WEATHER],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        safety_identifier="someone",
        prompt_cache_key="cache",
        user="me",
    )
    assert response.metadata == {"job": "42", "empty": ""}
    assert response.instructions == "Be brief."
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 0.9, 64)
    assert [tool.model_dump(exclude_unset=True) for tool in response.tools] == [WEATHER]
    assert response.parallel_tool_calls is False
    assert response.reasoning is not None
    assert response.reasoning.effort == "low"
    assert (response.safety_identifier, response.prompt_cache_key, response.user) == ("someone", "cache", "me")
    body = (await upstream.called()).body
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 64)
    assert body["parallel_tool_calls"] is False
    assert body["reasoning_effort"] == "low"
    assert body["tools"][0]["function"]["name"] == "get_weather"
    assert body["tools"][0]["function"]["parameters"] == WEATHER["parameters"]


async def test_what_local_servers_add_reaches_the_backend(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("ok"))
    more = {"seed": 7, "stop": ["END"], "presence_penalty": 0.5, "frequency_penalty": -0.5}
    response = await client.responses.create(model="tiny", input="hi", extra_body={**more, "unknown_key": {"a": 1}})
    assert response.to_dict()["presence_penalty"] == 0.5
    body = (await upstream.called()).body
    assert {name: body.get(name) for name in more} == more
    assert "unknown_key" not in body


class Person(pydantic.BaseModel):
    name: str
    age: int


async def test_a_schema_is_passed_on_and_the_answer_parsed(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply('{"name": "Ada", ', '"age": 36}'))
    response = await client.responses.parse(model="tiny", input="Who?", text_format=Person)
    assert response.output_parsed == Person(name="Ada", age=36)
    wanted = (await upstream.called()).body["response_format"]
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["name"] == "Person"
    assert wanted["json_schema"]["strict"] is True
    assert set(wanted["json_schema"]["schema"]["properties"]) == {"name", "age"}
    upstream.queue(reply('{"name": "Bob", "age": 1}'))
    async with client.responses.stream(model="tiny", input="Who?", text_format=Person) as stream:
        assert (await stream.get_final_response()).output_parsed == Person(name="Bob", age=1)


async def test_reasoning_comes_before_the_text(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("42", reasoning=["Let me ", "think."]))
    response = await client.responses.create(model="tiny", input="hi")
    thoughts, message = response.output
    assert thoughts.type == "reasoning"
    assert thoughts.content is not None
    assert [part.text for part in thoughts.content] == ["Let me think."]
    assert message.type == "message"
    assert response.output_text == "42"


async def test_a_backend_that_does_not_stream_is_understood(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(status(200, completion("All at once.")))
    response = await client.responses.create(model="tiny", input="hi")
    assert response.output_text == "All at once."


async def test_a_refusal(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(send(chunk(refusal="I "), chunk(refusal="won't."), chunk(finish="stop"), DONE))
    response = await client.responses.create(model="tiny", input="hi")
    assert response.status == "completed"
    assert response.output[0].to_dict()["content"] == [{"type": "refusal", "refusal": "I won't."}]
    assert response.usage is None  # the backend never told it


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_was_cut_short(
    finish: str, reason: str, client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(reply("Once upon", finish=finish))
    response = await client.responses.create(model="tiny", input="hi")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == reason
    assert response.completed_at is None
    assert response.output_text == "Once upon"
    assert response.output[0].to_dict()["status"] == "incomplete"


AT_ONCE = {"Retry-After": "0"}
KEY = "sk-aaaabbbbccccdddd"


@pytest.mark.parametrize(
    ("steps", "tries", "code", "text"),
    [
        pytest.param([status(400)], 1, "invalid_prompt", "", id="400"),
        pytest.param([status(401, {"error": {"message": f"bad key {KEY}"}})], 1, "server_error", "", id="401"),
        pytest.param([status(429, headers=AT_ONCE)], 3, "rate_limit_exceeded", "", id="429"),
        pytest.param([status(500, headers=AT_ONCE)], 3, "server_error", "", id="500"),
        pytest.param([send(chunk("Hal")), close()], 1, "server_error", "Hal", id="cut"),
        pytest.param([send(chunk("Hal")), end()], 1, "server_error", "Hal", id="never said why it ended"),
        pytest.param(
            [start(), send(chunk("Hal"), {"error": {"message": "out of memory"}})], 1, "server_error", "Hal",
            id="error in the stream",
        ),
    ],
)  # fmt: skip
async def test_a_failing_backend_makes_a_failed_response(
    steps: list[Step], tries: int, code: str, text: str, client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.respond = lambda _: steps
    stream = [event async for event in await client.responses.create(model="tiny", input="hi", stream=True)]
    assert len(upstream.calls) == tries
    last = stream[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == code
    assert last.response.output_text == text
    assert KEY not in last.response.error.message
    response = await client.responses.retrieve(last.response.id)
    assert response.status == "failed"


async def test_a_failed_response_is_an_answer_not_an_http_error(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(status(400, {"error": {"message": "The prompt is too long.", "type": "invalid_request_error"}}))
    response = await client.responses.create(model="tiny", input="hi")
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.code == "invalid_prompt"
    assert "The prompt is too long." in response.error.message
    assert (await client.responses.retrieve(response.id)).status == "failed"


async def test_a_backend_that_recovers_is_asked_again(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(status(503, headers=AT_ONCE))
    upstream.queue(reply("here"))
    response = await client.responses.create(model="tiny", input="hi")
    assert response.output_text == "here"
    assert len(upstream.calls) == 2


async def test_parallel_calls_of_functions(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    oslo = [call_delta(0, call_id="call_a", name="get_weather", arguments='{"city": ')]
    oslo.append(call_delta(0, arguments='"Oslo"}'))
    rome = call_delta(1, call_id="call_b", name="get_weather", arguments='{"city": "Rome"}')
    upstream.queue(reply(calls=[*oslo, rome]))
    response = await client.responses.create(model="tiny", input="hi", tools=[WEATHER])
    calls = [item.to_dict() for item in response.output]
    assert [(call["call_id"], call["arguments"]) for call in calls] == [
        ("call_a", '{"city": "Oslo"}'),
        ("call_b", '{"city": "Rome"}'),
    ]
    assert len({call["id"] for call in calls} | {"call_a", "call_b"}) == 4


async def test_unstored_responses_cannot_be_found(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    response = await client.responses.create(model="echo", input="hi", store=False)
    assert response.status == "completed"
    assert response.to_dict()["store"] is False
    calls: list[Callable[[], Any]] = [
        lambda: client.responses.retrieve(response.id),
        lambda: client.responses.retrieve(response.id, stream=True),
        lambda: client.responses.cancel(response.id),
        lambda: client.responses.delete(response.id),
        lambda: client.responses.input_items.list(response.id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            await call()
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="echo", input="hi", previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"


async def test_an_unstored_response_cannot_be_found_while_it_streams(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    gate = asyncio.Event()
    upstream.queue(send(chunk("Hel")), wait(gate), reply("lo"))
    stream = await client.responses.create(model="tiny", input="hi", store=False, stream=True)
    created = await anext(stream)
    assert created.type == "response.created"
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(created.response.id)
    gate.set()
    last = [event async for event in stream][-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Hello"


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert sorted(listed) == ["echo", "other/model", "tiny"]
    assert (await client.models.retrieve("other/model")).id == "other/model"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("nobody/knows")
    assert caught.value.code == "model_not_found"


async def test_a_model_with_a_slash_is_called(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("ok"))
    response = await client.responses.create(model="other/model", input="hi")
    assert response.model == "other/model"
    assert (await upstream.called()).body["model"] == "other/model"
