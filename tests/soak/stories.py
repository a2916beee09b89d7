"""What each kind of client does, on front ends that come and go.

A client is patient: it asks again, elsewhere, for as long as `PATIENCE_S`, and takes 503 for what it is. All that it sees
is recorded; what is wrong with it is for the checker to say.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from soak.plan import BACKEND_FAILURES, Story
from soak.world import World
from support.clients import Answer, RawClient, RawStream
from support.contract import TERMINAL
from support.recorder import Recorder
from support.schemas import Json

PATIENCE_S = 150.0
RETRY_S = 0.25
TIMEOUT = aiohttp.ClientTimeout(total=90, sock_connect=5, sock_read=12)
BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)
REFUSED = 503


class GaveUp(Exception):
    """The client's patience is over."""


class Client:
    """One story's client. ``async with`` closes its connections."""

    def __init__(self, world: World, story: Story) -> None:
        self.world, self.story = world, story
        self.chance = random.Random(story.seed)
        self.recorder = Recorder()
        self.response_id = ""
        self.last = -1  # the number of the last event seen
        self.over = False  # a terminal event was seen
        self._made = 0
        self._clients: dict[str, RawClient] = {}

    async def __aenter__(self) -> "Client":
        self._until = asyncio.get_running_loop().time() + PATIENCE_S
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.close()

    # asking

    def somewhere(self) -> RawClient:
        """Any front end that is there."""
        origin = self.chance.choice(self.world.origins() or [self.world.cluster.front_ends[-1].origin])
        if origin not in self._clients:
            self._clients[origin] = RawClient(origin, self.recorder, headers={"Authorization": "Bearer key"})
        return self._clients[origin]

    async def again(self) -> None:
        """Before the next try."""
        if asyncio.get_running_loop().time() > self._until:
            raise GaveUp(f"{self.story} asked for {PATIENCE_S:g} s")
        await asyncio.sleep(RETRY_S)

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """An answer that is neither a refusal nor a broken connection. For calls that may be repeated."""
        while True:
            with contextlib.suppress(*BROKEN):
                answer = await self.somewhere().request(method, path, timeout=TIMEOUT, **options)
                if answer.status != REFUSED:
                    return answer
                self.world.counts["refused"] += 1
            await self.again()

    def body(self, phrases: str = "", **fields: Any) -> Json:
        """A create call's; each has a name of its own, so that its upstream calls can be told apart."""
        self._made += 1
        text = f"{self.story.name}n{self._made} words={self.story.words} delay_ms={self.story.delay_ms} marked"
        return {"model": "tiny", "input": f"{text} {phrases}".strip(), **fields}

    async def create(self, phrases: str = "", **fields: Any) -> Json | None:
        """Create without a stream; ``None`` when the connection broke, and nobody knows what was made."""
        while True:
            try:
                answer = await self.somewhere().post(
                    "/v1/responses", json=self.body(phrases, **fields), timeout=TIMEOUT
                )
            except BROKEN:
                self.world.counts["broken creates"] += 1
                return None
            if answer.status == 200:
                self.world.counts["accepted"] += 1
                self.response_id = answer.json()["id"]
                return dict(answer.json())
            self.world.counts["refused"] += answer.status == REFUSED
            assert answer.status == REFUSED, answer.body
            await self.again()

    @contextlib.asynccontextmanager
    async def created_stream(self, phrases: str = "", **fields: Any) -> AsyncIterator[RawStream | None]:
        """The stream of a new response; ``None`` when the connection broke before its first event."""
        async with contextlib.AsyncExitStack() as stack:
            while True:
                try:
                    body = self.body(phrases, stream=True, **fields)
                    going = self.somewhere().stream("POST", "/v1/responses", json=body, timeout=TIMEOUT)
                    stream = await stack.enter_async_context(going)
                    refused = stream.status == REFUSED and await stream.read()
                except BROKEN:
                    self.world.counts["broken creates"] += 1
                    yield None
                    return
                if not refused:
                    break
                self.world.counts["refused"] += 1
                await self.again()
            yield stream

    async def read(self, stream: RawStream | None, *, count: int = 1 << 30, pause_s: float = 0.0) -> None:
        """So many events, or to the end, or to where the connection breaks."""
        if stream is None:
            return
        with contextlib.suppress(*BROKEN):
            async for event in stream.events():
                if not self.response_id and isinstance(event.get("response"), dict):
                    self.response_id = event["response"]["id"]
                    self.world.counts["accepted"] += 1
                self.last = event["sequence_number"]
                self.over = self.over or event.get("response", {}).get("status") in TERMINAL
                count -= 1
                if count <= 0:
                    return
                if pause_s:
                    await asyncio.sleep(pause_s)

    async def resume(self, *, count: int = 1 << 30, pause_s: float = 0.0) -> None:
        """Read on behind the last event, on any front end. Once; the connection may break again."""
        self.world.counts["resumed"] += 1
        query = f"&starting_after={self.last}" if self.last >= 0 else ""
        path = f"/v1/responses/{self.response_id}?stream=true{query}"
        with contextlib.suppress(*BROKEN):
            async with self.somewhere().stream("GET", path, timeout=TIMEOUT) as stream:
                if stream.status == 200:
                    await self.read(stream, count=count, pause_s=pause_s)
                else:
                    await stream.read()

    async def follow(self) -> None:
        """To the end of the stream, however often it breaks."""
        while self.response_id and not self.over:
            await self.resume()
            if not self.over:
                await self.again()

    async def ended(self, path: str = "") -> Json:
        """Poll to the end."""
        while True:
            wait = self.chance.choice(("", "", "?wait=5"))
            answer = await self.ask("GET", f"/v1/responses/{path or self.response_id}{wait}")
            if answer.status != 200:
                return {}
            if answer.json()["status"] in TERMINAL:
                return dict(answer.json())
            await asyncio.sleep(self.chance.uniform(0.05, 0.8))

    async def look_again(self) -> None:
        """The response as it ended, once more; and some read its log once more."""
        if self.response_id:
            await self.ask("GET", f"/v1/responses/{self.response_id}")

    async def moment(self, longest_s: float | None = None) -> None:
        """Some time that no signal announces, by default within the response's life."""
        life_s = self.story.words * self.story.delay_ms / 1000 + 0.1
        await asyncio.sleep(self.chance.uniform(0, life_s if longest_s is None else longest_s))


