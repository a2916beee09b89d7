"""Every parameter of create with the official client: what reaches the backend, and what the Response says of it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from fakes.upstream import DONE, FakeUpstream, call_delta, chunk, reply, send, wait
from support.clients import RawClient
from support.cluster_thread import ClusterThread

CODEX = Path(__file__).parents[1] / "data/requests/codex.json"
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
CUSTOM = {"type": "custom", "name": "sql", "description": "Runs SQL.", "format": {"type": "text"}}
SPACE = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [TOOL, CUSTOM]}
MODELS = """
prompts_dir = "{folder}"
[models.generic]
dialect = "chat"
base_url = "{url}"
model = "tiny"
[models.openai]
dialect = "chat"
base_url = "{url}"
model = "tiny"
profile = "openai"
[models.small]
dialect = "chat"
base_url = "{url}"
model = "tiny"
context_tokens = 1000
[models.echo]
dialect = "echo"
"""


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    """Models `generic` and `openai` (profiles), `small` (1,000 tokens), `echo`; one slot, so that work queues."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "greet@1.toml").write_text('instructions = "Speak {{language}}."\ninput = "Hello {{name}}"\n')
    url = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    with ClusterThread(env={"RESPOOL_WORKER_SLOTS": "1"}, config=MODELS.format(folder=folder, url=url)) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


