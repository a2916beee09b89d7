"""Each mechanism switched off: the checker must cry. Switched on, under the same fault, it must not.

The builds without a mechanism are made here; the product has no switch for any of them.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from fakes.upstream import chunk, hang, send, wait
from support.builds import Edit, build
from support.checker import broken, check
from support.clients import RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import (
    PREFIX,
    SHORT_LEASE,
    WAIT_S,
    NamedUpstream,
    create,
    ended,
    read_on,
    read_until,
    streaming,
    then,
    until,
    words,
)
from support.proxy import Proxy
from support.recorder import Recorder

RawMaker = Callable[[str], RawClient]
LUA = "shared/store/lua"

MECHANISMS: Mapping[str, Sequence[Edit]] = {
    "fence": [
        Edit(f"{LUA}/flush.lua", "if v[2] ~= attempt then return 'fenced' end", ""),
        Edit(f"{LUA}/flush.lua", "if v[5] ~= who and not terminal(v[1]) then return 'fenced' end", ""),
        Edit(f"{LUA}/renew.lua", "or v[2] ~= worker or v[3] ~= ARGV[i + 1]", ""),
    ],
    "lease": [Edit(f"{LUA}/renew.lua", "redis.call('ZADD', P .. 'live', t + ARGV[2], ARGV[i])", "")],
    "reaper": [Edit(f"{LUA}/reap.lua", "do look(id) end", "do end")],
    "watch after a gap": [Edit("api/relay.py", "if first > self._next:", "if False:")],
    "repetition of claims": [Edit(f"{LUA}/claim.lua", "if last[1] == ARGV[2] then", "if false then")],
    "Idempotency-Key": [
        Edit(f"{LUA}/recall.lua", "recalled(ARGV[1], ARGV[2], ARGV[3]) or ''", "''"),
        Edit(f"{LUA}/submit.lua", "if made then return", "if false then return"),
    ],
    "recognition of repeated parts": [
        Edit(f"{LUA}/flush.lua", "if not settles and first + count <= tonumber(v[3]) then return 'ok' end", "")
    ],
}
both = pytest.mark.parametrize("off", [False, True], ids=["on", "off"])


def without(folder: Path, mechanism: str, off: bool) -> dict[str, str]:
    return build(folder / "build", *MECHANISMS[mechanism]) if off else {}


@both
@pytest.mark.expects_violation
async def test_fence(upstream: NamedUpstream, raw_client: RawMaker, recorder: Recorder, off: bool) -> None:
    """A worker that was taken for dead comes back and writes into what another one has begun anew."""
    late, again, rest = asyncio.Event(), asyncio.Event(), asyncio.Event()
    second = [wait(again), *words("word0.1 "), *then(rest, "word1.1 ")]
    upstream.plan("x", [wait(late), *words("word0.0 "), hang()], second)
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        env = without(cluster.folder, "fence", off)
        zombie = await cluster.start_worker(**env)
        async with streaming(raw_client(cluster.front_ends[0].origin), "x") as stream:
            seen = await read_until(stream, "response.in_progress")
            await upstream.arrived("x")
            zombie.send(signal.SIGSTOP)
            await cluster.start_worker(**env)
            await upstream.arrived("x", 2)
            late.set()
            zombie.send(signal.SIGCONT)
            if off:
                await read_until(stream, "response.output_text.delta")
            else:
                await zombie.logged("response.dropped")
            async with asyncio.timeout(WAIT_S), cluster.redis.monitor() as monitor:
                again.set()
                while "word0.1" not in (await monitor.next_command())["command"]:
                    pass  # its first part is sent: what comes now is another one
            rest.set()
            await read_on(stream)
        await ended(raw_client(cluster.front_ends[0].origin), seen[0]["response"]["id"])
        found = broken(await check(recorder, cluster.redis))
    assert ("doubled" in found) if off else not found


@both
@pytest.mark.expects_violation
async def test_lease(upstream: NamedUpstream, raw_client: RawMaker, recorder: Recorder, off: bool) -> None:
    """A run that is longer than its lease; its worker lives."""
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        await cluster.start_worker(**without(cluster.folder, "lease", off))
        raw = raw_client(cluster.front_ends[0].origin)
        response = await create(raw, "x words=25 delay_ms=80")
        await ended(raw, response["id"])
        found = broken(await check(recorder, cluster.redis, calls=upstream.calls_of, expected={"x": 1}))
    assert ("calls" in found) if off else not found


@both
@pytest.mark.expects_violation
async def test_reaper(upstream: NamedUpstream, raw_client: RawMaker, recorder: Recorder, off: bool) -> None:
    """A worker dies; the next one is there, and takes everything else."""
    upstream.plan("x", [hang()])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url), workers=0) as cluster:
        env = without(cluster.folder, "reaper", off)
        dead = await cluster.start_worker(**env)
        raw = raw_client(cluster.front_ends[0].origin)
        response = await create(raw, "x")
        await upstream.arrived("x")
        await dead.kill()
        await cluster.start_worker(**env)
        if not off:
            await ended(raw, response["id"])
        longer = await create(raw, "longer words=40 delay_ms=80")  # than any lease
        await ended(raw, longer["id"])
        found = broken(await check(recorder, cluster.redis))
    assert ("stuck" in found) if off else not found


@both
@pytest.mark.expects_violation
async def test_watch_after_a_gap(upstream: NamedUpstream, raw_client: RawMaker, recorder: Recorder, off: bool) -> None:
    """One message of three is lost."""
    gates = [asyncio.Event(), asyncio.Event()]
    upstream.plan("x", [*words("one "), wait(gates[0]), send(chunk("two ")), *then(gates[1], "three")])
    async with running(config=chat_model(upstream.base_url), front_ends=0) as cluster:
        front_end = await cluster.start_front_end(**without(cluster.folder, "watch after a gap", off))
        async with streaming(raw_client(front_end.origin), "x") as stream:
            seen = await read_until(stream, "response.output_text.delta")
            record = f"{PREFIX}r:{seen[0]['response']['id']}"
            inboxes = await cluster.redis.hget(record, "inboxes")
            await cluster.redis.hset(record, "inboxes", "")
            gates[0].set()
            await until(lambda: _grown(cluster, record, len(seen)))
            await cluster.redis.hset(record, "inboxes", inboxes)
            gates[1].set()
            await read_on(stream)
        if not off:
            await front_end.logged("reader.repaired")
        found = broken(await check(recorder, cluster.redis))
    assert ("numbers" in found) if off else not found


@both
@pytest.mark.expects_violation
async def test_repetition_of_claims(
    upstream: NamedUpstream, raw_client: RawMaker, recorder: Recorder, off: bool
) -> None:
    """The answer that gave a worker its work is lost."""
    env = {"RESPOOL_LEASE_S": "8"}
    async with (
        running(env=env, config=chat_model(upstream.base_url), workers=0) as cluster,
        Proxy(str(cluster.socket)) as proxy,
    ):
        await cluster.start_worker(REDIS_URL=proxy.redis_url, **without(cluster.folder, "repetition of claims", off))
        raw = raw_client(cluster.front_ends[0].origin)
        proxy.lose(b"stranded")
        response = await create(raw, "stranded")
        await ended(raw, response["id"])
        assert proxy.lost == 1
        found = broken(await check(recorder, cluster.redis, deadline_s=7))
    assert ("late" in found) if off else not found


@both
@pytest.mark.expects_violation
async def test_recognition_of_repeated_parts(
    upstream: NamedUpstream, raw_client: RawMaker, recorder: Recorder, off: bool
) -> None:
    """The answer to a part that was logged is lost, and the part is sent again."""
    async with (
        running(env={"RESPOOL_LEASE_S": "8"}, config=chat_model(upstream.base_url), workers=0) as cluster,
        Proxy(str(cluster.socket)) as proxy,
    ):
        env = without(cluster.folder, "recognition of repeated parts", off)
        await cluster.start_worker(REDIS_URL=proxy.redis_url, **env)
        proxy.lose(b"word3 ")
        async with streaming(raw_client(cluster.front_ends[0].origin), "x words=8 delay_ms=20") as stream:
            seen = await read_on(stream)
        assert proxy.lost == 1
        found = broken(await check(recorder, cluster.redis, deadline_s=7))
    assert seen[-1]["type"] == ("response.failed" if off else "response.completed")
    assert ("late" in found) if off else not found


@both
@pytest.mark.expects_violation
async def test_idempotency_key(upstream: NamedUpstream, raw_client: RawMaker, recorder: Recorder, off: bool) -> None:
    """One call is made fifty times at once."""
    async with running(config=chat_model(upstream.base_url), front_ends=0) as cluster:
        front_end = await cluster.start_front_end(**without(cluster.folder, "Idempotency-Key", off))
        raw = raw_client(front_end.origin)
        body, headers = {"model": "tiny", "input": "x", "background": True}, {"Idempotency-Key": "k"}
        answers = await asyncio.gather(*(raw.post("/v1/responses", json=body, headers=headers) for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
        for response_id in {answer.json()["id"] for answer in answers}:
            await ended(raw, response_id)
        found = broken(await check(recorder, cluster.redis))
    assert ("doubled" in found) if off else not found


async def _grown(cluster: Cluster, record: str, seq: int) -> bool:
    return int(await cluster.redis.hget(record, "seq")) > seq
