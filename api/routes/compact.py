"""``POST /v1/responses/compact``: a context as the user's messages and a sealed summary of everything."""

import msgspec
from aiohttp import web

from api.bodies import read_body
from api.compaction import accept_compact, not_configured, seal_of, summary_of
from api.context import read_context
from api.creation import Caller, prepare
from api.headers import given_channel
from api.middleware import REQUEST_ID, TENANT
from api.resources import CONVERSATIONS, HUB, RESPONSES, SEALER, SETTINGS
from api.waiting import submitted, wait_for_end
from shared.core.compaction import ask, encode_summary
from shared.errors import InvalidRequest
from shared.ids import item_id
from shared.wire.compaction import Compacted
from shared.wire.items import Compaction, Message
from shared.wire.responses import Response, Usage

routes = web.RouteTableDef()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Response).decode


@routes.post("/v1/responses/compact")
async def compact(request: web.Request) -> web.StreamResponse:
    app, settings, seal = request.app, request.app[SETTINGS], seal_of(request)
    body = await read_body(request)
    accepted = accept_compact(body, settings, given_channel(request, settings), seal.open)
    if not app[SEALER]:
        raise not_configured()
    caller = Caller(request[TENANT], app[HUB].process, request[REQUEST_ID])
    context = await read_context(accepted, caller.tenant, app[RESPONSES], app[CONVERSATIONS], settings)
    items = [*context.items, *accepted.items]
    if not items:
        raise InvalidRequest("Invalid 'input': there is nothing to compact.", param="input", code="invalid_value")
    accepted.items.append(ask())
    accepted.request.items += 1
    new = prepare(accepted, context, caller, settings)  # also gives the items their ids
    async with submitted(app, new) as (reader, _):
        ended = _decode((await wait_for_end(app, new.id, new.tenant, reader, keyed=False)).object)
    sealed = seal.seal(encode_summary(summary_of(ended)))
    if sealed is None:
        raise not_configured()
    kept = [item for item in items if isinstance(item, Message) and item.role == "user"]
    compaction = Compaction(sealed, id=item_id("cmp", new.id, accepted.request.items))
    usage = ended.usage or (Usage(0, 0, 0).with_legacy() if settings.legacy_usage else Usage(0, 0, 0))
    answer = Compacted(f"comp_{new.id.removeprefix('resp_')}", ended.created_at, [*kept, compaction], usage)
    return web.Response(body=_encode(answer), content_type="application/json")
