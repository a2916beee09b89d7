"""Two front ends and two workers on one Redis: whichever is asked, the answer is the same."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import openai
import pytest
import pytest_asyncio

from fakes.upstream import FakeUpstream, Script, chunk, hang, reply, send, wait
from support.cluster import chat_model
from support.cluster_thread import ClusterThread

Clients = tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]


@pytest.fixture(scope="module")
def address() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def pairs(address: socket.socket) -> Iterator[ClusterThread]:
    """Each worker has two slots."""
    config = chat_model(f"http://127.0.0.1:{address.getsockname()[1]}/v1", "tiny")
    with ClusterThread(front_ends=2, workers=2, config=config, env={"RESPOOL_WORKER_SLOTS": "2"}) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(pairs: ClusterThread, address: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=address.dup()) as backend:
        yield backend


@pytest.fixture
def clients(pairs: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]) -> Clients:
    first, second = pairs.cluster.front_ends
    return openai_client(first.origin), openai_client(second.origin)


def halves(gate: asyncio.Event) -> Script:
    return [send(chunk("Once "), chunk("upon ")), wait(gate), reply("a ", "time.")]


async def test_both_workers_get_work_and_any_front_end_tells(
    pairs: ClusterThread, clients: Clients, upstream: FakeUpstream
) -> None:
    gate = asyncio.Event()
    upstream.respond = lambda _: [wait(gate), reply("done")]
    first, second = clients
    made = [await first.responses.create(model="tiny", input=f"{n}", background=True) for n in range(4)]
    await upstream.called(3)  # all four at once: that is what two workers have slots for
    assert {(await second.responses.retrieve(each.id)).status for each in made} == {"in_progress"}
    gate.set()
    await asyncio.gather(*(pairs.settled(each.id) for each in made))
    shares = [
        sum(bool(worker.find("response.settled", response_id=each.id)) for each in made)
        for worker in pairs.cluster.workers
    ]
    assert shares == [2, 2]
    for each in made:
        assert (await second.responses.retrieve(each.id)).output_text == "done"
        assert (await first.responses.retrieve(each.id)).output_text == "done"


async def test_a_stream_of_one_front_end_goes_on_at_the_other(clients: Clients, upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    upstream.queue(*halves(gate))
    first, second = clients
    stream = await first.responses.create(model="tiny", input="hi", background=True, stream=True)
    seen = [await anext(stream) for _ in range(6)]
    await stream.close()
    response_id = seen[0].response.id
    here = await second.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    there = await first.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    seen.append(await anext(here))
    gate.set()
    seen += [event async for event in here]
    assert [event.sequence_number for event in seen] == list(range(13))
    assert seen[-1].response.output_text == "Once upon a time."
    assert [event.sequence_number async for event in there] == list(range(6, 13))
    replays = [[event async for event in await each.responses.retrieve(response_id, stream=True)] for each in clients]
    assert replays == [seen, seen]


async def test_a_cancel_at_one_front_end_ends_the_stream_of_the_other(clients: Clients, upstream: FakeUpstream) -> None:
    upstream.queue(send(chunk("Once "), chunk("upon ")), hang())
    first, second = clients
    stream = await first.responses.create(model="tiny", input="hi", background=True, stream=True)
    seen = [await anext(stream) for _ in range(7)]
    cancelled = await second.responses.cancel(seen[0].response.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text == "Once upon "
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.to_dict() == cancelled.to_dict()
    await upstream.disconnected()
    assert (await first.responses.cancel(cancelled.id)).to_dict() == cancelled.to_dict()
    assert (await second.responses.retrieve(cancelled.id)).to_dict() == cancelled.to_dict()


async def test_turns_and_deletions_are_seen_everywhere(clients: Clients, upstream: FakeUpstream) -> None:
    first, second = clients
    one = await first.responses.create(model="tiny", input="one")
    two = await second.responses.create(model="tiny", input="two", previous_response_id=one.id)
    assert upstream.calls[1].body["messages"][0] == {"role": "user", "content": "one"}
    assert len([item async for item in first.responses.input_items.list(two.id)]) == 3
    await second.responses.delete(one.id)
    with pytest.raises(openai.NotFoundError):
        await first.responses.retrieve(one.id)
    assert (await first.responses.retrieve(two.id)).status == "completed"
