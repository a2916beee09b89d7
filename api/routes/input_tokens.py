"""``POST /v1/responses/input_tokens``: how long the context of a create call would be. Nothing is stored or queued."""

import msgspec
from aiohttp import web

from api.bodies import read_body
from api.compaction import seal_of
from api.context import read_context
from api.decoding import decode
from api.headers import given_channel
from api.middleware import TENANT
from api.resources import CONVERSATIONS, EXAMINER, RATIOS, RESPONSES, SETTINGS
from api.schemas import check_schemas
from api.tokenizer import HTTP, count
from api.validate import Accepted, accept
from shared.core.compaction import Open, reveal
from shared.core.tokens import estimate, learned_as, media, weigh
from shared.errors import StoreUnavailable
from shared.models import models_of
from shared.settings import Settings
from shared.wire.requests import CreateBody
from shared.wire.tokens import CountBody, InputTokens

HEADER = "x-respool-token-count"
OTHERS = {*CreateBody.__struct_fields__, "personality"} - {*CountBody.__struct_fields__}
"""Known, and without a say in how long the context is."""

routes = web.RouteTableDef()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@routes.post("/v1/responses/input_tokens")
async def input_tokens(request: web.Request) -> web.StreamResponse:
    app, settings = request.app, request.app[SETTINGS]
    channel = given_channel(request, settings)
    open_sealed = seal_of(request).open
    accepted, has_model = accept_count(await read_body(request) or b"{}", settings, channel, open_sealed)
    await check_schemas(accepted.schemas, app[EXAMINER])
    context = await read_context(  # a parent does not live longer for being counted
        accepted, request[TENANT], app[RESPONSES], app[CONVERSATIONS], settings, keeps=False
    )
    items = [*context.items, *accepted.items]
    row = accepted.row if has_model else None
    told = reveal(items, open_sealed)
    exact = None if row is None or told is None else await count(app[HTTP], row, accepted.request, told)
    if exact is None:
        try:
            ratio = await app[RATIOS].read(learned_as(accepted.request)) if has_model else None
        except StoreUnavailable:
            ratio = None
        tokens = estimate(weigh(accepted.request, items), media(items), ratio)
    else:
        tokens = exact
    headers = {HEADER: "estimate" if exact is None else "exact"}
    return web.Response(body=_encode(InputTokens(tokens)), content_type="application/json", headers=headers)


def accept_count(body: bytes, settings: Settings, channel: str, open_sealed: Open) -> tuple[Accepted, bool]:
    """The create call that *body* is a part of, checked as one; and whether it named a model.

    What only says how an answer is made and kept is left out, so that it is not checked either.
    """
    given = {name: value for name, value in decode(_decode, body).items() if name not in OTHERS}
    has_model = bytes(given.get("model", b"null")) != b"null"
    if not has_model:
        given["model"] = msgspec.Raw(_encode(next(iter(models_of(settings.models, channel)), "")))
    accepted = accept(_encode(given), settings, channel, open_sealed, needs_input=False)
    accepted.request.store = False  # so that a conversation which is being written can be counted
    accepted.request.truncation = "auto"  # so that what is too long is counted, not refused
    return accepted, has_model
