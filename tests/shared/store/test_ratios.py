"""What is learned about tokenizers, in a real Valkey."""

from collections.abc import AsyncIterator

import pytest_asyncio
from redis.asyncio import Redis

from shared.core.tokens import weigh
from shared.store.ratios import FADE_TOKENS, KEEP_S, MAX_MODELS, Ratios
from shared.store.redis import Store, connect
from shared.wire.items import InputImage, Item, Message
from shared.wire.requests import Request
from shared.wire.responses import Usage
from support.valkey import PREFIX
from worker.ratios import Observer

KEY = f"{PREFIX}ratios"


@pytest_asyncio.fixture
async def ratios(valkey: str, redis: Redis) -> AsyncIterator[Ratios]:
    client = connect(valkey)
    yield Ratios(Store(client))
    await client.aclose()


async def test_sums_are_kept_per_model(ratios: Ratios, redis: Redis) -> None:
    assert await ratios.read("a") is None
    await ratios.learn({"a": (300, 100), "b": (900, 100), "tiny": (10, 2)})
    assert (await ratios.read("a"), await ratios.read("b")) == (3.0, 9.0)
    assert await ratios.read("tiny") is None  # two tokens tell nothing
    await ratios.learn({"a": (500, 100)})
    assert await ratios.read("a") == 4.0
    assert KEEP_S - 5 <= await redis.ttl(KEY) <= KEEP_S


async def test_old_observations_fade(ratios: Ratios, redis: Redis) -> None:
    await ratios.learn({"a": (2 * FADE_TOKENS, FADE_TOKENS)})
    for _ in range(12):
        await ratios.learn({"a": (5 * FADE_TOKENS, FADE_TOKENS)})
    ratio = await ratios.read("a")
    assert ratio is not None
    assert 4.9 < ratio <= 5.0
    _, tokens = (await redis.hget(KEY, "a")).split()
    assert int(tokens) <= FADE_TOKENS


async def test_names_are_bounded(ratios: Ratios, redis: Redis) -> None:
    await ratios.learn({f"m{i}": (400, 100) for i in range(MAX_MODELS + 10)})
    assert await redis.hlen(KEY) == MAX_MODELS
    await ratios.learn({"m0": (800, 100)})
    assert await ratios.read("m0") == 6.0


async def test_a_worker_tells_what_it_saw(ratios: Ratios, redis: Redis) -> None:
    observer, request = Observer(ratios), Request(id="", created_at=0, model="m")
    items: list[Item] = [Message("user", "word " * 100)]
    size = weigh(request, items)
    await observer.tell()
    assert not await redis.exists(KEY)
    for _ in range(2):
        observer.observe(request, items, Usage(100, 1, 101))
    observer.observe(request, items, None)  # not told
    observer.observe(request, items, Usage(0, 1, 1))  # not known
    observer.observe(request, [Message("user", [InputImage(image_url="https://x/y.png")])], Usage(900, 1, 901))
    cut = Request(id="", created_at=0, model="m", truncation="auto")
    observer.observe(cut, items, Usage(1, 1, 2))
    await observer.tell()
    assert await redis.hget(KEY, "m") == f"{2 * size} 200"
    await observer.tell()
    assert await redis.hget(KEY, "m") == f"{2 * size} 200"
