"""Who can reach this server: beyond loopback it is never served without keys."""

import ipaddress

from shared.errors import ConfigError
from shared.program import program
from shared.settings import Settings

EXAMPLE_SHA256 = "8cfae1ed434ce1152950dcd84539e0bca0430311e374a0527dc523034fe379f6"
"""Of the key in ``deploy/respool.example.toml``, which everybody knows."""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def needs_stored_keys(settings: Settings) -> bool:
    """Whether it may only be served if there are keys in Redis: it is beyond loopback, without keys in the file."""
    return not is_loopback(settings.host) and not settings.keys


def check_exposure(settings: Settings, *, stored_keys: bool = False) -> None:
    """Refuse to listen beyond loopback without keys, or with the example's (ConfigError)."""
    if not is_loopback(settings.host) and any(key.sha256 == EXAMPLE_SHA256 for key in settings.keys):
        raise ConfigError(
            [
                f"keys: {settings.host} can be reached by others, and everybody knows the example's key: make one of your own"
            ]
        )
    if needs_stored_keys(settings) and not stored_keys:
        remedy = f"listen on 127.0.0.1 first, make one meanwhile with `{program()} keys create NAME` and start again, or add a [[keys]] table"
        raise ConfigError([f"HOST: {settings.host} can be reached by others, and no keys are configured: {remedy}"])
