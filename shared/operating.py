"""What `respool doctor`, `requeue` and `drain` do, on the Redis that is named or on that of a running `respool up`."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.exceptions import RedisError

from shared.config import load_settings, read_config
from shared.core.diagnosis import Limits, Trouble, diagnose
from shared.errors import ConfigError, RespoolError, StoreUnavailable
from shared.ids import HOME_PARTITION, base32, is_response_id
from shared.program import program
from shared.settings import Settings
from shared.store.checks import inspect
from shared.store.processes import ask_to_drain, living
from shared.store.redis import LOST, Client, Store, connect
from shared.store.responses import Responses
from shared.store.survey import survey
from shared.supervisor import embedded_url

PARTITION = base32(HOME_PARTITION, 2)
MOST_LINES = 20
FOLLOW_S = 10.0
"""A worker says with its heartbeat that it drains."""
EXIT_S = 60.0
"""Beyond ``drain_s``: for last words, and for responses that must be finished."""
ASK_AGAIN_S = 0.5
DONE = {"ok": "it waits in its queue again", "queued": "it waits in its queue already"}
REFUSED = {
    "gone": "there is no such response",
    "shown": "somebody may have seen its output: it would be run twice visibly. Cancel it, or let its lease decide",
    "cancelled": "a cancel is noted: it ends as cancelled",
    "settling": "it is being settled in place of its worker: it ends within seconds",
    "unreadable": "its stored request is gone: it cannot be run again",
}
"""By the words of ``requeue.lua``."""


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Client]:
    """The Redis of *settings*; without one, the embedded Valkey that `respool up` runs now."""
    url = settings.redis_url or embedded_url(settings.data_dir)
    if url is None:
        raise _nothing_runs(settings.data_dir)
    async with connect(url, connections=1) as client:
        yield client


def _nothing_runs(data_dir: str) -> ConfigError:
    remedy = (
        f"start it with `{program()} up`, name its folder with --data, or another Redis with --redis-url (REDIS_URL)"
    )
    folder = Path(data_dir).resolve()
    return ConfigError([f"REDIS_URL: no Redis is named, and no embedded one runs in {folder}: {remedy}"])


def settings_of(environ: Mapping[str, str]) -> Settings:
    return load_settings(environ, read_config(environ))


async def examine(environ: Mapping[str, str]) -> list[Trouble]:
    """What is stuck or odd. Changes nothing."""
    settings = settings_of(environ)
    async with open_redis(settings) as client:
        snapshot = await survey(Store(client), PARTITION)
        try:
            findings = await inspect(client)
        except (RedisError, *LOST) as error:
            raise StoreUnavailable(f"Redis failed: {type(error).__name__}") from error
    troubles = [Trouble("redis", "", finding.message) for finding in findings]
    return troubles + diagnose(snapshot, Limits(settings.max_queue, settings.max_queue_s))


def lines(troubles: Sequence[Trouble]) -> Iterator[str]:
    """The same to read: at most ``MOST_LINES`` of each kind."""
    if not troubles:
        yield "all is well"
    counts = Counter(trouble.what for trouble in troubles)
    shown: Counter[str] = Counter()
    for what, about, message in troubles:
        shown[what] += 1
        if shown[what] <= MOST_LINES:
            yield f"{what}: {about} {message}" if about else f"{what}: {message}"
        elif shown[what] == MOST_LINES + 1:
            yield f"{what}: and {counts[what] - MOST_LINES} more (--json lists them)"


async def requeue(environ: Mapping[str, str], response_id: str) -> str:
    """Put a response back into its queue; what became of that. Raises ``RespoolError`` when it must not be."""
    if not is_response_id(response_id):
        raise RespoolError(f"{response_id} is no id of a response")
    async with open_redis(settings_of(environ)) as client:
        word = await Responses(Store(client)).requeue(response_id)
    if word in DONE:
        return DONE[word]
    raise RespoolError(REFUSED.get(word) or f"it has ended ({word}): a final status never changes")


async def drain(
    environ: Mapping[str, str], worker: str | None, *, wait: bool, say: Callable[[str], None]
) -> Sequence[str]:
    """Ask *worker*, or all that run now, to drain, and see that they do; with *wait*, that they exit. Returns those that
    did not. Raises ``RespoolError`` when there is nobody to ask."""
    settings = settings_of(environ)
    async with open_redis(settings) as client:
        there = [name for name in await living(client) if name.startswith("w-")]
        asked = [name for name in there if worker in (None, name)]
        said: set[str] = set()

        def tell(text: str) -> None:
            if text not in said:
                said.add(text)
                say(text)

        if not asked:
            wanted = f"no worker is called {worker}" if worker else "no worker runs"
            raise RespoolError(f"{wanted}; there are: {', '.join(there)}" if there else wanted)
        silent = await _ask_until(client, asked, FOLLOW_S, tell, exited=False)
        if silent or not wait:
            return silent
        return await _ask_until(client, asked, settings.drain_s + EXIT_S, tell, exited=True)


async def _ask_until(
    client: Client, asked: Sequence[str], limit_s: float, say: Callable[[str], None], *, exited: bool
) -> Sequence[str]:
    """Ask until all drain, or have exited. Returns those that have not within *limit_s*."""
    loop, left = asyncio.get_running_loop(), list(asked)
    deadline = loop.time() + limit_s
    while True:
        now = await living(client)
        for name in list(left):
            if name not in now or (not exited and now[name].get("draining") == b"1"):
                left.remove(name)
                say(f"{name} {'drains' if name in now else 'has exited'}")
        if not left or loop.time() > deadline:
            return left
        for name in left:
            await ask_to_drain(client, name)
        await asyncio.sleep(ASK_AGAIN_S)
