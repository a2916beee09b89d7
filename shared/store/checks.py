"""Is this Redis fit to hold responses? What is wrong with it, as findings that name the risk and the remedy."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.errors import ConfigError
from shared.store.redis import within

REDIS_FLOOR = (7, 0)
VALKEY_FLOOR = (7, 2)
START_BUDGET_S = 5.0

log = structlog.get_logger()


class Finding(NamedTuple):
    """An ``error`` means that it cannot work; a ``warning`` that data is at risk."""

    level: Literal["error", "warning"]
    message: str


def assess(info: Mapping[str, Any], config: Mapping[str, Any]) -> list[Finding]:
    """What INFO and CONFIG GET tell. Keys that are missing are not judged; INFO stands in for CONFIG where it can."""
    findings = _version(info)
    append_only = config.get("appendonly") or {"0": "no", "1": "yes"}.get(str(info.get("aof_enabled")))
    if append_only == "no":
        remedy = "Redis keeps nothing across a restart: accepted responses would be lost; set `appendonly yes`"
        findings.append(Finding("warning", remedy))
    elif config.get("appendfsync") == "no":
        remedy = (
            "Redis leaves writing to disk to the system: seconds may be lost; set `appendfsync everysec` or `always`"
        )
        findings.append(Finding("warning", remedy))
    policy = config.get("maxmemory-policy") or info.get("maxmemory_policy")
    if policy not in (None, "noeviction"):
        remedy = "at its limit Redis would throw responses away; set `maxmemory-policy noeviction`"
        findings.append(Finding("warning", f"{remedy} (it is {policy})"))
    return findings


def _version(info: Mapping[str, Any]) -> list[Finding]:
    """Valkey calls itself redis_version 7.2.4, whatever it is, and names its own beside it."""
    name, field, floor = "Redis", "redis_version", REDIS_FLOOR
    if "valkey_version" in info:
        name, field, floor = "Valkey", "valkey_version", VALKEY_FLOOR
    text = str(info.get(field, ""))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        return [Finding("warning", "the version of Redis could not be read; needed are Redis 7.0 or Valkey 7.2")]
    if (int(numbers[1]), int(numbers[2])) < floor:
        return [Finding("error", f"{name} {text} is too old; needed is {name} {floor[0]}.{floor[1]} or newer")]
    return []


async def require_fit(client: Redis) -> None:
    """To be called when a room starts: warnings are logged, an error raises ``ConfigError``, silence
    ``StoreUnavailable``."""
    findings = await within(lambda: inspect(client), START_BUDGET_S)
    for finding in findings:
        if finding.level == "warning":
            log.warning("redis.warned", message=finding.message)
    if errors := [f"REDIS_URL: {finding.message}" for finding in findings if finding.level == "error"]:
        raise ConfigError(errors)


async def inspect(client: Redis) -> list[Finding]:
    """The findings for a live server. A server that forbids INFO or CONFIG is judged by what it does tell."""
    info: Mapping[str, Any] = {}
    config: dict[str, str] = {}
    with suppress(ResponseError):  # forbidden or renamed, as some hosted ones do
        info = await client.info()
    with suppress(ResponseError):
        for pattern in ("append*", "maxmemory-policy"):
            config |= {_text(name): _text(value) for name, value in (await client.config_get(pattern)).items()}
    return assess(info, config)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