@pytest.fixture
def client(service: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    return openai_client(service.origin)


@pytest_asyncio.fixture
async def raw(service: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(service.origin)


async def create(client: openai.AsyncOpenAI, model: str = "generic", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "input": "hi", **fields}
    made: Any = await client.post("/responses", body=body, cast_to=object)
    return dict(made)


GENERIC_DEFAULTS = {"model", "messages", "stream", "stream_options"}
ANSWERED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # model, what is sent, what of it reaches the backend, what the Response says
    ("generic", {}, {}, {"temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [], "metadata": {}}),
    ("generic", {}, {}, {"truncation": "disabled", "service_tier": "default", "parallel_tool_calls": True}),
    ("generic", {"temperature": 0}, {"temperature": 0}, {"temperature": 0.0}),
    ("generic", {"top_p": 0.5}, {"top_p": 0.5}, {"top_p": 0.5}),
    ("generic", {"max_output_tokens": 16}, {"max_tokens": 16}, {"max_output_tokens": 16}),
    ("openai", {"max_output_tokens": 16}, {"max_completion_tokens": 16}, {"max_output_tokens": 16}),
    ("generic", {"presence_penalty": 1.5}, {"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
    ("generic", {"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
    ("generic", {"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}, {"top_logprobs": 3}),
    ("generic", {"include": ["message.output_text.logprobs"]}, {"logprobs": True}, {"top_logprobs": 0}),
    ("generic", {"include": ["reasoning.encrypted_content", "file_search_call.results"]}, {}, {}),
    ("generic", {"seed": 7, "stop": "END"}, {"seed": 7, "stop": "END"}, {}),
    ("generic", {"top_k": 40, "repetition_penalty": 1.1}, {"top_k": 40, "repetition_penalty": 1.1}, {}),
    ("openai", {"top_k": 40, "repetition_penalty": 1.1}, {}, {}),
    ("generic", {"max_tool_calls": 2}, {}, {"max_tool_calls": 2}),
    ("generic", {"metadata": {"a": "b"}}, {}, {"metadata": {"a": "b"}}),
    ("generic", {"truncation": "auto"}, {}, {"truncation": "auto"}),
    ("generic", {"stream_options": {"include_obfuscation": False}}, {}, {}),
    ("generic", {"parallel_tool_calls": False}, {}, {"parallel_tool_calls": False}),
    ("generic", {"text": {"verbosity": "low"}}, {}, {"text": {"format": {"type": "text"}, "verbosity": "low"}}),
    ("openai", {"text": {"verbosity": "low"}}, {"verbosity": "low"}, {}),
    ("generic", {"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}, {}),
    ("generic", {"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}, {"reasoning": {"effort": "high", "summary": None}}),
    ("generic", {"reasoning": {"summary": "auto", "mode": "x"}}, {}, {"reasoning": {"effort": None, "summary": "auto"}}),
    ("generic", {"reasoning": {"generate_summary": "concise"}}, {}, {"reasoning": {"effort": None, "summary": "concise"}}),
    ("generic", {"service_tier": "auto"}, {}, {"service_tier": "default"}),
    ("generic", {"service_tier": "scale"}, {}, {"service_tier": "default"}),
    ("generic", {"service_tier": "flex"}, {}, {"service_tier": "flex"}),
    ("generic", {"service_tier": "fast"}, {}, {"service_tier": "priority"}),
    ("openai", {"service_tier": "ultrafast"}, {"service_tier": "priority"}, {"service_tier": "priority"}),
    ("generic", {"user": "u", "safety_identifier": "s"}, {}, {"user": "u", "safety_identifier": "s"}),
    ("openai", {"user": "u", "safety_identifier": "s"}, {"user": "u", "safety_identifier": "s"}, {}),
    ("generic", {"prompt_cache_key": "k"}, {}, {"prompt_cache_key": "k"}),
    ("openai", {"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}, {}),
    ("openai", {"prompt_cache_retention": "in-memory"}, {"prompt_cache_retention": "in_memory"}, {"prompt_cache_retention": "in_memory"}),
    ("generic", {"prompt_cache_options": {"mode": "explicit"}}, {}, {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}),
    ("generic", {"tools": [CUSTOM]}, {"tools": [{"type": "function", "function": {"name": "sql"}}]}, {"tools": [CUSTOM]}),
    ("generic", {"tools": [SPACE]}, {"tools": [{"function": {"name": "crm__f"}}, {"function": {"name": "crm__sql"}}]}, {"tools": [SPACE]}),
    (
        "generic",
        {"tools": [TOOL, CUSTOM], "tool_choice": {"type": "custom", "name": "sql"}},
        {"tools": [{"function": {"name": "sql"}}], "tool_choice": {"function": {"name": "sql"}}},
        {"tool_choice": {"type": "custom", "name": "sql"}},
    ),
    (
        "generic",
        {"tools": [TOOL, CUSTOM], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}},
        {"tools": [{"function": {"name": "f"}}], "tool_choice": "required"},
        {"tools": [TOOL, CUSTOM]},
    ),
    ("generic", {"tools": [TOOL], "tool_choice": "none"}, {"tools": [{}], "tool_choice": "none"}, {"tool_choice": "none"}),
    ("generic", {"tools": [TOOL, {"type": "web_search"}]}, {"tools": [{"function": {"name": "f"}}]}, {"tools": [TOOL]}),
    ("generic", {"unheard_of": 1, "client_metadata": {}}, {}, {}),
]  # fmt: skip


def holds(whole: Any, part: Any) -> bool:
    """Whether *part* is in *whole*: objects may have more keys, lists not more members."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and holds(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize(("model", "given", "sent", "said"), ANSWERED, ids=lambda value: str(value)[:50])
async def test_what_reaches_the_backend_and_what_is_echoed(
    model: str, given: dict[str, Any], sent: dict[str, Any], said: dict[str, Any],
    client: openai.AsyncOpenAI, upstream: FakeUpstream,
) -> None:  # fmt: skip
    # An object fits every format here; a call that is demanded never comes, which only fails the response.
    upstream.respond = lambda _: [reply("{}")]
    response = await create(client, model, **given)
    assert response["status"] in ("completed", "failed")
    if response["status"] == "failed":
        assert response["error"]["message"] == "tool_choice demands a tool call, and the model made none."
        assert given["tool_choice"] != "auto"
    body = (await upstream.called()).body
    assert body.pop("store", False) is False  # nothing is kept upstream
    assert holds(body, sent), body
    assert set(body) - GENERIC_DEFAULTS == set(sent)
    assert holds(response, said), response


async def test_a_custom_tool_from_call_to_answer(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    parts = ['{"input": "SELECT', ' 1"}']
    deltas = [call_delta(0, call_id="call_1", name="sql"), *(call_delta(0, arguments=part) for part in parts)]
    upstream.queue(reply(calls=deltas))
    tools: Any = [CUSTOM]
    async with client.responses.stream(model="generic", input="Count.", tools=tools) as stream:
        events = [event async for event in stream]
        first = await stream.get_final_response()
    assert [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"] == [
        "SELECT",
        " 1",
    ]
    (call,) = first.output
    assert call.type == "custom_tool_call"
    assert (call.name, call.input, call.call_id) == ("sql", "SELECT 1", "call_1")
    upstream.queue(reply("One."))
    answer: Any = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "1"}
    second = await client.responses.create(model="generic", input=[answer], previous_response_id=first.id, tools=tools)
    assert second.output_text == "One."
    messages = (await upstream.called(1)).body["messages"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "sql", "arguments": '{"input":"SELECT 1"}'}
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "1"}
    listed = [item.to_dict() async for item in client.responses.input_items.list(second.id)]
    assert [item["type"] for item in listed] == ["custom_tool_call_output", "custom_tool_call", "message"]
    # the same, with everything sent back
    upstream.queue(reply("One."))
    items: Any = [{"role": "user", "content": "Count."}, call.model_dump(), answer]
    assert (await client.responses.create(model="generic", input=items)).output_text == "One."
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_1"):
        await client.responses.create(model="generic", input="hm", previous_response_id=first.id)


async def test_a_call_that_is_not_allowed_fails_the_response(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(reply("Let me see.", calls=[call_delta(0, call_id="call_1", name="sql", arguments="{}")]))
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
    response = await create(client, tools=[TOOL, CUSTOM], tool_choice=allowed)
    assert response["status"] == "failed"
    assert "does not allow" in response["error"]["message"]
    assert [item["type"] for item in response["output"]] == ["message"]


async def test_the_echo_model_calls_what_it_may(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    response = await create(client, "echo", input="echo:call", tools=[CUSTOM, TOOL])
    assert [(item["type"], item.get("input")) for item in response["output"]] == [("custom_tool_call", "echo")]
    choice = {"type": "function", "name": "f"}
    response = await create(client, "echo", input="echo:call", tools=[CUSTOM, TOOL], tool_choice=choice)
    assert [(item["type"], item.get("arguments")) for item in response["output"]] == [("function_call", "{}")]
    response = await create(client, "echo", input="echo:call", tools=[TOOL], tool_choice="none")
    assert [item["type"] for item in response["output"]] == ["message"]


async def test_obfuscation_comes_when_asked_for(
    client: openai.AsyncOpenAI, raw: RawClient, upstream: FakeUpstream
) -> None:
    for options, padded in (({"include_obfuscation": True}, True), (None, False)):
        upstream.queue(reply("Hel", "lo"))
        stream: Any = await client.responses.create(
            model="generic", input="hi", stream=True, stream_options=options  # type: ignore[arg-type]
        )  # fmt: skip
        events = [event async for event in stream]
        deltas = [event.to_dict() for event in events if event.type == "response.output_text.delta"]
        assert {"obfuscation" in delta for delta in deltas} == {padded}
        again: Any = await client.responses.retrieve(events[0].response.id, stream=True)
        assert [event.to_dict() async for event in again] == [event.to_dict() for event in events]


async def test_a_template(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("Bonjour"))
    prompt: Any = {"id": "greet", "variables": {"language": "French", "name": "Ada"}}
    response = await client.responses.create(model="generic", prompt=prompt)
    assert response.prompt is not None
    assert response.prompt.to_dict() == {**prompt, "version": "1"}
    assert response.instructions == "Speak French."
    assert (await upstream.called()).body["messages"] == [
        {"role": "system", "content": "Speak French."},
        {"role": "user", "content": "Hello Ada"},
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="generic", prompt={"id": "nobody"})
    assert (caught.value.code, caught.value.param) == ("prompt_not_found", "prompt.id")


async def test_what_cannot_fit_is_refused_or_cut(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    long = "word " * 2000
    with pytest.raises(openai.BadRequestError) as caught:
        await create(client, "small", input=long)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    upstream.queue(reply("ok"))
    messages = [{"role": "user", "content": long}, {"role": "user", "content": "now"}]
    response = await create(client, "small", input=messages, truncation="auto")
    assert response["truncation"] == "auto"
    assert (await upstream.called()).body["messages"] == [{"role": "user", "content": "now"}]


async def test_tiers_order_the_queue(
    service: ClusterThread, client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    gate = asyncio.Event()
    upstream.queue(send(chunk("busy")), wait(gate), send(chunk(finish="stop"), DONE))
    held = await create(client, background=True)
    await upstream.called()
    made = [
        await create(client, background=True, input=tier, service_tier=tier) for tier in ("flex", "default", "priority")
    ]
    gate.set()
    for body in (held, *made):
        await service.settled(body["id"])
    assert [call.last_user_text for call in upstream.calls[1:]] == ["priority", "default", "flex"]


async def test_items_by_reference(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("Blue.", reasoning=["Sky."]))
    first = await client.responses.create(model="generic", input="Which colour?")
    (asked,) = [item.to_dict() async for item in client.responses.input_items.list(first.id)]
    thought, said = (item.to_dict() for item in first.output)
    upstream.queue(reply("ok"))
    items: Any = [
        {"type": "item_reference", "id": asked["id"]},
        {"type": None, "id": thought["id"]},
        {"id": said["id"]},
        {"role": "user", "content": "Sure?"},
    ]
    second = await client.responses.create(model="generic", input=items)
    assert (await upstream.called(1)).body["messages"] == [
        {"role": "user", "content": "Which colour?"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Sure?"},
    ]
    listed = [item.to_dict() async for item in client.responses.input_items.list(second.id, order="asc")]
    assert listed[:3] == [asked, thought, said]
    # in a chain the item is there already: its copy gets an id of its own
    upstream.queue(reply("ok"))
    again: Any = [{"type": "item_reference", "id": said["id"]}]
    third = await client.responses.create(model="generic", input=again, previous_response_id=first.id)
    listed = [item.to_dict() async for item in client.responses.input_items.list(third.id)]
    assert listed[0]["content"] == said["content"]
    assert len({item["id"] for item in listed}) == len(listed)


async def test_items_that_are_not_there(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("x"))
    unstored = await client.responses.create(model="generic", input="hi", store=False)
    upstream.queue(reply("x"))
    deleted = await client.responses.create(model="generic", input="hi")
    await client.responses.delete(deleted.id)
    for missing in (unstored.output[0].id, deleted.output[0].id, "rs_x", "msg_" + "0" * 38, "x" * 500):
        assert missing is not None
        with pytest.raises(openai.NotFoundError) as caught:
            await create(client, input=[{"type": "item_reference", "id": missing}])
        assert (caught.value.code, caught.value.param) == (None, "input")
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"] == (
            f"Item with id '{missing[:80]}' not found. Items are not persisted when 'store' is set to false. "
            "Try again with 'store' set to true, or remove this item from your input."
        )


async def test_the_request_of_codex(raw: RawClient, upstream: FakeUpstream) -> None:
    body = json.loads(CODEX.read_bytes()) | {"model": "generic"}
    spawn = call_delta(0, call_id="call_2", name="multi_agent_v1__spawn_agent", arguments='{"message":"go"}')
    upstream.queue(reply("On it.", calls=[spawn]))
    answer = await raw.request("POST", "/v1/responses", json=body)
    assert answer.status == 200
    assert answer.headers["x-respool-dropped"] == "tools[8] (web_search), prompt_cache_key, client_metadata (unknown)"
    text = answer.body.decode()
    final = json.loads(text.split("event: response.completed\ndata: ")[1].split("\n\n")[0])["response"]
    call = final["output"][1]
    assert (call["type"], call["name"], call["namespace"]) == ("function_call", "spawn_agent", "multi_agent_v1")
    assert (final["store"], final["reasoning"]) == (False, {"effort": None, "summary": "auto"})
    sent = (await upstream.called()).body
    assert [message["role"] for message in sent["messages"]] == ["system", "system", "user", "assistant", "tool"]
    names = [tool["function"]["name"] for tool in sent["tools"]]
    assert len(names) == 9
    assert names[7:] == ["multi_agent_v1__spawn_agent", "multi_agent_v1__wait_agent"]
    # the next turn brings its calls back
    upstream.queue(reply("Done."))
    body["input"] += [call, {"type": "function_call_output", "call_id": "call_2", "output": "ok"}]
    answer = await raw.request("POST", "/v1/responses", json=body)
    assert "response.completed" in answer.body.decode()
    turn = (await upstream.called(1)).body["messages"][-2]
    assert turn["tool_calls"][0]["function"]["name"] == "multi_agent_v1__spawn_agent"
