"""Several backends behind one model: fallbacks, limits that hold over all workers, and what is told of the calls."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from fakes.upstream import Call, FakeUpstream, Script, Send, close, hang, reply, send, status
from support.clients import RawClient
from support.cluster import running
from support.faults import (
    SHORT_LEASE,
    NamedUpstream,
    check_left,
    create,
    ended,
    get,
    read_until,
    streaming,
    text_of,
    then,
    words,
)
from support.schemas import Json

RawMaker = Callable[[str], RawClient]


@pytest_asyncio.fixture
async def other() -> AsyncIterator[NamedUpstream]:
    async with NamedUpstream() as other:
        yield other


def table(*backends: dict[str, object]) -> str:
    lines = ['[models."*"]', 'dialect = "chat"']
    for backend in backends:
        lines.append('[[models."*".backends]]')
        lines += [f"{name} = {value!r}" for name, value in backend.items()]
    return "\n".join(lines).replace("'", '"') + "\n"


def pair(first: FakeUpstream, second: FakeUpstream, **fields: object) -> str:
    return table(
        {"base_url": first.base_url, "backend": "first", **fields},
        {"base_url": second.base_url, "backend": "second", "fallback": 1},
    )


async def foreground(raw: RawClient, text: str, /, **fields: object) -> tuple[Json, str]:
    """The response, and the calls to backends behind it."""
    answer = await raw.post("/v1/responses", json={"model": "tiny", "input": text, **fields})
    assert answer.status == 200
    return answer.json(), answer.headers["x-respool-attempts"]


def outcomes(attempts: str) -> list[str]:
    return [each.rpartition(":")[0] for each in attempts.split(", ")]


async def test_a_fallback_answers_for_a_backend_that_is_down(
    upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker
) -> None:
    upstream.respond = lambda _: [status(500)]
    async with running(config=pair(upstream, other)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response, attempts = await foreground(raw, "r words=3")
        assert text_of(response) == "word0 word1 word2 "
        assert outcomes(attempts) == ["first:failed", "second:completed"]
        again = await raw.get(f"/v1/responses/{response['id']}")
        assert again.headers["x-respool-attempts"] == attempts
        line = await cluster.workers[0].logged("response.settled", response_id=response["id"])
        assert line["attempts"] == attempts.replace(", ", ",")
        async with streaming(raw, "s words=2") as stream:
            events = [event async for event in stream.events()]
        assert text_of(events[-1]["response"]) == "word0 word1 "
        for _ in range(4):
            await foreground(raw, "r words=1")
        await cluster.workers[0].logged("backend.opened", backend="first")
        asked = len(upstream.calls)
        _, attempts = await foreground(raw, "r words=1")
        assert outcomes(attempts) == ["second:completed"]  # the first one is left alone for a while
        assert len(upstream.calls) == asked


async def test_a_circuit_is_probed_and_closes(
    upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker
) -> None:
    sick: list[Script] = [[status(500)]] * 5
    upstream.respond = lambda _: sick.pop() if sick else [reply("well")]
    async with running(config=pair(upstream, other)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        for _ in range(5):
            await foreground(raw, "r words=1")
        await cluster.workers[0].logged("backend.opened", backend="first")
        async with asyncio.timeout(20):
            while True:
                response, attempts = await foreground(raw, "r words=1")
                if outcomes(attempts) == ["first:completed"]:
                    break
        assert text_of(response) == "well"
        assert len(upstream.calls) == 6  # not one while it was left alone


async def test_the_only_backend_is_asked_whatever_its_state(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """A circuit has nobody to turn to here: as soon as the backend is well again, so are its responses."""
    async with running(config=table({"base_url": upstream.base_url, "backend": "only"})) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        sick: list[Script] = [[status(500)]] * 6
        upstream.respond = lambda _: sick.pop() if sick else [reply("well")]
        made = [(await foreground(raw, "r"))[0] for _ in range(3)]
        await cluster.workers[0].logged("backend.opened", backend="only")
        assert len(cluster.workers[0].find("backend.opened")) == 1
    assert [each["status"] for each in made] == ["failed", "failed", "completed"]
    assert len(upstream.calls) == 7


async def test_a_kept_connection_that_the_backend_closes_is_no_failure(
    upstream: NamedUpstream, raw_client: RawMaker
) -> None:
    async with running(config=table({"base_url": upstream.base_url, "backend": "only"})) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        scripts: list[Script] = [[reply("again")], [close()], [reply("well")]]
        upstream.respond = lambda _: scripts.pop()
        made = [await foreground(raw, "r") for _ in range(2)]
        worker = cluster.workers[0]
        await worker.logged("response.settled", response_id=made[1][0]["id"])
        assert [worker.find(event) for event in ("upstream.failed", "upstream.retried", "upstream.unreachable")] == [
            []
        ] * 3
    assert [text_of(response) for response, _ in made] == ["well", "again"]
    assert [outcomes(attempts) for _, attempts in made] == [["only:completed"]] * 2
    assert len(upstream.calls) == 3


async def test_what_was_shown_stays(upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker) -> None:
    upstream.plan("r", [*words("one "), send(b'data: {"error": {"message": "boom", "code": 500}}\n\n')])
    async with running(config=pair(upstream, other)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "r") as stream:
            events = [event async for event in stream.events()]
        assert events[-1]["type"] == "response.failed"
        assert text_of(events[-1]["response"]) == "one "
        assert other.calls == []
        response = await get(raw, events[0]["response"]["id"])
        assert response["status"] == "failed"


async def test_a_request_that_is_at_fault_is_not_sent_around(
    upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker
) -> None:
    upstream.respond = lambda _: [status(400, {"error": {"message": "context length exceeded", "code": 400}})]
    async with running(config=pair(upstream, other)) as cluster:
        response, attempts = await foreground(raw_client(cluster.front_ends[0].origin), "r")
    assert response["error"]["code"] == "invalid_prompt"
    assert outcomes(attempts) == ["first:refused"]
    assert other.calls == []


async def test_a_bad_key_is_that_backends_own_affair(
    upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker
) -> None:
    upstream.respond = lambda _: [status(401, {"error": {"message": "bad key sk-secret", "code": 401}})]
    async with running(config=pair(upstream, other)) as cluster:
        response, attempts = await foreground(raw_client(cluster.front_ends[0].origin), "r words=1")
        assert response["status"] == "completed"
        assert outcomes(attempts) == ["first:failed", "second:completed"]
        assert "sk-secret" not in str(cluster.workers[0].lines)


async def test_who_asks_for_time_gets_it(upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker) -> None:
    upstream.queue(status(429, headers={"Retry-After": "60"}))
    async with running(config=pair(upstream, other)) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        told = [outcomes((await foreground(raw, "r words=1"))[1]) for _ in range(3)]
    assert told == [["first:limited", "second:completed"], ["second:completed"], ["second:completed"]]
    assert len(upstream.calls) == 1


async def test_a_chain_stays_where_it_began(
    upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker
) -> None:
    config = table(
        {"base_url": upstream.base_url, "backend": "first", "weight": 1},
        {"base_url": other.base_url, "backend": "second", "weight": 1},
    )
    async with running(config=config, workers=2) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        conversation = (await raw.post("/v1/conversations", json={})).json()["id"]
        for link in ({"conversation": conversation}, {}):
            response, attempts = await foreground(raw, "r words=1", **link)
            for _ in range(6):  # by chance alone: once in 64
                more = link or {"previous_response_id": response["id"]}
                response, again = await foreground(raw, "r words=1", **more)
                assert outcomes(again) == outcomes(attempts)
    assert len(upstream.calls) + len(other.calls) == 14


async def test_load_is_shared_by_weight(upstream: NamedUpstream, other: NamedUpstream, raw_client: RawMaker) -> None:
    config = table(
        {"base_url": upstream.base_url, "backend": "first", "weight": 3},
        {"base_url": other.base_url, "backend": "second", "weight": 1},
    )
    async with running(config=config) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        made = await asyncio.gather(*(create(raw, "r words=1") for _ in range(200)))
        await asyncio.gather(*(ended(raw, each["id"]) for each in made))
    assert len(upstream.calls) + len(other.calls) == 200
    assert 115 < len(upstream.calls) < 185  # 150 by weight; less than one run in a million lies outside


class Counting(NamedUpstream):
    """Knows how many calls it had at once: one counts until its last byte is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._sizes: list[int] = []
        respond = self.respond

        def counted(call: Call) -> Script:
            script = respond(call)
            going = [each.sent_bytes < size for each, size in zip(self.calls, self._sizes, strict=False)]
            self._sizes.append(sum(len(step.data) for step in script if isinstance(step, Send)))
            self.most = max(self.most, 1 + sum(going))
            return script

        self.respond = counted


