"""Request headers of the relays that clone this API. All are off unless a setting asks for them; empty means absent."""

import ipaddress
import re

from aiohttp import web

from shared.errors import InvalidRequest
from shared.models import channels_of
from shared.settings import CHANNEL, TENANT, Settings, networks

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TENANT, _CHANNEL = re.compile(TENANT), re.compile(CHANNEL)


def given_request_id(request: web.Request, settings: Settings) -> str | None:
    """``X-Request-Id``, where it is trusted and well formed."""
    given = request.headers.get("X-Request-Id", "").strip() if settings.trust_request_id else ""
    return given if _REQUEST_ID.fullmatch(given) else None


def given_tenant(request: web.Request, settings: Settings) -> str | None:
    """``X-Tenant-Id`` from a trusted proxy; from anybody else it is ignored. Raises ``InvalidRequest``."""
    given = request.headers.get("X-Tenant-Id", "").strip() if settings.trusted_proxies else ""
    if not given or not _trusted(request, settings):
        return None
    if not _TENANT.fullmatch(given):
        message = "Invalid header 'X-Tenant-Id': expected 1 to 64 letters, digits, dots, dashes or underscores."
        raise InvalidRequest(message, code="invalid_value")
    return given


def _trusted(request: web.Request, settings: Settings) -> bool:
    """Whether the connection itself comes from a trusted network; what headers say about its origin does not count."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0] if peer else "")
    except (ValueError, IndexError):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks(settings.trusted_proxies))


def given_channel(request: web.Request, settings: Settings) -> str:
    """``X-Channel``, where models have channels; the empty one unless it is given. Raises ``InvalidRequest``."""
    known = channels_of(settings.models)
    given = request.headers.get("X-Channel", "").strip() if known else ""
    if given and given not in known:
        shown = f"'{given}'" if _CHANNEL.fullmatch(given) else "It"
        raise InvalidRequest(f"Invalid header 'X-Channel': {shown} is no channel of this server.", code="invalid_value")
    return given
