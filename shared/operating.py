"""What `respool doctor`, `requeue` and `drain` do, on the Redis that is named or on that of a running `respool up`."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from shared.config import Settings, load_settings, read_config
from shared.core.diagnosis import Limits, Trouble, diagnose
from shared.errors import ConfigError, StoreUnavailable
from shared.ids import HOME_PARTITION, base32
from shared.store.checks import inspect
from shared.store.redis import LOST, Client, Store, connect
from shared.store.survey import survey
from shared.supervisor import embedded_url

PARTITION = base32(HOME_PARTITION, 2)
MOST_LINES = 20


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Client]:
    """The Redis of *settings*; without one, the embedded Valkey that `respool up` runs now."""
    url = settings.redis_url or embedded_url(settings.data_dir)
    if url is None:
        remedy = "start it with `respool up`, or name another Redis with --redis-url (REDIS_URL)"
        raise ConfigError([f"REDIS_URL: no Redis is named, and no embedded one runs in {settings.data_dir}: {remedy}"])
    async with connect(url, connections=1) as client:
        yield client


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
