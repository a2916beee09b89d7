"""A response ends within its deadlines: in the queue, in its run, and in a foreground call."""

import asyncio
from collections.abc import Callable

from api.waiting import GRACE_S
from fakes.upstream import hang
from support.clients import Answer, RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import (
    PREFIX,
    NamedUpstream,
    Watch,
    check_left,
    create,
    ended,
    read_on,
    read_until,
    streaming,
    text_of,
    then,
    words,
)

RawMaker = Callable[[str], RawClient]
LATE_MS = 60_000
OPEN = asyncio.Event()
OPEN.set()


async def test_a_run_that_takes_too_long(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """It fails with what there is, and the backend is let go."""
    names = ("shown", "quiet")
    for name in names:
        upstream.plan(name, [*words("one "), hang()])
    async with running(env={"RESPOOL_MAX_RUN_S": "1"}, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        quiet = await create(raw, "quiet")
        async with streaming(raw, "shown") as stream:
            seen = await read_on(stream)
        assert seen[-1]["type"] == "response.failed"
        for failed in (seen[-1]["response"], await ended(raw, quiet["id"])):
            assert (failed["status"], failed["error"]["code"], text_of(failed)) == ("failed", "server_error", "one ")
            assert failed["error"]["message"] == "The response took longer than 1 s."
        for name in names:
            await upstream.given_up(name)
            assert len(upstream.calls_of(name)) == 1
        assert await check_left(cluster.redis) == 2


async def test_a_wait_that_takes_too_long(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """The only place is taken. What waits for longer than it may fails, and is never run."""
    upstream.plan("holds", [hang()])
    async with running(env={"RESPOOL_WORKER_SLOTS": "1"}, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        holding = await create(raw, "holds")
        await upstream.arrived("holds")
        quiet = await create(raw, "quiet")
        async with streaming(raw, "shown", background=True) as stream:
            seen = await read_until(stream, "response.queued")
            for response_id in (quiet["id"], seen[0]["response"]["id"]):
                await late(cluster, response_id)
            seen += await read_on(stream)
        assert [event["type"] for event in seen] == ["response.created", "response.queued", "response.failed"]
        for failed in (seen[-1]["response"], await ended(raw, quiet["id"])):
            assert (failed["status"], failed["error"]["message"]) == (
                "failed",
                "No worker took this response in time.",
            )
        assert (await raw.post(f"/v1/responses/{holding['id']}/cancel")).status == 200
        assert (await ended(raw, (await create(raw, "fine"))["id"]))["status"] == "completed"
        assert upstream.calls_of("quiet") == upstream.calls_of("shown") == []
        assert await check_left(cluster.redis) == 4


async def late(cluster: Cluster, response_id: str) -> None:
    """It has waited for longer than the longest wait, and somebody is to look at it now."""
    longest_ms = 24 * 3600 * 1000
    await cluster.redis.hincrbyfloat(f"{PREFIX}r:{response_id}", "waits", -longest_ms - LATE_MS)
    await cluster.redis.zadd(f"{PREFIX}live", {response_id: 1})


async def test_a_foreground_call_that_takes_too_long(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """It is answered before the client's own patience is over, whether a worker runs it or none is there; in both cases
    when the time is over, and no grace behind it."""
    upstream.plan("x", [*words("one "), hang()])
    env = {"RESPOOL_MAX_FOREGROUND_S": "1"}
    async with running(env=env, config=chat_model(upstream.base_url), workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        watch = Watch()
        answers = [await raw.post("/v1/responses", json={"model": "tiny", "input": "nobody"})]
        assert 1 <= watch.seconds < GRACE_S
        await cluster.start_worker()
        watch = Watch()
        answers.append(await raw.post("/v1/responses", json={"model": "tiny", "input": "x"}))
        assert 1 <= watch.seconds < GRACE_S
        for answer, text in zip(answers, ("", "one "), strict=True):
            assert answer.status == 200
            assert (answer.json()["status"], text_of(answer.json())) == ("failed", text)
            assert "background=true" in answer.json()["error"]["message"]
        await upstream.given_up("x")
        assert upstream.calls_of("nobody") == []
        assert await check_left(cluster.redis) == 2


async def test_a_foreground_call_has_one_deadline_whatever_happens_to_its_worker(
    upstream: NamedUpstream, raw_client: RawMaker
) -> None:
    """Its client waits for no longer because another worker took over. Before the deadline that one runs it to its end."""
    upstream.plan("late", [hang()], [hang()])
    upstream.plan("timely", [hang()], [*words("done"), *then(OPEN)])
    env = {"RESPOOL_MAX_FOREGROUND_S": "60", "RESPOOL_DRAIN_S": "0"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)

        async def ask(text: str) -> asyncio.Task[Answer]:
            posting = asyncio.create_task(raw.post("/v1/responses", json={"model": "tiny", "input": text}))
            await upstream.arrived(text)
            return posting

        late = await ask("late")
        (key,) = await cluster.redis.keys(f"{PREFIX}r:*")
        await cluster.redis.hincrby(key, "created", -LATE_MS)
        timely = await ask("timely")
        assert await cluster.workers[0].terminate() == 0  # nobody has seen anything: both are given back
        await cluster.start_worker()
        failed, completed = (await late).json(), (await timely).json()
        assert failed["status"] == "failed"
        assert failed["error"]["message"].startswith("The response took longer than 60 s.")
        assert len(upstream.calls_of("late")) == 1
        assert (completed["status"], text_of(completed)) == ("completed", "done")
        assert await check_left(cluster.redis) == 2
