"""Ended responses made small: every reader still gets what it got before, and little is left in Redis."""

import random
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from shared.core.emitter import Emitter, Ending
from shared.core.frames import render_all
from shared.core.packing import pack_ended, pack_output
from shared.core.responses import draft
from shared.store.parts import encode_ended, settle_part
from shared.store.responses import Responses
from shared.store.takeover import read_log
from shared.wire.requests import Request
from shared.wire.responses import Usage
from support.valkey import INBOX, PACK, TENANT, claim, flush, key, rid, started

KEEP_S = 86_400
LIMITS: dict[str, Any] = {"keep_s": 0, "max_links": 10, "max_bytes": 1 << 20}


class Made:
    """A response that has ended: its frames, its object, and the output in that."""

    def __init__(self, number: int, words: list[str], *, stream: bool = True) -> None:
        emit = Emitter(draft(Request(id=rid(number), created_at=1, model="m")), streaming=stream)
        emit.created()
        emit.in_progress()
        for word in words:
            emit.text(word)
        response = emit.end(Ending("completed", Usage(9, len(words), 9 + len(words))), at=99)
        self.frames = [frame + b"\n\n" for frame in render_all(emit.take()).split(b"\n\n")[:-1]]
        self.object, self._output_bytes = encode_ended(response)
        self.output = msgspec.json.encode(response.output)
        self.number = number

    async def store(self, responses: Responses, **changes: Any) -> None:
        """Submitted, run and settled."""
        first, begin, *rest = self.frames or [b"", b""]
        fields = {"opening": first, "begin": begin, "stream": bool(self.frames), "keep_s": KEEP_S} | changes
        await started(responses, self.number, **fields)
        header, blob = settle_part(
            rid(self.number), 1, 2 if rest else 0, len(rest), "completed",
            frames=b"".join(rest), body=self.object, output_bytes=self._output_bytes,
        )  # fmt: skip
        assert await flush(responses, [header, blob]) == ["ok"]

    async def pack(self, responses: Responses) -> None:
        if self.frames:
            packed, makes_object = pack_ended(b"".join(self.frames), self.object)
            await responses.pack(rid(self.number), log=packed, makes_object=makes_object)
        else:
            await responses.pack(rid(self.number), output=pack_output(self.object))

    async def check(self, responses: Responses) -> None:
        """All readers get what was made."""
        snapshot = await responses.read(rid(self.number), TENANT)
        assert snapshot is not None
        assert (snapshot.object, snapshot.status) == (self.object, "completed")
        assert await read_log(responses, rid(self.number)) == b"".join(self.frames)
        if self.frames:
            for after in (0, 3, len(self.frames) - 2):
                found, seen = b"", after  # of a log, from the start of a batch
                while seen < len(self.frames) - 1:
                    page = await responses.watch(rid(self.number), TENANT, INBOX, seen)
                    assert page is not None
                    found += b"".join(batch.frames for batch in page.batches)
                    seen = page.batches[-1].first + page.batches[-1].count - 1
                assert found.endswith(b"".join(self.frames[after + 1 :]))
        assert (await responses.items_of(rid(self.number), TENANT))[1] == self.output
        chain = await responses.chain(rid(self.number), TENANT, **LIMITS)
        assert chain[-1] == self.output


WORDS = ["Hello ", "wörld", " \n", "and", " on"]


@pytest.mark.parametrize("stream", [True, False])
async def test_readers_see_no_difference(responses: Responses, redis: Redis, stream: bool) -> None:
    made = Made(1, WORDS * 400, stream=stream)
    await made.store(responses)
    assert await redis.zscore(PACK, rid(1)) is not None
    await made.check(responses)
    before = await weight(redis, 1)
    await made.pack(responses)
    await made.check(responses)
    assert await weight(redis, 1) < before / 2
    assert not await redis.exists(key("e", 1), PACK)
    assert {name: await redis.ttl(name) for name in await redis.keys(f"*{rid(1)}") if await redis.ttl(name) < 0} == {}
    await made.pack(responses)  # once more, by another worker
    await made.check(responses)


