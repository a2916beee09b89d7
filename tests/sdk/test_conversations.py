"""Conversations by the official client: their endpoints, and responses that take turns in them."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from api.routes.conversations import PAGE_BATCHES
from fakes.upstream import FakeUpstream, call_delta, chunk, hang, reply, send, status, wait
from support.clients import RawClient
from support.cluster_thread import ClusterThread

USER: Any = {"type": "message", "role": "user", "content": "hi"}
UNKNOWN = "conv_00" + "0" * 32
LOCKED = "Another process is currently operating on this conversation"
TOOLS: Any = [{"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}}]


def user(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


def text_of(item: Any) -> str:
    parts = item.to_dict()["content"]
    return "".join(part["text"] for part in parts)


async def texts(client: openai.AsyncOpenAI, conversation_id: str) -> list[str]:
    """The texts of a conversation's messages, oldest first."""
    pages = client.conversations.items.list(conversation_id, order="asc", limit=100)
    return [text_of(item) async for item in pages if item.type == "message"]


def told(upstream: FakeUpstream, index: int) -> list[str]:
    """What the model was told in a call."""
    return [message["content"] for message in upstream.calls[index].body["messages"]]


# the conversation itself


async def test_create_read_update_delete(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"topic": "tea"})
    assert made.id.startswith("conv_")
    assert made.metadata == {"topic": "tea"}
    assert (await client.conversations.retrieve(made.id)).to_dict() == made.to_dict()
    changed = await client.conversations.update(made.id, metadata={"mood": "calm"})
    assert changed.to_dict() == {**made.to_dict(), "metadata": {"mood": "calm"}}
    assert (await client.conversations.retrieve(made.id)).to_dict() == changed.to_dict()
    gone = await client.conversations.delete(made.id)
    assert gone.to_dict() == {"id": made.id, "object": "conversation.deleted", "deleted": True}
    with pytest.raises(openai.NotFoundError, match=f"Conversation with id '{made.id}' not found."):
        await client.conversations.retrieve(made.id)


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"metadata": null, "items": null}', b'{"items": []}'])
async def test_create_with_nothing(body: bytes | None, raw: RawClient) -> None:
    made = await raw.post("/v1/conversations", data=body)
    assert made.status == 200
    assert made.json()["metadata"] == {}
    items = (await raw.get(f"/v1/conversations/{made.json()['id']}/items")).json()
    assert items == {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}


async def test_create_with_items(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[USER, {"role": "assistant", "content": "hello"}])
    items = [item.to_dict() async for item in client.conversations.items.list(made.id, order="asc")]
    assert [item["type"] for item in items] == ["message", "message"]
    assert [item["status"] for item in items] == ["completed", "completed"]
    owner = made.id.removeprefix("conv_")
    assert [item["id"] for item in items] == [f"msg_{owner}0000", f"msg_{owner}0001"]
    assert items[1]["content"] == [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}]


# its items


