"""Where a request goes, and its head as bytes."""

import base64
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import yarl

from worker.backends.pool import Origin

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OURS = {"content-length", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Target:
    origin: Origin
    path: str
    host: str
    """As the header ``Host`` has it."""
    login: str
    """What the address says of a user, as the header ``Authorization`` has it; empty without one."""


@functools.lru_cache(1024)
def plan_target(url: str, query: tuple[tuple[str, str], ...]) -> Target:
    """*query* is added to what *url* has."""
    parts = yarl.URL(url)
    if query:
        parts = parts.extend_query(query)
    origin = Origin(parts.scheme == "https", parts.raw_host or "", parts.port or 0)
    user = f"{parts.user or ''}:{parts.password or ''}"
    login = f"Basic {base64.b64encode(user.encode()).decode()}" if user != ":" else ""
    return Target(origin, parts.raw_path_qs, parts.host_port_subcomponent or "", login)


def encode_head(target: Target, headers: Mapping[str, str], size_bytes: int) -> bytes:
    """Of a POST with a body of *size_bytes*. Later *headers* replace earlier ones of the same name. Raises ``ValueError``
    for a name or value that would be more than that."""
    fields = {"host": ("Host", target.host), "accept": ("Accept", "*/*"), "user-agent": ("User-Agent", "respool")}
    if target.login:
        fields["authorization"] = "Authorization", target.login
    for name, value in headers.items():
        fields[name.lower()] = name, value
    lines = [f"{name}: {value}" for key, (name, value) in fields.items() if key not in _OURS]
    if any(_FORBIDDEN.search(line) for line in lines):
        raise ValueError("a header holds a control character")
    start = f"POST {target.path} HTTP/1.1"
    return "\r\n".join([start, *lines, f"Content-Length: {size_bytes}", "", ""]).encode()
