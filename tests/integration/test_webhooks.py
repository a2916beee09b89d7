"""Webhooks, from the end of a response to its receiver, on real processes: whatever dies in between, the event arrives."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from fakes.receiver import Answer, Got, Receiver
from support.clients import RawClient
from support.cluster import ROOT, Cluster, chat_model, running
from support.faults import (
    SHORT_LEASE,
    NamedUpstream,
    check_left,
    create,
    ended,
    get,
    read_until,
    streaming,
    until,
    words,
)

RawMaker = Callable[[str], RawClient]
SECRET, OTHER_SECRET = (f"whsec_{base64.b64encode(text * 32).decode()}" for text in (b"a", b"b"))
HOOKS = "rs:{00}:hooks"
NEVER_LOOKS = ("-c", "import worker.main, worker.webhooks; worker.webhooks.LOOK_S = 3600; worker.main.main()")
"""A worker that knows of the endpoints, and dies before it gets to send anything."""


def hook(receiver: Receiver | URL, name: str = "ci", **fields: object) -> str:
    """A table; attempts are given up and repeated quickly."""
    values = {
        "name": name, "url": receiver.url if isinstance(receiver, Receiver) else str(receiver), "secret_env": "HOOK_SECRET", "allow_private": True, "timeout_s": 0.5, "retry_s": 0.1,
        **fields,
    }  # fmt: skip
    return "[[webhooks]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + "\n"


def serving(*tables: str, workers: int = 1, models: str = "", secret: str = SECRET, **env: str) -> Any:
    return running(config="\n".join([*tables, models]), env={"HOOK_SECRET": secret, **env}, workers=workers)


def unwrap(got: Got, secret: str = SECRET) -> Any:
    """As the official client reads it: the signature fits, and is not old."""
    with openai.OpenAI(api_key="unused") as client:
        return client.webhooks.unwrap(got.body, got.headers, secret=secret)


async def done(cluster: Cluster, name: str = "ci") -> None:
    """Everything was acknowledged, so nothing can be sent any more."""

    async def empty() -> bool:
        return not await cluster.redis.exists(f"{HOOKS}:{name}")

    await until(empty)


async def create_echo(raw: RawClient, text: str = "hello", **fields: object) -> str:
    return str((await create(raw, text, model="echo", **fields))["id"])


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def test_the_receiver_is_told_when_the_state_can_be_read(receiver: Receiver, raw_client: RawMaker) -> None:
    async with serving(hook(receiver)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response_id = await create_echo(raw)
        event = unwrap(await receiver.received())
        response = await get(raw, response_id)
        assert (event.type, event.data.id, event.object) == ("response.completed", response_id, "event")
        assert response["status"] == "completed"
        assert 0 <= event.created_at - response["created_at"] < 20
        line = await cluster.workers[0].logged("webhook.delivered")
        assert (line["endpoint"], line["response_id"], line["tries"]) == ("ci", response_id, 1)
        await done(cluster)
        assert len(receiver.got) == 1
        assert await check_left(cluster.redis) == 1


async def test_foreground_responses_send_nothing(receiver: Receiver, raw_client: RawMaker) -> None:
    async with serving(hook(receiver)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        for stream in (False, True):
            body = {"model": "echo", "input": "hello", "stream": stream}
            assert (await raw.post("/v1/responses", json=body)).status == 200
        assert not await cluster.redis.exists(f"{HOOKS}:ci")
        response_id = await create_echo(raw)
        assert unwrap(await receiver.received()).data.id == response_id
        await done(cluster)
        assert len(receiver.got) == 1


async def test_every_end_has_its_event(receiver: Receiver, raw_client: RawMaker, upstream: NamedUpstream) -> None:
    """Also ends that no run has brought about: a cancel in the queue, and a worker's death."""
    tables = hook(receiver), hook(receiver, "failures", events=["response.failed"])
    async with serving(*tables, models=chat_model(upstream.base_url), **SHORT_LEASE) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        cut = await create_echo(raw, "echo:words=60", max_output_tokens=16)
        assert (await ended(raw, cut))["status"] == "incomplete"
        upstream.plan("r1", words("Hel"))
        async with streaming(raw, "r1", background=True) as stream:
            (created, *_) = await read_until(stream, "response.output_text.delta")
            await cluster.workers[0].kill()
            lost = created["response"]["id"]
        cancelled = await create_echo(raw)
        assert (await raw.post(f"/v1/responses/{cancelled}/cancel")).status == 200
        await cluster.start_worker()
        await receiver.received(4)
        await done(cluster)
        await done(cluster, "failures")
        told = sorted((event.data.id, event.type) for event in map(unwrap, receiver.got))
        failed = (lost, "response.failed")
        assert told == sorted([(cut, "response.incomplete"), failed, failed, (cancelled, "response.cancelled")])
        assert len({got.event_id for got in receiver.got}) == 4  # each endpoint has ids of its own