async def test_a_log_whose_frames_are_kept(responses: Responses, redis: Redis) -> None:
    """Written by another version: nothing that cannot be made again is thrown away."""
    made = Made(1, WORDS)
    made.frames[4] = made.frames[4].replace(b'"delta":', b'"delta": ')
    await made.store(responses)
    await made.pack(responses)
    assert await redis.hexists(key("b", 1), "object")
    await made.check(responses)


async def test_an_object_that_the_log_does_not_tell(responses: Responses, redis: Redis) -> None:
    made = Made(1, WORDS)
    made.object = made.object.replace(b'"top_p":1.0', b'"top_p":0.5')
    await made.store(responses)
    await made.pack(responses)
    await made.check(responses)
    assert await redis.hexists(key("b", 1), "object")


async def test_small_ones_without_a_log_stay_as_they_are(responses: Responses, redis: Redis) -> None:
    await Made(1, WORDS, stream=False).store(responses)
    assert not await redis.exists(PACK)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deleted_link_lives_on_in_younger_turns(responses: Responses, redis: Redis, stream: bool) -> None:
    parent, child = Made(1, WORDS * 400, stream=stream), Made(2, WORDS * 400, stream=stream)
    await parent.store(responses)
    await child.store(responses, parent=rid(1))
    for each in (parent, child):
        await each.pack(responses)
    assert await responses.delete(rid(1), TENANT) == "ok"
    assert await responses.read(rid(1), TENANT) is None
    assert await responses.watch(rid(1), TENANT, "", -1) is None
    assert await responses.items_of(rid(1), TENANT) == []
    assert await responses.chain(rid(2), TENANT, **LIMITS) == [b'["in"]', parent.output, b'["in"]', child.output]
    assert await responses.delete(rid(2), TENANT) == "ok"
    assert await redis.keys(f"{key('b', 1)[:-40]}*") == []


@pytest.mark.parametrize("packed", [True, False])
async def test_a_chain_is_as_long_as_what_it_says(responses: Responses, redis: Redis, packed: bool) -> None:
    """What is compressed must not slip through the limit."""
    made = Made(1, ["same "] * 2000)
    await made.store(responses)
    if packed:
        await made.pack(responses)
    size = len(made.output) + len(b'["in"]')
    assert await responses.chain(rid(1), TENANT, **LIMITS | {"max_bytes": size - 1}) == "long"
    assert await responses.chain(rid(1), TENANT, **LIMITS | {"max_bytes": size}) == [b'["in"]', made.output]


async def test_what_runs_is_not_packed(responses: Responses, redis: Redis) -> None:
    await started(responses, 1)
    await responses.pack(rid(1), log=b"E")
    assert await redis.exists(key("e", 1))
    assert not await redis.hexists(key("b", 1), "log")
    await claim(responses)


async def test_a_thousand_words_weigh_six_kilobytes(responses: Responses, redis: Redis) -> None:
    made = Made(1, [f"{word} " for word in english_like(1000)])
    items = msgspec.json.encode(
        [{"type": "message", "role": "user", "content": "Tell me a long story, please.", "id": "x" * 40}]
    )
    await made.store(responses, items=items)
    assert await weight(redis, 1) > 250_000
    await made.pack(responses)
    assert await weight(redis, 1) < 6 * 1024


def english_like(count: int) -> list[str]:
    """Words of English lengths and letters; the common ones more often, as Zipf's law has it."""
    chance = random.Random(7)
    letters, weights = zip(*zip("etaoinshrdlucmfwypvbgk", range(22, 0, -1), strict=True), strict=True)
    lengths = chance.choices(range(1, 11), (3, 17, 21, 16, 11, 9, 8, 6, 4, 3), k=1200)
    words = ["".join(chance.choices(letters, weights, k=length)) for length in lengths]
    return chance.choices(words, [1 / rank for rank in range(1, len(words) + 1)], k=count)


async def weight(redis: Redis, number: int) -> int:
    """Bytes that Redis spends on a response, keys and all."""
    names = await redis.keys(f"*{rid(number)}")
    return sum([await redis.memory_usage(name, samples=0) for name in names])