async def test_a_limit_holds_over_all_workers(raw_client: RawMaker) -> None:
    async with Counting() as backend:
        config = table({"base_url": backend.base_url, "backend": "gpu", "max_concurrency": 2})
        async with running(env=SHORT_LEASE, config=config, workers=3) as cluster:
            raw = raw_client(cluster.front_ends[0].origin)
            made = [await create(raw, f"r{number} words=3 delay_ms=10") for number in range(30)]
            for response in made:
                assert (await ended(raw, response["id"], 40.0))["status"] == "completed"
            assert await check_left(cluster.redis) == 30
    assert backend.most == 2
    assert len(backend.calls) == 30


async def test_places_of_a_dead_worker_come_back(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    """A worker dies with the only place; its response runs again, and so does the one that waited."""
    upstream.plan("held", [hang()])
    config = table({"base_url": upstream.base_url, "backend": "gpu", "max_concurrency": 1})
    async with running(env=SHORT_LEASE, config=config) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        held = await create(raw, "held words=2")
        await upstream.arrived("held")
        waiting = await create(raw, "waiting words=2")
        await cluster.workers[0].kill()
        await cluster.start_worker()
        for response in (held, waiting):
            assert text_of(await ended(raw, response["id"])) == "word0 word1 "
    assert len(upstream.calls_of("held")) == 2
    assert len(upstream.calls_of("waiting")) == 1


async def test_who_waits_for_a_place_can_be_cancelled(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    gate = asyncio.Event()
    upstream.plan("held", [*words("one "), *then(gate, "two")])
    config = table({"base_url": upstream.base_url, "backend": "gpu", "max_concurrency": 1})
    async with running(config=config) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        async with streaming(raw, "held", background=True) as stream:
            await read_until(stream, "response.output_text.delta")
            waiting = await create(raw, "waiting words=2")
            assert (await raw.post(f"/v1/responses/{waiting['id']}/cancel")).json()["status"] == "cancelled"
            gate.set()
            await read_until(stream, "response.completed")
        assert await check_left(cluster.redis) == 2
    assert upstream.calls_of("waiting") == []