async def test_a_receiver_that_is_down_slow_redirects_or_fails(receiver: Receiver, raw_client: RawMaker) -> None:
    """Each attempt is signed afresh, and has the same id and body; replies are not read, however large."""
    never = asyncio.Event()
    plan = [
        Answer(lost=True), Answer(gate=never), Answer(302, {"Location": receiver.url}), Answer(500, size_bytes=10 << 20), Answer(410),
        Answer(size_bytes=10 << 20),
    ]  # fmt: skip
    receiver.plan(*plan)
    async with serving(hook(receiver, timeout_s=2)) as cluster:
        response_id = await create_echo(raw_client(cluster.front_ends[0].origin))
        await receiver.received(len(plan))
        await done(cluster)
        assert len(receiver.got) == len(plan)
        assert {got.event_id for got in receiver.got} == {receiver.got[0].event_id}
        assert {got.body for got in receiver.got} == {receiver.got[0].body}
        assert {unwrap(got).data.id for got in receiver.got} == {response_id}
        stamps = [int(got.headers["webhook-timestamp"]) for got in receiver.got]
        assert stamps == sorted(stamps)
        assert stamps[0] < stamps[-1]
        lines = cluster.workers[0].find("webhook.failed")
        assert [line["tries"] for line in lines] == [1, 2, 3, 4, 5]
        assert [line["error"] for line in lines][1:] == [
            "no acknowledgement within 2 s", "status 302", "status 500", "status 410",
        ]  # fmt: skip
        said = json.dumps([process.lines for process in cluster.processes]) + str([p.text for p in cluster.processes])
        for secret in (SECRET, SECRET.removeprefix("whsec_"), "in-the-query"):
            assert secret not in said
            assert all(secret.encode() not in dump for dump in await everything(cluster))


async def everything(cluster: Cluster) -> list[bytes]:
    """All that Redis holds, as it would be written to disk."""
    return [await cluster.redis.dump(key) or b"" for key in await cluster.redis.keys()] + [
        b" ".join(await cluster.redis.keys())
    ]


async def test_a_slow_endpoint_holds_up_nobody(receiver: Receiver, raw_client: RawMaker) -> None:
    never, count = asyncio.Event(), 20  # more than one endpoint may have at once
    async with Receiver() as slow:
        slow.usual = Answer(gate=never)
        async with serving(hook(slow, "slow", timeout_s=20), hook(receiver)) as cluster:
            raw = raw_client(cluster.front_ends[0].origin)
            made = [await create_echo(raw) for _ in range(count)]
            await receiver.received(count)
            await done(cluster)
            assert {unwrap(got).data.id for got in receiver.got} == set(made)
            await slow.received(16)
            assert len(slow.got) == 16
            assert (await raw.post("/v1/responses", json={"model": "echo", "input": "x"})).status == 200


async def test_two_workers_send_each_event_once(receiver: Receiver, raw_client: RawMaker) -> None:
    """Also what is acknowledged late, while both of them look again and again for what is due."""
    gate, count, more = asyncio.Event(), 18, 8  # together fewer than both may have at once
    receiver.usual = Answer(gate=gate)
    async with serving(hook(receiver, timeout_s=20), workers=2) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        made = [await create_echo(raw) for _ in range(count)]
        await receiver.received(count)
        for number in range(1, more + 1):  # each of them is found by a look
            made.append(await create_echo(raw))
            await receiver.received(count + number)
        gate.set()
        await done(cluster)
        assert sorted(unwrap(got).data.id for got in receiver.got) == sorted(made)


async def test_a_worker_killed_between_the_end_and_its_delivery(receiver: Receiver, raw_client: RawMaker) -> None:
    async with serving(hook(receiver), workers=0) as cluster:
        worker = await cluster.start_worker(program=NEVER_LOOKS)
        response_id = await create_echo(raw_client(cluster.front_ends[0].origin))
        await worker.logged("response.settled")
        assert await cluster.redis.zcard(f"{HOOKS}:ci") == 1
        await worker.kill()
        assert receiver.got == []
        await cluster.start_worker()
        assert unwrap(await receiver.received()).data.id == response_id
        await done(cluster)
        assert len(receiver.got) == 1


async def test_a_worker_killed_between_delivery_and_acknowledgement(receiver: Receiver, raw_client: RawMaker) -> None:
    """Another one, which runs all the while, sends it again under the same id when the lease is over."""
    gate = asyncio.Event()
    receiver.plan(Answer(gate=gate))
    async with serving(hook(receiver, timeout_s=1), workers=0) as cluster:
        worker = await cluster.start_worker()
        response_id = await create_echo(raw_client(cluster.front_ends[0].origin))
        first = await receiver.received()
        await worker.kill()
        other = await cluster.start_worker()
        again = await receiver.received(2)
        assert unwrap(again).data.id == response_id
        assert (again.event_id, again.body) == (first.event_id, first.body)
        assert (await other.logged("webhook.delivered"))["tries"] == 2
        await done(cluster)
        assert len(receiver.got) == 2


