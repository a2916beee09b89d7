"""Background responses: queued, polled, cancelled in every state, deleted."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from fakes.upstream import FakeUpstream, Send, chunk, hang, reply, send, wait
from support.clients import RawClient
from support.cluster_thread import ClusterThread

HALF = [send(chunk("Once "), chunk("upon ")), hang()]


async def test_queued_then_running_then_done(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, service: ClusterThread
) -> None:
    gate = asyncio.Event()
    upstream.queue(wait(gate), reply("Done."))
    queued = await client.responses.create(model="tiny", input="hi", background=True, metadata={"a": "b"})
    assert queued.status == "queued"
    assert queued.output == []
    assert queued.usage is None
    assert queued.background is True
    await upstream.called()
    running = await client.responses.retrieve(queued.id)
    assert running.status == "in_progress"
    gate.set()
    await service.settled(queued.id)
    done = await client.responses.retrieve(queued.id)
    assert done.status == "completed"
    assert done.output_text == "Done."
    assert done.metadata == {"a": "b"}
    assert done.created_at == queued.created_at
    assert done.completed_at is not None


async def test_it_cannot_be_streamed_unless_it_was_created_so(client: openai.AsyncOpenAI) -> None:
    queued = await client.responses.create(model="echo", input="hi", background=True)
    with pytest.raises(openai.BadRequestError, match="not created with stream=true") as caught:
        await client.responses.retrieve(queued.id, stream=True)
    assert caught.value.param == "stream"


async def test_unstored_ones_can_be_polled_but_not_continued(
    client: openai.AsyncOpenAI, service: ClusterThread
) -> None:
    queued = await client.responses.create(model="echo", input="echo:words=2", background=True, store=False)
    await service.settled(queued.id)
    assert (await client.responses.retrieve(queued.id)).output_text == "w0 w1 "
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="echo", input="hi", previous_response_id=queued.id)
    assert caught.value.code == "previous_response_not_found"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_running_one_is_cancelled_and_keeps_what_it_has(
    stream: bool, client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(*HALF)
    if stream:
        events = await client.responses.create(model="tiny", input="hi", background=True, stream=True)
        created = await anext(events)
        response_id = created.response.id
        async for event in events:
            if event.type == "response.output_text.delta" and event.delta == "upon ":
                break
    else:
        response_id = (await client.responses.create(model="tiny", input="hi", background=True)).id
        await upstream.called()
    cancelled = await client.responses.cancel(response_id)
    assert cancelled.status == "cancelled"
    assert cancelled.error is None
    assert cancelled.completed_at is None
    await upstream.disconnected()
    if stream:
        assert cancelled.output_text == "Once upon "
        assert cancelled.output[0].to_dict()["status"] == "incomplete"
        rest = [event async for event in events]
        assert rest[-1].type == "response.failed"
        assert rest[-1].response.status == "cancelled"
        assert rest[-1].response.to_dict() == cancelled.to_dict()
    again = await client.responses.cancel(response_id)
    assert again.to_dict() == cancelled.to_dict()
    assert (await client.responses.retrieve(response_id)).to_dict() == cancelled.to_dict()


async def test_two_cancels_at_once_agree(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(*HALF)
    queued = await client.responses.create(model="tiny", input="hi", background=True)
    await upstream.called()
    answers = await asyncio.gather(*(client.responses.cancel(queued.id) for _ in range(5)))
    assert {answer.status for answer in answers} == {"cancelled"}
    assert len({answer.to_json() for answer in answers}) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_queued_one_is_cancelled_at_once(
    stream: bool, queue_only: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    client = openai_client(queue_only.origin)
    if stream:
        events = await client.responses.create(model="echo", input="hi", background=True, stream=True)
        response_id = (await anext(events)).response.id
    else:
        response_id = (await client.responses.create(model="echo", input="hi", background=True)).id
    assert (await client.responses.retrieve(response_id)).status == "queued"
    cancelled = await client.responses.cancel(response_id)
    assert cancelled.status == "cancelled"
    assert cancelled.output == []
    if stream:
        types = [event.type async for event in events]
        assert types == ["response.queued", "response.failed"]
    assert (await client.responses.cancel(response_id)).to_dict() == cancelled.to_dict()
    assert (await client.responses.retrieve(response_id)).to_dict() == cancelled.to_dict()


async def test_a_queued_one_cannot_be_deleted_or_continued(
    queue_only: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    client = openai_client(queue_only.origin)
    queued = await client.responses.create(model="echo", input="hi", background=True)
    with pytest.raises(openai.BadRequestError, match="Cannot delete an in-flight response"):
        await client.responses.delete(queued.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="echo", input="hi", previous_response_id=queued.id)
    assert caught.value.code == "previous_response_not_found"
    items = [item async for item in client.responses.input_items.list(queued.id)]
    assert len(items) == 1
    await client.responses.cancel(queued.id)
    await client.responses.delete(queued.id)


async def test_a_queued_foreground_call_that_hangs_up_is_cancelled(
    queue_only: ClusterThread,
    openai_client: Callable[..., openai.AsyncOpenAI],
    raw_client: Callable[..., RawClient],
) -> None:
    raw = raw_client(queue_only.origin)
    async with raw.stream("POST", "/v1/responses", json={"model": "echo", "input": "hi", "stream": True}) as stream:
        created = await anext(stream.events())
    response_id = created["response"]["id"]
    client = openai_client(queue_only.origin)
    resumed = await client.responses.retrieve(response_id, stream=True, starting_after=0)
    last = [event async for event in resumed][-1]
    assert last.type == "response.failed"
    assert last.response.status == "cancelled"


@pytest.mark.parametrize(
    ("prompt", "status"), [("hi", "completed"), ("echo:fail", "failed"), ("echo:words=99", "incomplete")]
)
async def test_what_has_ended_cannot_be_cancelled(
    prompt: str, status: str, client: openai.AsyncOpenAI, service: ClusterThread
) -> None:
    queued = await client.responses.create(model="echo", input=prompt, background=True, max_output_tokens=16)
    assert (await service.settled(queued.id))["status"] == status
    with pytest.raises(openai.BadRequestError, match=f"Cannot cancel an? {status} response"):
        await client.responses.cancel(queued.id)
    assert (await client.responses.retrieve(queued.id)).status == status


async def test_a_synchronous_response_cannot_be_cancelled(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    done = await client.responses.create(model="echo", input="hi")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await client.responses.cancel(done.id)
    gate = asyncio.Event()
    upstream.queue(wait(gate), Send(reply("ok").data))
    stream = await client.responses.create(model="tiny", input="hi", stream=True)
    created = await anext(stream)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await client.responses.cancel(created.response.id)
    gate.set()
    assert [event async for event in stream][-1].type == "response.completed"


@pytest.mark.parametrize("response_id", ["resp_nobody", "resp_" + "0" * 34, "%00", "a" * 300, "resp_{00}"])
async def test_what_does_not_exist_is_not_found(response_id: str, client: openai.AsyncOpenAI) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.responses.retrieve(response_id),
        lambda: client.responses.retrieve(response_id, stream=True),
        lambda: client.responses.cancel(response_id),
        lambda: client.responses.delete(response_id),
        lambda: client.responses.input_items.list(response_id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            await call()
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id is not None


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deleted_response_is_gone(
    stream: bool, client: openai.AsyncOpenAI, raw: RawClient, service: ClusterThread
) -> None:
    made: Any = await client.responses.create(model="echo", input="hi", background=True, stream=stream)
    if stream:
        events = [event async for event in made]
        made = events[-1].response
    await service.settled(made.id)
    answer = await raw.request("DELETE", f"/v1/responses/{made.id}")
    assert answer.json() == {"id": made.id, "object": "response.deleted", "deleted": True}
    for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id, stream=True)
    with pytest.raises(openai.NotFoundError):
        await client.responses.input_items.list(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="echo", input="hi", previous_response_id=made.id)
    assert caught.value.code == "previous_response_not_found"


async def test_a_running_response_cannot_be_deleted(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(*HALF)
    queued = await client.responses.create(model="tiny", input="hi", background=True)
    await upstream.called()
    with pytest.raises(openai.BadRequestError, match="Cannot delete an in-flight response"):
        await client.responses.delete(queued.id)
    assert (await client.responses.retrieve(queued.id)).status == "in_progress"
    await client.responses.cancel(queued.id)
    await client.responses.delete(queued.id)
