"""Webhooks, pure: what is sent, when it is sent again, and which addresses are a stranger's to reach.

The form of the events is OpenAI's; how they are signed and acknowledged follows Standard Webhooks.
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from shared.ids import base32
from shared.wire.responses import Status

EventType = Literal["response.completed", "response.failed", "response.incomplete", "response.cancelled"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
MOST_WAIT_S = 3600.0
"""Between two attempts: who is back after a long time is told within an hour."""
ACKNOWLEDGED = range(200, 300)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as IPv6 networks without IPv4 see them (RFC 6052)."""
_OF_THE_CLOUD = ipaddress.ip_address("168.63.129.16")
"""Azure's own services, as each of its virtual machines reaches them: a host of this network, though its address looks public."""
_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Delivery:
    """An outcome that an endpoint is to hear of, and the how many-th attempt this is, from 1."""

    endpoint: str
    response_id: str
    status: Status
    ended_ms: int
    tries: int

    @property
    def event_id(self) -> str:
        """The same for every attempt, whoever makes it: receivers know a repetition by it."""
        said = f"{self.response_id} {self.endpoint} response.{self.status}"
        return f"evt_{base32(int.from_bytes(hashlib.sha256(said.encode()).digest()[:20]), 32)}"

    @property
    def body(self) -> bytes:
        """The event, byte for byte the same for every attempt. The Response is fetched by who wants it."""
        kind = f"response.{self.status}"
        return msgspec.json.encode(
            {
                "id": self.event_id,
                "object": "event",
                "created_at": self.ended_ms // 1000,
                "type": kind,
                "data": {"id": self.response_id},
            }
        )


def rule_of(tenant: str, events: Sequence[EventType]) -> str:
    """What an endpoint wants to hear of, as the scripts read it: a tenant (``*``: all of them), and final statuses."""
    return " ".join([tenant or "*", *sorted({event.partition(".")[2] for event in events})])


def plan_wait(tries: int, first_s: float, chance: float) -> float:
    """Seconds until the next attempt behind *tries* that failed: doubled each time, less up to a half by *chance* (0 to 1),
    so that what failed together does not come back together."""
    full_s = min(first_s * 2.0 ** min(tries - 1, _MOST_DOUBLINGS), MOST_WAIT_S)
    return full_s * (1 - chance / 2)


def is_public(address: str) -> bool:
    """Whether *address* (IPv4 or IPv6) is one of the Internet: not of this machine, this network, or none at all."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:  # given up long ago, but still routed here and there
            return False
    return ip.is_global and ip != _OF_THE_CLOUD and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