async def test_items_are_added_in_order(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[USER])
    some: Any = [
        user("what time"),
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "call_1", "name": "get_time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "noon"},
        {"role": "assistant", "content": "noon"},
    ]
    added = await client.conversations.items.create(made.id, items=some, include=["message.output_text.logprobs"])
    assert [item.type for item in added.data] == [
        "message", "reasoning", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert (added.first_id, added.last_id) == (added.data[0].id, added.data[-1].id)
    assert added.has_more is False
    assert all(item.to_dict()["status"] == "completed" for item in added.data)
    listed = [item.to_dict() async for item in client.conversations.items.list(made.id, order="asc")]
    assert listed[1:] == [item.to_dict() for item in added.data]
    assert len({item["id"] for item in listed}) == 6
    one = await client.conversations.items.retrieve(str(listed[2]["id"]), conversation_id=made.id)
    assert one.to_dict() == listed[2]


async def test_pages_follow_each_other(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[user(str(number)) for number in range(20)])
    await client.conversations.items.create(made.id, items=[user("20"), user("21"), user("22")])
    everything = [str(number) for number in range(23)]
    for limit in (1, 7, 22, 23, 100):
        found = [text_of(item) async for item in client.conversations.items.list(made.id, order="asc", limit=limit)]
        assert found == everything
        newest = [text_of(item) async for item in client.conversations.items.list(made.id, limit=limit)]
        assert newest == everything[::-1]
    page = await client.conversations.items.list(made.id)
    assert (len(page.data), page.has_more, page.last_id) == (20, True, page.data[-1].id)
    page = await client.conversations.items.list(made.id, order="asc", after=str(page.data[0].id))
    assert (page.data, page.has_more) == ([], False)


async def test_pages_of_a_long_conversation(client: openai.AsyncOpenAI) -> None:
    """Longer than what is read at first, with holes in it: the pages are the same."""
    made = await client.conversations.create()
    count = 3 * PAGE_BATCHES + 5
    ids = []
    for number in range(count):
        added = await client.conversations.items.create(made.id, items=[user(str(number))])
        ids.append(str(added.data[0].id))
    gone = [0, 7, count - PAGE_BATCHES, count - 1, *range(20, 30)]
    for number in gone:
        await client.conversations.items.delete(ids[number], conversation_id=made.id)
    left = [str(number) for number in range(count) if number not in gone]
    for limit in (6, 100):
        found = [text_of(item) async for item in client.conversations.items.list(made.id, order="asc", limit=limit)]
        assert found == left
        newest = [text_of(item) async for item in client.conversations.items.list(made.id, limit=limit)]
        assert newest == left[::-1]
    page = await client.conversations.items.list(made.id, order="asc", after=ids[count - 3])
    assert ([text_of(item) for item in page.data], page.has_more) == ([str(count - 2)], False)
    page = await client.conversations.items.list(made.id, after=ids[3])
    assert ([text_of(item) for item in page.data], page.has_more) == (["2", "1"], False)
    page = await client.conversations.items.list(made.id, after=ids[7], limit=2)
    assert ([text_of(item) for item in page.data], page.has_more) == (["6", "5"], True)
    page = await client.conversations.items.list(made.id, after=ids[0])
    assert (page.data, page.has_more) == ([], False)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_items_are_deleted_while_they_are_listed(order: Any, client: openai.AsyncOpenAI) -> None:
    """The client asks for the next page by the last item of the one before, which is gone by then."""
    made = await client.conversations.create(items=[user(str(number)) for number in range(10)])
    seen = []
    async for item in client.conversations.items.list(made.id, limit=3, order=order):
        seen.append(text_of(item))
        await client.conversations.items.delete(str(item.id), conversation_id=made.id)
    numbers = [str(number) for number in range(10)]
    assert seen == (numbers if order == "asc" else numbers[::-1])
    assert await texts(client, made.id) == []


async def test_a_deleted_item_is_gone_at_once(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create(items=[user("one"), user("two"), user("three")], metadata={"a": "b"})
    ids = [str(item.id) async for item in client.conversations.items.list(made.id, order="asc")]
    left = await client.conversations.items.delete(ids[1], conversation_id=made.id)
    assert left.to_dict() == made.to_dict()
    assert await texts(client, made.id) == ["one", "three"]
    for again in (client.conversations.items.delete, client.conversations.items.retrieve):
        with pytest.raises(openai.NotFoundError, match=f"Item with id '{ids[1]}' not found."):
            await again(ids[1], conversation_id=made.id)
    await client.responses.create(model="tiny", input="four", conversation=made.id)
    assert told(upstream, 0) == ["one", "three", "four"]


async def test_items_keep_their_own_ids_once(client: openai.AsyncOpenAI) -> None:
    own = {**USER, "id": "msg_mine"}
    made = await client.conversations.create(items=[own, own])
    first = [item.id async for item in client.conversations.items.list(made.id, order="asc")]
    assert first[0] == "msg_mine"
    await client.conversations.items.delete("msg_mine", conversation_id=made.id)
    added = await client.conversations.items.create(made.id, items=[own])
    ids = [item.id async for item in client.conversations.items.list(made.id, order="asc")]
    assert ids == [first[1], added.data[0].id]
    answer = await client.responses.create(model="echo", input=[{**own, "id": str(first[1])}], conversation=made.id)
    ids = [item.id async for item in client.conversations.items.list(made.id, order="asc")]
    assert len(set(ids)) == len(ids) == 4
    assert ids[-1] == answer.output[0].id


async def test_a_session_of_an_agent(client: openai.AsyncOpenAI) -> None:
    """As session stores of agent libraries use them: read everything, add a turn, take the newest back, clear."""
    session = (await client.conversations.create()).id

    async def history(limit: int | None = None) -> list[Any]:
        if limit is None:
            return [item.to_dict() async for item in client.conversations.items.list(session, order="asc")]
        newest = await client.conversations.items.list(session, limit=limit, order="desc")
        return [item.to_dict() for item in reversed(newest.data)]

    for word in ("one", "two"):
        turn = [*(await history()), {"role": "user", "content": word}]
        answer = await client.responses.create(model="echo", input=turn)
        added: Any = [{"role": "user", "content": word}, *(item.to_dict() for item in answer.output)]
        await client.conversations.items.create(session, items=added)
    everything = await history()
    assert [item["role"] for item in everything] == ["user", "assistant"] * 2
    assert await history(3) == everything[1:]
    (popped,) = await history(1)
    await client.conversations.items.delete(popped["id"], conversation_id=session)
    assert await history() == everything[:3]
    await client.conversations.delete(session)
    with pytest.raises(openai.NotFoundError):
        await history()


async def test_many_who_add_at_once_lose_nothing(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create()
    add = client.conversations.items.create
    answers = await asyncio.gather(*(add(made.id, items=[user(f"{n}a"), user(f"{n}b")]) for n in range(10)))
    found = [item.to_dict() async for item in client.conversations.items.list(made.id, order="asc", limit=100)]
    assert len({item["id"] for item in found}) == 20
    places = [found.index(answer.data[0].to_dict()) for answer in answers]
    assert sorted(places) == list(range(0, 20, 2))
    assert all(found[place + 1] == answer.data[1].to_dict() for place, answer in zip(places, answers, strict=True))


# responses in it


async def test_turns_build_on_each_other(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create(items=[{"role": "developer", "content": "Count."}])
    for word in ("One.", "Two."):
        upstream.queue(reply(word))
    first = await client.responses.create(model="tiny", input="first", conversation=made.id, instructions="Be brief.")
    assert first.conversation is not None
    assert first.conversation.id == made.id
    assert first.previous_response_id is None
    second = await client.responses.create(model="tiny", input="second", conversation={"id": made.id})
    assert told(upstream, 0) == ["Be brief.", "Count.", "first"]
    assert told(upstream, 1) == ["Count.", "first", "One.", "second"]
    assert await texts(client, made.id) == ["Count.", "first", "One.", "second", "Two."]
    ids = [item.id async for item in client.conversations.items.list(made.id, order="asc")]
    assert ids[-1] == second.output[0].id
    again = await client.responses.retrieve(second.id)
    assert again.conversation is not None
    assert again.conversation.id == made.id


async def test_a_turn_needs_no_input_of_its_own(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create(items=[USER])
    upstream.queue(reply("Hello."))
    answer = await client.responses.create(model="tiny", conversation=made.id)
    assert told(upstream, 0) == ["hi"]
    assert await texts(client, made.id) == ["hi", answer.output_text]


@pytest.mark.parametrize("background", [False, True])
async def test_streams(background: bool, client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create()
    upstream.queue(reply("Hel", "lo."))
    events = await client.responses.create(
        model="tiny", input="hi", conversation=made.id, stream=True, background=background
    )
    seen: list[Any] = [event async for event in events]
    named = [event.response.conversation.id for event in seen if hasattr(event, "response")]
    assert set(named) == {made.id}
    assert seen[-1].type == "response.completed"
    # Written before the last event was sent: who has seen that can go on at once.
    assert await texts(client, made.id) == ["hi", "Hello."]
    await client.responses.create(model="tiny", input="more", conversation=made.id)
    assert told(upstream, 1) == ["hi", "Hello.", "more"]


async def test_one_response_at_a_time(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, service: ClusterThread
) -> None:
    made = await client.conversations.create(items=[USER])
    (item,) = [item async for item in client.conversations.items.list(made.id)]
    gate = asyncio.Event()
    upstream.queue(wait(gate), reply("Hello."))
    running = await client.responses.create(model="tiny", input="go", conversation=made.id, background=True)
    refused: list[Any] = [
        lambda: client.responses.create(model="tiny", input="me too", conversation=made.id),
        lambda: client.responses.create(model="tiny", input="me too", conversation=made.id, stream=True),
        lambda: client.conversations.items.create(made.id, items=[USER]),
        lambda: client.conversations.items.delete(str(item.id), conversation_id=made.id),
    ]
    await upstream.called()
    for call in refused:
        with pytest.raises(openai.BadRequestError, match=LOCKED) as caught:
            await call()
        assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
    assert (await client.conversations.update(made.id, metadata={"a": "b"})).metadata == {"a": "b"}
    assert await texts(client, made.id) == ["hi"]
    gate.set()
    await service.settled(running.id)
    assert await texts(client, made.id) == ["hi", "go", "Hello."]
    await client.responses.create(model="tiny", input="now", conversation=made.id)
    assert told(upstream, 1) == ["hi", "go", "Hello.", "now"]


async def test_writers_at_once_lose_no_item(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create()

    async def write(number: int) -> str | None:
        try:
            answer = await client.responses.create(model="echo", input=f"n{number}", conversation=made.id)
        except openai.BadRequestError as error:
            if error.code != "conversation_locked":
                raise
            return None
        return answer.output_text

    answers = await asyncio.gather(*(write(number) for number in range(12)))
    taken = {f"n{number}": answer for number, answer in enumerate(answers) if answer is not None}
    assert taken
    found = await texts(client, made.id)
    assert dict(zip(found[::2], found[1::2], strict=True)) == taken


async def test_a_failed_turn_adds_nothing(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create(items=[USER])
    upstream.queue(status(400))
    failed = await client.responses.create(model="tiny", input="lost", conversation=made.id)
    assert failed.status == "failed"
    assert await texts(client, made.id) == ["hi"]
    await client.responses.create(model="tiny", input="again", conversation=made.id)
    assert told(upstream, 1) == ["hi", "again"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_turn_adds_nothing(stream: bool, client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create(items=[USER])
    upstream.queue(send(chunk("Once ")), hang())
    options: Any = {"model": "tiny", "input": "lost", "conversation": made.id, "background": True, "stream": stream}
    answer = await client.responses.create(**options)
    if stream:
        response_id = (await anext(answer)).response.id
        async for event in answer:
            if event.type == "response.output_text.delta":
                break
    else:
        response_id = answer.id
        await upstream.called()
    assert (await client.responses.cancel(response_id)).status == "cancelled"
    assert await texts(client, made.id) == ["hi"]
    await client.responses.create(model="tiny", input="again", conversation=made.id)
    assert told(upstream, 1) == ["hi", "again"]


async def test_a_client_that_hangs_up_frees_it(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, service: ClusterThread, raw: RawClient
) -> None:
    made = await client.conversations.create(items=[USER])
    upstream.queue(send(chunk("Once ")), hang())
    body = {"model": "tiny", "input": "lost", "conversation": made.id, "stream": True}
    async with raw.stream("POST", "/v1/responses", json=body) as stream:
        created = await anext(stream.events())
        await upstream.called()
    await service.settled(created["response"]["id"])
    answer = await client.responses.create(model="tiny", input="again", conversation=made.id)
    assert answer.status == "completed"
    assert told(upstream, 1) == ["hi", "again"]


async def test_a_queued_turn_holds_it_until_it_is_cancelled(
    queue_only: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    client = openai_client(queue_only.origin)
    made = await client.conversations.create()
    options: Any = {"model": "echo", "input": "hi", "conversation": made.id, "background": True}
    queued = await client.responses.create(**options)
    with pytest.raises(openai.BadRequestError, match=LOCKED):
        await client.responses.create(**options)
    await client.responses.cancel(queued.id)
    assert (await client.responses.create(**options)).status == "queued"


async def test_an_incomplete_turn_is_part_of_it(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create()
    upstream.queue(reply("Once upon", finish="length"))
    cut = await client.responses.create(model="tiny", input="tell", conversation=made.id)
    assert cut.status == "incomplete"
    await client.responses.create(model="tiny", input="go on", conversation=made.id)
    assert told(upstream, 1) == ["tell", "Once upon", "go on"]


async def test_what_is_not_stored_reads_and_writes_nothing(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, service: ClusterThread
) -> None:
    made = await client.conversations.create(items=[USER])
    gate = asyncio.Event()
    upstream.queue(wait(gate), reply("Hello."))
    upstream.queue(reply("Aside."))
    running = await client.responses.create(model="tiny", input="go", conversation=made.id, background=True)
    await upstream.called()
    aside = await client.responses.create(model="tiny", input="by the way", conversation=made.id, store=False)
    assert aside.conversation is not None
    assert aside.output_text == "Aside."
    assert told(upstream, 1) == ["hi", "by the way"]
    gate.set()
    await service.settled(running.id)
    assert await texts(client, made.id) == ["hi", "go", "Hello."]


async def test_tools_over_turns(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create()
    upstream.queue(reply(calls=[call_delta(0, call_id="call_t", name="get_time", arguments="{}")]))
    upstream.queue(reply("Noon."))
    await client.responses.create(model="tiny", input="what time", conversation=made.id, tools=TOOLS)
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_t"):
        await client.responses.create(model="tiny", input="well?", conversation=made.id, tools=TOOLS)
    outputs: Any = [{"type": "function_call_output", "call_id": "call_t", "output": "12:00"}]
    answer = await client.responses.create(model="tiny", input=outputs, conversation=made.id, tools=TOOLS)
    assert answer.output_text == "Noon."
    assert [message["role"] for message in upstream.calls[1].body["messages"]] == ["user", "assistant", "tool"]
    kinds = [item.type async for item in client.conversations.items.list(made.id, order="asc")]
    assert kinds == ["message", "function_call", "function_call_output", "message"]
    with pytest.raises(openai.BadRequestError, match="No tool call found for function call output") as caught:
        await client.responses.create(
            model="tiny", input=[{**outputs[0], "call_id": "call_x"}], conversation=made.id, tools=TOOLS
        )
    assert caught.value.param == "input"


async def test_input_items_hold_what_was_there(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    made = await client.conversations.create(items=[user("one"), user("two")])
    ids = [str(item.id) async for item in client.conversations.items.list(made.id, order="asc")]
    await client.conversations.items.delete(ids[0], conversation_id=made.id)
    answer = await client.responses.create(model="echo", input="three", conversation=made.id)

    async def brought() -> list[str]:
        pages = client.responses.input_items.list(answer.id, order="asc", limit=1)
        return [text_of(item) async for item in pages]

    assert await brought() == ["two", "three"]
    await client.conversations.items.create(made.id, items=[user("later")])
    await client.conversations.items.delete(ids[1], conversation_id=made.id)
    assert await brought() == ["two", "three"]
    await client.conversations.delete(made.id)
    assert await brought() == ["two", "three"]
    assert (await client.responses.retrieve(answer.id)).status == "completed"
    for method in ("retrieve", "delete"):
        with pytest.raises(openai.NotFoundError):
            await getattr(client.conversations, method)(made.id)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.create(model="echo", input="four", conversation=made.id)
    assert caught.value.param == "conversation"
    # It can still be continued by its own id, outside.
    upstream.queue(reply("ok"))
    await client.responses.create(model="tiny", input="four", previous_response_id=answer.id)
    assert told(upstream, 0) == ["two", "three", answer.output_text, "four"]


async def test_deleted_while_a_turn_runs(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, service: ClusterThread
) -> None:
    made = await client.conversations.create(items=[USER])
    gate = asyncio.Event()
    upstream.queue(wait(gate), reply("Hello."))
    running = await client.responses.create(model="tiny", input="go", conversation=made.id, background=True)
    await upstream.called()
    await client.conversations.delete(made.id)
    gate.set()
    assert (await service.settled(running.id))["status"] == "completed"
    assert (await client.responses.retrieve(running.id)).output_text == "Hello."
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(made.id)


# what is wrong

TOO_MANY = [USER] * 21
ITEMS = "/items"
BAD: list[tuple[str, Any, str | None, str | None]] = [
    ("", {"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
    ("", {"metadata": {"k": 1}}, "invalid_type", "metadata"),
    ("", {}, "missing_required_parameter", "metadata"),
    ("", [], None, None),
    (ITEMS, {}, "missing_required_parameter", "items"),
    (ITEMS, {"items": None}, "invalid_type", "items"),
    (ITEMS, {"items": "hi"}, "invalid_type", "items"),
    (ITEMS, {"items": []}, "array_below_min_length", "items"),
    (ITEMS, {"items": TOO_MANY}, "array_above_max_length", "items"),
    (ITEMS, {"items": [USER, {"type": "mystery"}]}, "unsupported_value", "items[1].type"),
    (ITEMS, {"items": [{"role": "king", "content": ""}]}, "invalid_value", "items[0].role"),
    (f"{ITEMS}?include[]=everything", {"items": [USER]}, "invalid_value", "include"),
]


@pytest.mark.parametrize(("path", "body", "code", "param"), BAD, ids=lambda value: str(value)[:40])
async def test_bad_bodies(path: str, body: Any, code: str | None, param: str | None, raw: RawClient) -> None:
    made = (await raw.post("/v1/conversations")).json()
    answer = await raw.post(f"/v1/conversations/{made['id']}{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"], error["param"]) == (400, "invalid_request_error", code, param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"items": TOO_MANY}, "array_above_max_length", "items"),
        ({"items": "hi"}, "invalid_type", "items"),
        ({"metadata": {str(n): "" for n in range(17)}}, "object_above_max_properties", "metadata"),
        ([], None, None),
    ],
)
async def test_bad_new_conversations(body: Any, code: str | None, param: str | None, raw: RawClient) -> None:
    answer = await raw.post("/v1/conversations", json=body)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    ("query", "status_code", "param"),
    [
        ("limit=0", 400, "limit"),
        ("limit=101", 400, "limit"),
        ("order=sideways", 400, "order"),
        ("include=message.output_text.logprobs,everything", 400, "include"),
        ("after=msg_unknown", 404, "after"),
        ("include=message.output_text.logprobs&include[]=reasoning.encrypted_content", 200, None),
        ("limit=&order=&after=&include=&include[]=", 200, None),
    ],
)
async def test_pages_that_do_not_exist(query: str, status_code: int, param: str | None, raw: RawClient) -> None:
    made = (await raw.post("/v1/conversations", json={"items": [USER]})).json()
    answer = await raw.get(f"/v1/conversations/{made['id']}/items?{query}")
    assert answer.status == status_code
    assert param is None or answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("given", "status_code", "code", "param"),
    [
        (UNKNOWN, 404, None, "conversation"),
        ({"id": UNKNOWN}, 404, None, "conversation"),
        ("conv_1", 404, None, "conversation"),
        ("@x", 400, "invalid_value", "conversation"),
        ({"id": "@x"}, 400, "invalid_value", "conversation.id"),
        ({}, 400, "missing_required_parameter", "conversation.id"),
        (5, 400, "invalid_type", "conversation"),
    ],
)
async def test_conversations_that_cannot_be_used(
    given: Any, status_code: int, code: str | None, param: str, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.responses.create(model="echo", input="hi", conversation=given)
    error = caught.value
    assert (error.status_code, error.code, error.param) == (status_code, code, param)


async def test_a_conversation_or_a_previous_response(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create()
    first = await client.responses.create(model="echo", input="hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="echo", input="hi", conversation=made.id, previous_response_id=first.id)
    assert (caught.value.code, caught.value.param) == ("mutually_exclusive_parameters", "previous_response_id")


# other tenants, and strict mode


@pytest.fixture(scope="module")
def two_tenants() -> Iterator[ClusterThread]:
    """With keys for two tenants; it refuses parameters that it does not know."""
    row = '[[keys]]\nname = "{0}"\ntenant = "{0}"\nsha256 = "{1}"\n'
    keys = "".join(row.format(name, hashlib.sha256(name.encode()).hexdigest()) for name in ("red", "blue"))
    with ClusterThread(
        env={"RESPOOL_STRICT_PARAMETERS": "true"}, config=keys + '[models.echo]\ndialect = "echo"\n'
    ) as cluster:
        yield cluster


async def test_other_tenants_find_nothing(
    two_tenants: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    red = openai_client(two_tenants.origin, api_key="red")
    blue = openai_client(two_tenants.origin, api_key="blue")
    made = await red.conversations.create(items=[USER], metadata={"secret": "yes"})
    (item,) = [item async for item in red.conversations.items.list(made.id)]
    own = await blue.conversations.create()

    def calls(named: str) -> list[Callable[[], Any]]:
        conversations, items = blue.conversations, blue.conversations.items
        return [
            lambda: conversations.retrieve(named),
            lambda: conversations.update(named, metadata={"a": "b"}),
            lambda: items.list(named),
            lambda: items.create(named, items=[USER]),
            lambda: items.retrieve(str(item.id), conversation_id=named),
            lambda: items.delete(str(item.id), conversation_id=named),
            lambda: blue.responses.create(model="echo", input="hi", conversation=named),
            lambda: blue.responses.create(model="echo", input="hi", conversation=named, store=False),
            lambda: conversations.delete(named),
        ]

    for theirs, unknown in zip(calls(made.id), calls(UNKNOWN), strict=True):
        bodies = []
        for call, named in ((theirs, made.id), (unknown, UNKNOWN)):
            with pytest.raises(openai.NotFoundError) as caught:
                await call()
            bodies.append(caught.value.response.text.replace(named, "ID"))
        assert bodies[0] == bodies[1]
    with pytest.raises(openai.NotFoundError):
        await blue.conversations.items.retrieve(str(item.id), conversation_id=own.id)
    assert await texts(red, made.id) == ["hi"]
    assert (await red.conversations.retrieve(made.id)).metadata == {"secret": "yes"}


async def test_unknown_parameters_in_strict_mode(
    two_tenants: ClusterThread, raw_client: Callable[..., RawClient]
) -> None:
    raw = raw_client(two_tenants.origin, headers={"Authorization": "Bearer red"})
    made = (await raw.post("/v1/conversations", json={"items": [USER]})).json()
    for path, body in (("", {}), (f"/{made['id']}", {"metadata": {}}), (f"/{made['id']}/items", {"items": [USER]})):
        answer = await raw.post(f"/v1/conversations{path}", json={**body, "colour": "red"})
        assert answer.status == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("unknown_parameter", "colour")