# the stories


async def foreground(client: Client) -> None:
    await client.create()
    await client.look_again()


async def foreground_stream(client: Client) -> None:
    async with client.created_stream() as stream:
        await client.read(stream)
    await client.follow()
    await client.look_again()


async def unstored_stream(client: Client) -> None:
    """A break cannot be mended: the response is nobody's from then on."""
    async with client.created_stream(store=False) as stream:
        await client.read(stream)


async def background(client: Client) -> None:
    if await client.create(background=True, store=client.chance.random() < 0.8):
        await client.ended()
        await client.look_again()


async def background_stream(client: Client) -> None:
    async with client.created_stream(background=True) as stream:
        await client.read(stream, count=client.chance.choice((1, 5, 20, 1 << 30)))
    await client.follow()
    await client.look_again()
    client.last = client.chance.choice((-1, -1, client.last // 2))
    await client.resume()


async def resumed_often(client: Client) -> None:
    async with client.created_stream(background=True) as stream:
        await client.read(stream, count=client.chance.randint(1, 10))
    while client.response_id and not client.over:
        before = client.last
        await client.resume(count=client.chance.randint(1, 25))
        if client.last == before:
            await client.again()
    await client.look_again()


async def cancelled(client: Client) -> None:
    if await client.create(client.chance.choice(("", "", "hold")), background=True):
        await client.moment()
        await _cancel(client)


async def cancelled_late(client: Client) -> None:
    """About when it ends by itself."""
    if await client.create(background=True):
        await asyncio.sleep(
            max(0.0, client.story.words * client.story.delay_ms / 1000 + client.chance.uniform(-0.1, 0.2))
        )
        await _cancel(client)


async def cancelled_stream(client: Client) -> None:
    async with client.created_stream(background=True) as stream:
        await client.read(stream, count=client.chance.randint(1, 30))
        if client.response_id:
            await _cancel(client)
            await client.read(stream)
    await client.follow()


async def _cancel(client: Client) -> None:
    answer = await client.ask("POST", f"/v1/responses/{client.response_id}/cancel")
    client.world.counts["cancels"] += answer.status == 200
    await client.ended()
    await client.look_again()


async def deleted(client: Client) -> None:
    if not await client.create(background=True, stream=False):
        return
    await client.ask("DELETE", f"/v1/responses/{client.response_id}")  # refused while it runs
    await client.ended()
    await client.ask("DELETE", f"/v1/responses/{client.response_id}")
    await client.look_again()


async def chain(client: Client) -> None:
    parent: Json = {}
    for _ in range(3):
        made = await client.create(background=True, **({"previous_response_id": parent["id"]} if parent else {}))
        if not made or not (parent := await client.ended()):
            return


async def conversation(client: Client) -> None:
    made = (await client.ask("POST", "/v1/conversations", json={})).json()
    for _ in range(2):
        while True:
            body = client.body(background=True, conversation=made["id"])
            try:
                answer = await client.somewhere().post("/v1/responses", json=body, timeout=TIMEOUT)
            except BROKEN:
                return
            if answer.status == 200:
                break
            # Locked by one that was made behind a broken connection, or by the one before it, which Redis only now settles.
            await client.again()
        client.world.counts["accepted"] += 1
        client.response_id = answer.json()["id"]
        await client.ended()
    await client.ask("GET", f"/v1/conversations/{made['id']}/items")


async def repeated(client: Client) -> None:
    """Several calls with one Idempotency-Key; the first ones may hang up."""
    body, headers = client.body(background=client.chance.random() < 0.5), {"Idempotency-Key": client.story.name}
    with contextlib.suppress(*BROKEN):
        async with asyncio.timeout(client.chance.uniform(0.01, 0.3)):
            await client.somewhere().post("/v1/responses", json=body, headers=headers, timeout=TIMEOUT)
    calls = (
        client.ask("POST", "/v1/responses", json=body, headers=headers) for _ in range(client.chance.randint(1, 3))
    )
    answers = await asyncio.gather(*calls)
    client.world.counts["accepted"] += 1
    client.world.counts["repeated"] += len(answers) - 1
    for answer in answers:
        if answer.status == 200:
            client.response_id = answer.json()["id"]
            await client.ended()


async def hung_up(client: Client) -> None:
    """In the middle of a foreground call, with and without a stream."""
    if client.chance.random() < 0.5:
        async with client.created_stream() as stream:
            await client.read(stream, count=client.chance.randint(1, 20))
    else:
        with contextlib.suppress(*BROKEN):
            async with asyncio.timeout(client.chance.uniform(0.01, 2.0)):
                await client.somewhere().post("/v1/responses", json=client.body(), timeout=TIMEOUT)
    client.world.counts["hung up"] += 1


async def slow_reader(client: Client) -> None:
    async with client.created_stream("size=2000", background=True) as stream:
        await client.read(stream, count=40, pause_s=0.2)
        await client.moment(8.0)
        await client.read(stream)
    await client.follow()
    await client.look_again()


async def failing_backend(client: Client) -> None:
    phrases = client.chance.choice(BACKEND_FAILURES)
    if client.chance.random() < 0.5:
        if await client.create(phrases, background=True):
            await client.ended()
    else:
        async with client.created_stream(phrases, background=client.chance.random() < 0.5) as stream:
            await client.read(stream)
        await client.follow()
    await client.look_again()


TELL: Mapping[str, Callable[[Client], Awaitable[None]]] = {
    tell.__name__.replace("_", " "): tell
    for tell in (
        foreground, foreground_stream, unstored_stream, background, background_stream, resumed_often, cancelled,
        cancelled_late, cancelled_stream, deleted, chain, conversation, repeated, hung_up, slow_reader, failing_backend,
    )
}  # fmt: skip


async def tell(world: World, story: Story) -> None:
    """Play *story*, and judge what its client saw."""
    async with Client(world, story) as client:
        try:
            await TELL[story.kind](client)
        except GaveUp as gave_up:
            world.gave_up.append(str(gave_up))
    await world.judge(client.recorder)
