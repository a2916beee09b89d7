"""`POST /v1/responses/compact` and what it makes: summaries that clients carry and any worker can read."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from fakes.upstream import Call, FakeUpstream, Script, chunk, hang, reply, send, start, status
from shared.core.compaction import HEADING, PROMPT
from support.clients import RawClient
from support.cluster import chat_model, running
from support.cluster_thread import ClusterThread
from support.faults import SHORT_LEASE
from support.plugin import KEY

THEIR_KEY = "sk-theirs"
SEAL = {"RESPOOL_SEAL_KEY": "s" * 32}
PATH = "/v1/responses/compact"
AT_ONCE = {"Retry-After": "0"}
TALK: list[Any] = [
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": "I like tea."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": [{"type": "input_text", "text": "Green tea."}]},
]


def key_row(name: str, key: str) -> str:
    return f'[[keys]]\nname = "{name}"\ntenant = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'


def config(address: str) -> str:
    vllm = f'[models.vllm]\ndialect = "chat"\nbase_url = "{address}"\nprofile = "vllm"\n'
    return key_row("us", KEY) + key_row("them", THEIR_KEY) + vllm + chat_model(address, "tiny")


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    """Two front ends, one worker, two tenants, and a key to seal with."""
    address = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    with ClusterThread(env=SEAL, config=config(address), front_ends=2) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


@pytest.fixture
def elsewhere(service: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    """The other front end."""
    return openai_client(service.cluster.front_ends[1].origin)


def said(call: Call) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in call.body["messages"]]


def as_input(compacted: Any) -> list[Any]:
    return [item.to_dict(warnings=False) for item in compacted.output]  # the client takes messages for assistants'


async def test_a_summary_takes_the_place_of_what_was_said(
    client: openai.AsyncOpenAI, elsewhere: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(reply("Likes ", "green tea.", tokens=(40, 5)))
    compacted = await client.responses.compact(
        model="tiny", input=TALK, instructions="Speak French.", prompt_cache_key="k"
    )
    assert said(await upstream.called()) == [
        ("system", "Speak French."), ("system", "Be kind."), ("user", "I like tea."), ("assistant", "Noted."),
        ("user", "Green tea."), ("user", PROMPT),
    ]  # fmt: skip
    assert compacted.object == "response.compaction"
    assert (compacted.usage.input_tokens, compacted.usage.output_tokens) == (40, 5)
    *kept, last = as_input(compacted)
    assert [(item["role"], item["content"][0]["text"]) for item in kept] == [
        ("user", "I like tea."),
        ("user", "Green tea."),
    ]
    assert last["type"] == "compaction"
    assert last["id"].startswith("cmp_")
    assert "tea" not in last["encrypted_content"]

    upstream.queue(reply("Sencha."))
    again = await elsewhere.responses.create(
        model="tiny", input=[*as_input(compacted), {"role": "user", "content": "Which?"}]
    )
    assert again.output_text == "Sencha."
    opened = [
        ("user", "I like tea."),
        ("user", "Green tea."),
        ("user", f"{HEADING}Likes green tea."),
        ("user", "Which?"),
    ]
    assert said(await upstream.called(1)) == opened
    listed = await client.responses.input_items.list(again.id, order="asc")
    assert [item.to_dict(warnings=False) for item in listed.data][:3] == as_input(compacted)

    upstream.queue(reply("Yes."))
    await client.responses.create(model="tiny", input="Sure?", previous_response_id=again.id, stream=False)
    assert said(await upstream.called(2)) == [*opened, ("assistant", "Sencha."), ("user", "Sure?")]


async def test_a_chain_is_compacted_and_compacted_again(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    for text in ("Noted.", "First summary.", "Second summary."):
        upstream.queue(reply(text))
    first = await client.responses.create(model="tiny", input="I like tea.")
    once = await client.responses.compact(model="tiny", previous_response_id=first.id)
    assert said(upstream.calls[1]) == [("user", "I like tea."), ("assistant", "Noted."), ("user", PROMPT)]
    more: Any = [*as_input(once), {"role": "user", "content": "And cake."}]
    twice = await client.responses.compact(model="tiny", input=more)
    summary = ("user", f"{HEADING}First summary.")
    assert said(upstream.calls[2]) == [("user", "I like tea."), summary, ("user", "And cake."), ("user", PROMPT)]
    assert [item.type for item in twice.output] == ["message", "message", "compaction"]
    listed = await client.responses.input_items.list(first.id)
    assert len(listed.data) == 1  # what was compacted is still as it was


async def test_calls_and_images_are_told(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    items: Any = [{"role": "user", "content": [image]}, call, {**call, "type": "function_call_output", "output": "4"}]
    upstream.queue(reply("A picture."))
    compacted = await client.responses.compact(model="tiny", input=items)
    messages = (await upstream.called()).body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    assert messages[0]["content"][0]["type"] == "image_url"
    kept: Any = as_input(compacted)[0]
    assert kept["content"] == [{**image, "detail": "auto"}]


async def test_its_ids_lead_nowhere(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("Summary."))
    compacted = await client.responses.compact(model="tiny", input="hi")
    for named in (compacted.id, compacted.id.replace("comp_", "resp_")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="echo", input="hi", previous_response_id=named)
        assert caught.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(named)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(
            model="echo", input=[{"type": "item_reference", "id": compacted.output[-1].id or ""}]
        )


async def test_conversations_take_it(client: openai.AsyncOpenAI, raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("Likes tea."))
    upstream.queue(reply("Tea."))
    item = as_input(await client.responses.compact(model="tiny", input="I like tea."))[-1]
    conversation = await client.conversations.create(items=[item])
    [listed] = (await client.conversations.items.list(conversation.id)).data
    assert listed.to_dict(warnings=False) == item
    assert (await client.conversations.items.retrieve(item["id"], conversation_id=conversation.id)).to_dict() == item
    await client.responses.create(model="tiny", input="What do I like?", conversation=conversation.id)
    assert said(upstream.calls[1]) == [("user", f"{HEADING}Likes tea."), ("user", "What do I like?")]
    forged = {"items": [{"role": "user", "content": "x"}, {**item, "encrypted_content": "gAAAAA"}]}
    for path in ("/v1/conversations", f"/v1/conversations/{conversation.id}/items"):
        answer = await raw.post(path, json=forged)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_encrypted_content")
        assert answer.json()["error"]["param"] == "items[1].encrypted_content"


async def test_tokens_are_counted_as_the_model_reads_them(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("word " * 100))
    made = (await raw.post(PATH, json={"model": "tiny", "input": "hi"})).json()["output"]
    body = {"model": "tiny", "input": made}
    estimated = (await raw.post("/v1/responses/input_tokens", json=body)).json()["input_tokens"]
    assert 120 < estimated < 200
    upstream.queue(status(200, {"count": 42}))
    counted = await raw.post("/v1/responses/input_tokens", json={**body, "model": "vllm"})
    assert (counted.json()["input_tokens"], counted.headers["x-respool-token-count"]) == (42, "exact")
    assert said(upstream.calls[1]) == [("user", "hi"), ("user", HEADING + "word " * 100)]


@pytest.mark.parametrize("path", ["/v1/responses", PATH, "/v1/responses/input_tokens"])
async def test_it_opens_for_its_own_tenant_alone(
    path: str, raw: RawClient, raw_client: Callable[..., RawClient], service: ClusterThread, upstream: FakeUpstream
) -> None:
    upstream.queue(reply("A secret."))
    made = (await raw.post(PATH, json={"model": "tiny", "input": "hi"})).json()["output"][-1]
    body = {"model": "echo", "input": [{"role": "user", "content": "hi"}, made]}
    assert (await raw.post(path, json=body)).status == 200
    them = raw_client(service.origin, headers={"Authorization": f"Bearer {THEIR_KEY}"})
    flipped = made["encrypted_content"][:-2] + ("AA" if made["encrypted_content"][-2:] != "AA" else "BB")
    forged = {**body, "input": [body["input"][0], {**made, "encrypted_content": flipped}]}
    for client, sent in ((them, body), (raw, forged)):
        answer = await client.post(path, json=sent)
        assert answer.status == 400
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_encrypted_content")
        assert error["param"] == "input[1].encrypted_content"
        assert "A secret." not in answer.body.decode()


@pytest.mark.parametrize(
    ("script", "tries", "http", "type_", "code"),
    [
        (
            [status(400, {"error": {"message": "prompt is too long"}})],
            1,
            400,
            "invalid_request_error",
            "invalid_prompt",
        ),
        ([status(429, headers=AT_ONCE)], 3, 429, "rate_limit_error", "rate_limit_exceeded"),
        ([status(500, headers=AT_ONCE)], 3, 500, "server_error", "server_error"),
        ([reply("Half a summ", finish="length")], 1, 500, "server_error", "server_error"),
        ([reply()], 1, 500, "server_error", "server_error"),
    ],
    ids=["400", "429", "500", "cut short", "empty"],
)
async def test_no_summary_is_an_error(
    script: Script, tries: int, http: int, type_: str, code: str, raw: RawClient, upstream: FakeUpstream
) -> None:
    upstream.respond = lambda _: script
    answer = await raw.post(PATH, json={"model": "tiny", "input": "hi"})
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (http, type_, code)
    assert ("retry-after" in answer.headers) == (http == 429)
    assert answer.headers.get("x-should-retry") == ("false" if http == 500 else None)
    assert len(upstream.calls) == tries


async def test_the_official_client_compacts_once(
    service: ClusterThread, upstream: FakeUpstream, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    """It retries a 500, unless it is told not to: the same model would be asked for the same summary again."""
    upstream.respond = lambda _: [reply("Half a summ", finish="length")]
    with pytest.raises(openai.InternalServerError, match="cut short"):
        await openai_client(service.origin, max_retries=2).responses.compact(model="tiny", input="hi")
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input": "hi"}, "missing_required_parameter", "model"),
        ({"model": "echo"}, "missing_required_parameter", "input"),
        ({"model": "echo", "input": []}, "missing_required_parameter", "input"),
        ({"model": "echo", "input": "hi", "prompt_cache_key": "k" * 65}, "string_above_max_length", "prompt_cache_key"),
        ({"model": "echo", "previous_response_id": "resp_x"}, "previous_response_not_found", "previous_response_id"),
        (
            {"model": "echo", "input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, None, "input",
        ),
    ],
)  # fmt: skip
async def test_bad_requests(body: dict[str, Any], code: str | None, param: str, raw: RawClient) -> None:
    answer = await raw.post(PATH, json=body)
    assert answer.status == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


async def test_a_hang_up_stops_it(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(start(), send(chunk("Lik")), hang())
    asking = asyncio.create_task(raw.post(PATH, json={"model": "tiny", "input": "hi"}))
    await upstream.called()
    asking.cancel()
    await upstream.disconnected()


async def test_a_dead_worker_does_not_end_it(raw_client: Callable[..., RawClient]) -> None:
    async with (
        FakeUpstream() as upstream,
        running(env=SEAL | SHORT_LEASE, config=chat_model(upstream.base_url, "tiny")) as cluster,
    ):
        raw = raw_client(cluster.front_ends[0].origin)
        upstream.queue(start(), send(chunk("Lik")), hang())
        asking = asyncio.create_task(raw.post(PATH, json={"model": "tiny", "input": "I like tea."}))
        await upstream.called()
        await cluster.workers[0].kill()
        await upstream.disconnected()
        upstream.queue(reply("Likes tea."))
        await cluster.start_worker()
        answer = await asking
        assert [item["type"] for item in answer.json()["output"]] == ["message", "compaction"]
        assert len(upstream.calls) == 2


async def test_nothing_of_other_tenants_is_compacted(
    raw: RawClient, raw_client: Callable[..., RawClient], service: ClusterThread
) -> None:
    response_id = (await raw.post("/v1/responses", json={"model": "echo", "input": "hi"})).json()["id"]
    them = raw_client(service.origin, headers={"Authorization": f"Bearer {THEIR_KEY}"})
    answer = await them.post(PATH, json={"model": "echo", "previous_response_id": response_id})
    assert (answer.status, answer.json()["error"]["code"]) == (400, "previous_response_not_found")
    answer = await raw_client(service.origin, headers={}).post(PATH, json={"model": "echo", "input": "hi"})
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_it_outlives_every_process_but_not_its_key(openai_client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with FakeUpstream() as upstream, running(env=SEAL, config=chat_model(upstream.base_url, "tiny")) as cluster:
        upstream.queue(reply("Likes tea."))
        compacted = await openai_client(cluster.front_ends[0].origin).responses.compact(
            model="tiny", input="I like tea."
        )
        for process in (*cluster.front_ends, *cluster.workers):
            await process.kill()
        rotated = f"{'r' * 32},{SEAL['RESPOOL_SEAL_KEY']}"
        front_end = await cluster.start_front_end(RESPOOL_SEAL_KEY=rotated)
        worker = await cluster.start_worker(RESPOOL_SEAL_KEY=rotated)
        client = openai_client(front_end.origin)
        upstream.queue(reply("Tea."))
        response = await client.responses.create(model="tiny", input=as_input(compacted))
        assert said(upstream.calls[1]) == [("user", "I like tea."), ("user", f"{HEADING}Likes tea.")]

        for process in (front_end, worker):
            await process.kill()
        late = openai_client((await cluster.start_front_end(RESPOOL_SEAL_KEY="r" * 32)).origin)
        await cluster.start_worker(RESPOOL_SEAL_KEY="r" * 32)
        with pytest.raises(openai.BadRequestError) as caught:
            await late.responses.create(model="tiny", input=as_input(compacted))
        assert caught.value.code == "invalid_encrypted_content"
        failed = await late.responses.create(model="tiny", input="And?", previous_response_id=response.id)
        assert failed.error is not None
        assert (failed.status, failed.error.code) == ("failed", "invalid_prompt")
        assert "RESPOOL_SEAL_KEY" in failed.error.message
        counted = await late.responses.input_tokens.count(model="tiny", previous_response_id=response.id)
        assert counted.input_tokens > 5
        assert len(upstream.calls) == 2


async def test_without_a_key_nothing_is_sealed(queue_only: ClusterThread, raw_client: Callable[..., RawClient]) -> None:
    raw = raw_client(queue_only.origin)
    answer = await raw.post(PATH, json={"model": "echo", "input": "hi"})
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "compaction_not_configured")
    assert "RESPOOL_SEAL_KEY" in error["message"]
    item = {"type": "compaction", "encrypted_content": "rsp1.AAAA"}
    answer = await raw.post("/v1/responses", json={"model": "echo", "input": [item]})
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_encrypted_content")
