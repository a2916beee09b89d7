"""What time takes away: responses end with their retention, while those that continue them keep what they were told."""

from collections.abc import Callable

import openai
import pytest

from fakes.upstream import FakeUpstream, reply
from support.clients import RawClient
from support.cluster import Cluster, chat_model, running

RETENTION_S = 1000
ENV = {"RESPOOL_RETENTION_S": str(RETENTION_S)}


async def pass_time(cluster: Cluster, response_id: str, seconds: int) -> list[str]:
    """Take away what of a response has expired when so many *seconds* have passed. Returns what is left of it."""
    left = []
    async for key in cluster.redis.scan_iter(match=f"*{response_id}*"):
        if await cluster.redis.pttl(key) <= seconds * 1000:
            await cluster.redis.delete(key)
        else:
            left.append(key.decode())
    return left


async def test_a_chain_survives_the_expiry_of_an_earlier_turn(
    openai_client: Callable[..., openai.AsyncOpenAI], raw_client: Callable[..., RawClient]
) -> None:
    async with FakeUpstream() as upstream, running(env=ENV, config=chat_model(upstream.base_url, "tiny")) as cluster:
        origin = cluster.front_ends[0].origin
        client, raw = openai_client(origin), raw_client(origin)
        for text in ("One.", "Two.", "Three."):
            upstream.queue(reply(text))
        first = await client.responses.create(model="tiny", input="first", stream=False)
        second = await client.responses.create(model="tiny", input="second", previous_response_id=first.id)
        assert len(await pass_time(cluster, first.id, RETENTION_S)) == 1  # the block that `second` builds on
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)
        answer = await raw.post("/v1/responses", json={"model": "echo", "input": "x", "previous_response_id": first.id})
        assert (answer.status, answer.json()["error"]["code"]) == (400, "previous_response_not_found")
        item = first.output[0].id
        answer = await raw.post(
            "/v1/responses", json={"model": "echo", "input": [{"type": "item_reference", "id": item}]}
        )
        assert answer.status == 404
        await client.responses.create(model="tiny", input="third", previous_response_id=second.id)
        said = [message["content"] for message in upstream.calls[2].body["messages"]]
        assert said == ["first", "One.", "second", "Two.", "third"]
        listed = [item.id async for item in client.responses.input_items.list(second.id, order="asc")]
        assert listed[1] == item


async def test_nothing_is_left_when_everything_has_expired(raw_client: Callable[..., RawClient]) -> None:
    async with running(env=ENV) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        made = (
            await raw.post("/v1/responses", json={"model": "echo", "input": "hi", "background": True, "stream": True})
        ).body
        response_id = made.partition(b'"id":"')[2].partition(b'"')[0].decode()
        await cluster.workers[0].logged("response.settled", response_id=response_id)
        assert await pass_time(cluster, response_id, RETENTION_S - 100) != []
        assert (await raw.get(f"/v1/responses/{response_id}?stream=true")).body == made
        assert await pass_time(cluster, response_id, RETENTION_S) == []
        assert (await raw.get(f"/v1/responses/{response_id}")).status == 404