async def test_redis_is_killed_while_events_wait(receiver: Receiver, raw_client: RawMaker) -> None:
    receiver.usual = Answer(503)
    async with serving(hook(receiver)) as cluster:
        response_id = await create_echo(raw_client(cluster.front_ends[0].origin))
        first = await receiver.received()
        await cluster.kill_valkey()
        receiver.usual = Answer()
        before = len(receiver.got)
        await cluster.start_valkey()
        again = await receiver.received(before + 1)
        assert (unwrap(again).data.id, again.event_id) == (response_id, first.event_id)
        await done(cluster)


async def test_a_stopping_worker_ends_its_attempts(receiver: Receiver, raw_client: RawMaker) -> None:
    gate = asyncio.Event()
    receiver.plan(Answer(gate=gate))
    async with serving(hook(receiver, timeout_s=10)) as cluster:
        await create_echo(raw_client(cluster.front_ends[0].origin))
        await receiver.received()
        stopping = asyncio.create_task(cluster.workers[0].terminate())
        await cluster.workers[0].logged("process.draining")
        gate.set()
        assert await stopping == 0
        assert cluster.workers[0].find("webhook.delivered")
        assert not await cluster.redis.exists(f"{HOOKS}:ci")


async def test_who_settles_need_not_know_the_endpoints(receiver: Receiver, raw_client: RawMaker) -> None:
    """As in the midst of a deploy: one worker has the new configuration, another, which runs everything, the old one."""
    async with serving(hook(receiver), workers=0) as cluster:
        newer = await cluster.start_worker()
        await newer.kill()
        older = await cluster.start_worker(RESPOOL_CONFIG="")
        response_id = await create_echo(raw_client(cluster.front_ends[0].origin))
        await older.logged("response.settled")
        await cluster.start_worker()
        assert unwrap(await receiver.received()).data.id == response_id


async def test_while_secrets_are_changed_both_sign(receiver: Receiver, raw_client: RawMaker) -> None:
    async with serving(hook(receiver), secret=f"{OTHER_SECRET}, {SECRET}") as cluster:
        response_id = await create_echo(raw_client(cluster.front_ends[0].origin))
        got = await receiver.received()
        assert unwrap(got, SECRET).data.id == unwrap(got, OTHER_SECRET).data.id == response_id
        assert len(got.headers["webhook-signature"].split()) == 2


async def test_nothing_is_sent_into_a_private_network_unless_that_is_meant(
    receiver: Receiver, raw_client: RawMaker
) -> None:
    async with serving(hook(receiver, allow_private=False)) as cluster:
        await create_echo(raw_client(cluster.front_ends[0].origin))
        line = await cluster.workers[0].logged("webhook.failed", count=2)
        assert "allow_private" in line["error"]
        assert receiver.got == []


async def test_nobody_is_told_of_what_was_deleted(receiver: Receiver, raw_client: RawMaker) -> None:
    receiver.usual = Answer(500)
    async with serving(hook(receiver, retry_s=0.5)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response_id = await create_echo(raw)
        await cluster.workers[0].logged("webhook.failed")
        assert (await raw.delete(f"/v1/responses/{response_id}")).status == 200
        await done(cluster)
        assert not cluster.workers[0].find("webhook.delivered")
        assert not cluster.workers[0].find("courier.failed")
        assert await check_left(cluster.redis) == 0


async def test_what_nobody_acknowledges_is_given_up(receiver: Receiver, raw_client: RawMaker) -> None:
    receiver.usual = Answer(500)
    env = {"RESPOOL_UNSTORED_BACKGROUND_S": "2"}
    async with serving(hook(receiver, retry_s=1), **env) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        await create_echo(raw, store=False)
        await cluster.workers[0].logged("webhook.abandoned")
        await done(cluster)
        counted = r'respool_webhooks_total\{endpoint="ci",outcome="abandoned",process="w-.*"\} 1\.0'

        async def shown() -> bool:
            return re.search(counted, (await raw.get("/metrics")).body.decode()) is not None

        await until(shown)


async def test_the_receiver_in_the_docs(raw_client: RawMaker, monkeypatch: Any, capsys: Any) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/webhooks.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("APP_HOOK_SECRET", SECRET)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # our own docs
    app = web.Application()
    app.router.add_post("/", names["receive"])
    async with TestServer(app) as server, serving(hook(server.make_url("/"), timeout_s=5)) as cluster:
        response_id = await create_echo(raw_client(cluster.front_ends[0].origin))
        await cluster.workers[0].logged("webhook.delivered")
        assert not cluster.workers[0].find("webhook.failed")
    assert capsys.readouterr().out == f"response.completed {response_id}\n"
    names["client"].close()
