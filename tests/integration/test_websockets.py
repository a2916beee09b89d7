"""WebSockets whose client, worker, front end or Redis goes away, or takes nothing; and how a connection ends."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.upstream import hang
from shared import keys
from support.clients import RawClient
from support.cluster import Cluster, chat_model, running
from support.faults import (
    SHORT_LEASE,
    NamedUpstream,
    Watch,
    all_ended,
    check_left,
    ended,
    get,
    resume,
    text_of,
    then,
    until,
    words,
)
from support.sockets import Socket, by_hand, connected, refused, text_frame

RawMaker = Callable[[str], RawClient]
SHORT_DRAIN = {"RESPOOL_DRAIN_S": "1", "RESPOOL_DRAIN_NOTICE_S": "0.1"}
LARGE = "words=450 size=20000"
MIB = 1 << 20


def rss_bytes(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def shown(ws: Socket, text: str, **fields: object) -> str:
    """The id of a new turn, whose first words are here."""
    await ws.create(text, **fields)
    return str((await ws.until("response.output_text.delta"))[0]["response"]["id"])


# clients


@pytest.mark.parametrize("politely", [True, False])
async def test_a_client_that_goes_cancels_its_turns(
    cluster: Cluster, upstream: NamedUpstream, raw: RawClient, politely: bool
) -> None:
    (front_end,) = cluster.front_ends
    upstream.plan("a", [*words("one"), hang()])
    upstream.plan("b", [*words("one"), hang()])
    async with connected(front_end.origin) as ws:
        ids = [await shown(ws, name, stream_id=name, store=name == "a") for name in "ab"]
        await ws.create("waits", stream_id="a")
        if not politely:
            transport = ws.connection._response.connection.transport  # type: ignore[union-attr]
            transport.abort()  # type: ignore[union-attr]
    for name in "ab":
        await upstream.given_up(name)
    await all_ended(cluster.redis)
    assert (await get(raw, ids[0]))["status"] == "cancelled"
    assert upstream.calls_of("waits") == []
    await front_end.logged("turn.served", status=499, stream_id="a")
    await front_end.logged("request.served", status=101 if politely else 499)
    assert await check_left(cluster.redis) == 2
    assert not front_end.find("request.failed")


async def test_what_may_go_on_without_its_client_does(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    env = {"RESPOOL_FOREGROUND_HANGUP": "continue"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        async with connected(cluster.front_ends[0].origin) as ws:
            response_id = await shown(ws, "x")
        gate.set()
        response = await ended(raw_client(cluster.front_ends[0].origin), response_id)
        assert (response["status"], text_of(response)) == ("completed", "one two")


async def test_large_events_arrive_whole_beside_others(cluster: Cluster) -> None:
    """Three lanes with 9 MB each, whose last events repeat all of it; too much to be remembered."""
    async with connected(cluster.front_ends[0].origin) as ws:
        for name in "abc":
            await ws.create(f"{name} {LARGE}", stream_id=name, store=name == "a")
        ends = {}
        while len(ends) < 3:
            event = await ws.next()
            if event["type"] == "response.completed":
                ends[event["stream_id"]] = event["response"]
        assert {len(text_of(response)) for response in ends.values()} == {450 * 20_001}
        last = await ws.turn("more", previous_response_id=ends["a"]["id"])
        assert last["status"] == "completed"
        assert await ws.error("more", previous_response_id=ends["b"]["id"]) == (400, "previous_response_not_found")


async def test_a_client_that_takes_nothing_is_cut(upstream: NamedUpstream) -> None:
    """Eight lanes have 9 MB each for it, and their last events as much again; the front end holds little of that."""
    env = {"RESPOOL_SSE_WRITE_TIMEOUT_S": "3"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        async with connected(front_end.origin) as ws:
            assert (await ws.turn("first"))["status"] == "completed"
            before = rss_bytes(front_end.pid)
            for number in range(8):
                await ws.create(f"x{number} {LARGE}", stream_id=f"s{number}")
            closed = asyncio.create_task(front_end.logged("socket.closed", timeout_s=20))
            most = 0
            while not closed.done():
                await asyncio.wait([closed], timeout=0.05)
                most = max(most, rss_bytes(front_end.pid) - before)
            await closed
            assert most < 48 * MIB, most
        await all_ended(cluster.redis)
        await front_end.logged("turn.served", count=8, status=499)
        assert not front_end.find("request.failed")


async def test_nothing_follows_in_the_lanes_of_a_client_that_was_cut(upstream: NamedUpstream) -> None:
    env = {"RESPOOL_SSE_WRITE_TIMEOUT_S": "1", "RESPOOL_FOREGROUND_HANGUP": "continue"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        async with connected(front_end.origin) as ws:
            await ws.create(f"x {LARGE}")
            await ws.create("waits")
            await front_end.logged("socket.closed", timeout_s=20)
        await front_end.logged("turn.served", status=499)
        await all_ended(cluster.redis)
        assert upstream.calls_of("waits") == []


async def test_a_client_that_answers_no_ping_is_cut(upstream: NamedUpstream) -> None:
    env = {"RESPOOL_SSE_WRITE_TIMEOUT_S": "0.5"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        async with connected(front_end.origin) as alive, connected(front_end.origin):  # nobody reads the second
            reading = asyncio.create_task(alive.next())
            line = await front_end.logged("socket.closed")
            assert (line["code"], line["turns"]) == (1006, 0)
            await alive.create("x")
            assert (await reading)["type"] == "response.created"
            assert (await alive.rest())[-1]["type"] == "response.completed"


async def test_a_slow_client_that_makes_progress_is_not_cut(upstream: NamedUpstream) -> None:
    """Its answer takes longer than a dead one is waited for, and pings are behind what it has not read yet."""
    env = {"RESPOOL_SSE_WRITE_TIMEOUT_S": "1"}
    async with (
        running(env=env, config=chat_model(upstream.base_url)) as cluster,
        by_hand(cluster.front_ends[0].origin) as (reader, writer),
    ):
        writer.write(text_frame({"type": "response.create", "model": "tiny", "input": "x words=220 size=20000"}))
        watch, tail = Watch(), b""
        while b'"type":"response.completed"' not in tail:
            piece = await reader.read(64 << 10)
            assert piece, f"cut after {watch.seconds} s"
            tail = tail[-100:] + piece
            await asyncio.sleep(0.015)  # that is how slow it is
        assert watch.seconds > 3.5


async def test_a_message_that_takes_long_to_send_is_a_sign_of_life(upstream: NamedUpstream) -> None:
    env = {"RESPOOL_SSE_WRITE_TIMEOUT_S": "0.4"}
    async with (
        running(env=env, config=chat_model(upstream.base_url)) as cluster,
        by_hand(cluster.front_ends[0].origin) as (reader, writer),
    ):
        message = text_frame({"type": "response.create", "model": "tiny", "input": "x"})
        for at in range(0, len(message), 2):
            writer.write(message[at : at + 2])
            await asyncio.sleep(0.06)  # that is how slow it is
        async with asyncio.timeout(10):
            await reader.readuntil(b'"type":"response.completed"')


async def test_a_client_that_only_pings_is_cut(upstream: NamedUpstream) -> None:
    env = {"RESPOOL_SSE_WRITE_TIMEOUT_S": "0.5"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends

        async def ping(ws: Socket) -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await ws.connection.ping(b"x" * 125)

        async with connected(front_end.origin) as ws:
            pinging = asyncio.create_task(ping(ws))
            await front_end.logged("socket.closed")
            await pinging
        assert not front_end.find("request.failed")


async def test_a_ping_is_answered(cluster: Cluster) -> None:
    async with by_hand(cluster.front_ends[0].origin) as (reader, writer):
        writer.write(
            b"\x8a\x80" + bytes(4) + b"\x89\x82" + bytes(4) + b"hi"
        )  # a pong, of which nothing comes, and a ping
        async with asyncio.timeout(10):
            assert await reader.readexactly(4) == b"\x8a\x02hi"


# the other processes


async def test_a_worker_is_killed_in_mid_turn(upstream: NamedUpstream) -> None:
    """What was seen ends as failed, on the same connection; what was not runs again, elsewhere."""
    upstream.plan("seen", [*words("one "), hang()])
    upstream.plan("unseen", [*words(), hang()])
    async with running(env=SHORT_LEASE, config=chat_model(upstream.base_url)) as cluster:
        async with connected(cluster.front_ends[0].origin) as ws:
            await shown(ws, "seen", stream_id="seen")
            await ws.create("unseen words=3", stream_id="unseen")
            await upstream.arrived("unseen")
            await cluster.workers[0].kill()
            await cluster.start_worker()
            ends = {}
            while len(ends) < 2:
                event = await ws.next()
                if event["type"] in ("response.completed", "response.failed"):
                    ends[event["stream_id"]] = event["response"]
            assert (ends["seen"]["status"], text_of(ends["seen"])) == ("failed", "one ")
            assert (ends["unseen"]["status"], text_of(ends["unseen"])) == ("completed", "word0 word1 word2 ")
            assert (await ws.turn("after"))["status"] == "completed"
        assert await check_left(cluster.redis) == 3


async def test_redis_is_killed_and_comes_back(cluster: Cluster, upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    async with connected(cluster.front_ends[0].origin) as ws:
        first = await ws.turn("first", store=False)
        await shown(ws, "x", store=False, previous_response_id=first["id"], stream_id="x")
        await cluster.kill_valkey()
        assert await ws.error("away", stream_id="y") == (503, "server_is_overloaded")
        await cluster.start_valkey()
        gate.set()
        (*_, last) = await ws.rest("x")
        assert (last["response"]["status"], text_of(last["response"])) == ("completed", "one two")
        response = await ws.turn("more", store=False, previous_response_id=last["response"]["id"])
        assert response["status"] == "completed"


async def test_a_turn_ends_while_its_front_end_stops(cluster: Cluster, upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    (front_end,) = cluster.front_ends
    async with connected(front_end.origin) as idle, connected(front_end.origin) as ws:
        await shown(ws, "x", stream_id="x")
        front_end.send(signal.SIGTERM)
        assert await idle.closed() == 1012
        status, error = await refused(front_end.origin, {})
        assert (status, error["code"]) == (503, "server_is_overloaded")
        assert await ws.error("more") == (503, "server_is_overloaded")
        gate.set()
        (*_, last) = await ws.rest("x")
        assert (last["response"]["status"], text_of(last["response"])) == ("completed", "one two")
        assert await ws.closed() == 1012
    assert await front_end.ended() == 0
    assert {line["code"] for line in front_end.find("socket.closed")} == {1012}


async def test_a_turn_that_does_not_end_before_its_front_end_stops(
    upstream: NamedUpstream, raw_client: RawMaker
) -> None:
    """Its client is told how to get it if it is stored; else nobody can, and it is cancelled."""
    gate = asyncio.Event()
    upstream.plan("stored", [*words("one "), *then(gate, "two")])
    upstream.plan("unstored", [*words("one "), hang()])
    async with running(env=SHORT_DRAIN, config=chat_model(upstream.base_url), front_ends=2) as cluster:
        stopping, other = cluster.front_ends
        async with connected(stopping.origin) as ws:
            ids = {
                name: await shown(ws, name, stream_id=name, store=name == "stored") for name in ("stored", "unstored")
            }
            await ws.create("waits", stream_id="stored")
            stopping.send(signal.SIGTERM)
            told: dict[str, list[str]] = {}
            for _ in range(3):
                (*_, event) = await ws.until("error")
                assert (event["status"], event["error"]["code"]) == (503, "server_is_overloaded")
                told.setdefault(event["stream_id"], []).append(event["error"]["message"])
            assert f"poll GET /v1/responses/{ids['stored']} for its answer" in told["stored"][0]
            assert "another one will answer" in told["stored"][1]
            assert "It is not stored" in told["unstored"][0]
            assert await ws.closed() == 1012
        await upstream.given_up("unstored")
        assert await stopping.ended() == 0
        gate.set()
        events = await resume(raw_client(other.origin), ids["stored"], None)
        assert text_of(events[-1]["response"]) == "one two"
        assert upstream.calls_of("waits") == []


async def test_a_second_signal_stops_at_once(cluster: Cluster, upstream: NamedUpstream) -> None:
    upstream.plan("x", [*words("one "), hang()])
    (front_end,) = cluster.front_ends
    async with connected(front_end.origin) as ws:
        await shown(ws, "x")
        front_end.send(signal.SIGTERM)
        await front_end.logged("process.draining")
        watch = Watch()
        front_end.send(signal.SIGTERM)
        assert (await ws.until("error"))[-1]["status"] == 503
        assert await ws.closed() == 1012
        await front_end.ended()
        assert watch.seconds < 10  # of the 30 that it may take


# how long a connection may live


async def test_a_connection_that_is_too_old_is_closed(upstream: NamedUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    env = {"RESPOOL_WEBSOCKET_MAX_S": "2"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        async with connected(front_end.origin) as ws, connected(front_end.origin) as idle:  # the younger one
            await shown(ws, "x", stream_id="x")
            event = await idle.next()
            assert (event["status"], event["error"]["code"]) == (400, "websocket_connection_limit_reached")
            assert await idle.closed() == 1001
            assert await ws.error("more", stream_id="y") == (400, "websocket_connection_limit_reached")
            gate.set()
            assert (await ws.rest("x"))[-1]["type"] == "response.completed"
            assert (await ws.next())["error"]["code"] == "websocket_connection_limit_reached"
            assert await ws.closed() == 1001


async def test_a_turn_may_not_last_much_longer_than_its_connection(upstream: NamedUpstream) -> None:
    upstream.plan("x", [*words("one "), hang()])
    env = {"RESPOOL_WEBSOCKET_MAX_S": "1", "RESPOOL_DRAIN_S": "0.5"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        async with connected(cluster.front_ends[0].origin) as ws:
            await shown(ws, "x", store=False)
            assert (await ws.rest())[-1]["error"]["code"] == "server_is_overloaded"
            assert (await ws.next())["error"]["code"] == "websocket_connection_limit_reached"
            assert await ws.closed() == 1001
        await upstream.given_up("x")


@pytest.mark.parametrize("stops", [True, False])
async def test_turns_that_cannot_begin_are_answered_when_their_connection_is_closed(
    upstream: NamedUpstream, stops: bool
) -> None:
    """Redis says nothing. A stored one may have been accepted: it goes on when the process stops, and is cancelled else."""
    env = {**SHORT_DRAIN, "RESPOOL_WEBSOCKET_MAX_S": "600" if stops else "1"}
    async with running(env=env, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        async with connected(front_end.origin) as ws:
            cluster.valkey.send(signal.SIGSTOP)
            for name in ("stored", "unstored"):
                await ws.create(name, stream_id=name, store=name == "stored")
                await ws.create("waits", stream_id=name)
            told: dict[str, list[str]] = {"stored": [], "unstored": []}
            if stops:
                await ws.send({"type": "response.steer"})  # its answer says that all before it was heard
                await ws.until("response.steer.failed")
                front_end.send(signal.SIGTERM)
            for _ in range(4):
                event = await ws.next()
                told[event["stream_id"]].append(event["error"]["message"])
            if stops:
                assert "poll GET /v1/responses/resp_" in told["stored"][0]
                assert all("another one will answer" in each for each in (told["stored"][1], *told["unstored"]))
                assert await ws.closed() == 1012
            else:
                assert all("time limit" in each for each in (*told["stored"], *told["unstored"]))
                assert (await ws.next())["error"]["code"] == "websocket_connection_limit_reached"
                assert await ws.closed() == 1001
            cluster.valkey.send(signal.SIGCONT)
        await all_ended(cluster.redis)
        assert upstream.calls_of("waits") == []
        assert not front_end.find("request.failed")


# who may open one


async def test_pages_of_other_sites_are_kept_out_where_no_key_is_needed(cluster: Cluster) -> None:
    origin = cluster.front_ends[0].origin
    status, error = await refused(origin, {"Origin": "https://elsewhere.example"})
    assert (status, error["code"]) == (403, None)
    assert (await refused(origin, {"Origin": "http://["}))[0] == 403
    async with connected(origin, headers={"Origin": origin}) as ws:
        assert (await ws.turn("hi", model="echo"))["status"] == "completed"


async def test_a_key_that_is_revoked_meanwhile(cluster: Cluster) -> None:
    """It is believed for a few seconds, as with every call. What runs then may end."""
    front_end = cluster.front_ends[0]
    environ = {"REDIS_URL": cluster.redis_url}
    (key, _), _ = await keys.create(environ, "short", "default"), await keys.create(environ, "long", "default")
    async with connected(front_end.origin, key=key) as ws:
        assert (await ws.turn("hi", model="echo"))["status"] == "completed"
        assert not await keys.revoke(environ, "short")
        seen = []

        async def is_refused() -> bool:
            seen.append(await ws.turn("hi", model="echo"))
            return seen[-1].get("type") == "error"

        await until(is_refused)
        assert (seen[-1]["status"], seen[-1]["error"]["code"]) == (401, "invalid_api_key")
        assert await ws.closed() == 1008
    status, error = await refused(front_end.origin, {"Authorization": f"Bearer {key}"})
    assert (status, error["code"]) == (401, "invalid_api_key")


async def test_what_waits_does_not_start_once_a_key_is_known_to_be_revoked(
    cluster: Cluster, upstream: NamedUpstream
) -> None:
    gate = asyncio.Event()
    upstream.plan("x", [*words("one "), *then(gate, "two")])
    environ = {"REDIS_URL": cluster.redis_url}
    (key, _), _ = await keys.create(environ, "short", "default"), await keys.create(environ, "long", "default")
    async with connected(cluster.front_ends[0].origin, key=key) as ws:
        await shown(ws, "x", stream_id="x")
        await ws.create("waits", stream_id="x")
        assert not await keys.revoke(environ, "short")

        async def is_refused() -> bool:
            return (await ws.turn("hi", model="echo", stream_id="y")).get("type") == "error"

        await until(is_refused)
        gate.set()
        assert (await ws.rest("x"))[-1]["type"] == "response.completed"
        event = await ws.next()
        assert (event["stream_id"], event["status"]) == ("x", 401)
        assert await ws.closed() == 1008
    assert upstream.calls_of("waits") == []
