"""``POST /v1/responses/compact``: the body as a create call that asks for a summary, and its answer as a sealed item."""

import msgspec
from aiohttp import web

from api.decoding import check_length, decode
from api.middleware import TENANT
from api.resources import SEALER
from api.strict import check_known
from api.validate import Accepted, accept
from shared.core.compaction import KIND, Open
from shared.errors import ApiError, InvalidRequest, RateLimited, ServerError
from shared.seal import Seal
from shared.settings import Settings
from shared.wire.compaction import CompactBody
from shared.wire.items import Message, OutputText
from shared.wire.responses import Response

MAX_CACHE_KEY_CHARS = 64
RETRY_AFTER_S = 5
"""What a client is told to wait when the backend was asked too often."""
KNOWN = frozenset(CompactBody.__struct_fields__)

_encode = msgspec.json.Encoder().encode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def seal_of(request: web.Request) -> Seal:
    """What seals and opens the summaries of the tenant that calls."""
    return request.app[SEALER].bind(request[TENANT], KIND)


def not_configured() -> InvalidRequest:
    message = "This server cannot compact: it has no key to seal the summary with. Set RESPOOL_SEAL_KEY for all of its processes."
    return InvalidRequest(message, code="compaction_not_configured")


def accept_compact(body: bytes, settings: Settings, channel: str, open_sealed: Open) -> Accepted:
    """The unstored create call behind *body*; what does not belong to this endpoint is left out, or refused when strict."""
    if settings.strict_parameters:
        check_known(body, CompactBody)
    given = {name: value for name, value in decode(_decode_keys, body).items() if name in KNOWN}
    accepted = accept(_encode({**given, "store": False}), settings, channel, open_sealed)
    check_length(accepted.request.prompt_cache_key, "prompt_cache_key", MAX_CACHE_KEY_CHARS)
    return accepted


def summary_of(response: Response) -> str:
    """The text of the ended *response*. Raises ``ApiError`` when it is no whole summary."""
    if response.status == "completed":
        messages = [item for item in response.output if isinstance(item, Message)]
        parts = [part for message in messages for part in message.content]
        summary = "".join(part.text for part in parts if isinstance(part, OutputText))
        if summary.strip():
            return summary
        raise ServerError("The context could not be compacted: the model gave no summary. Please retry.")
    if response.incomplete_details is not None:
        reason = response.incomplete_details.reason
        raise ServerError(f"The context could not be compacted: the summary was cut short ({reason}). Please retry.")
    raise _failure(response)


def _failure(response: Response) -> ApiError:
    if response.error is None:
        return ServerError("The compaction was cancelled.")
    message = f"The context could not be compacted. {response.error.message}"
    if response.error.code == "server_error":
        return ServerError(message)
    if response.error.code == "rate_limit_exceeded":
        return RateLimited(message, retry_after_s=RETRY_AFTER_S)
    return InvalidRequest(message, param="input", code=response.error.code)
