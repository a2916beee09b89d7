"""``/v1/models``: what the model table offers. Patterns are not listed, but what they match is found."""

import msgspec
from aiohttp import web

from api.headers import given_channel
from api.resources import SETTINGS
from shared.errors import NotFound
from shared.models import find_model, models_of
from shared.settings import ModelRow
from shared.wire.responses import Model, ModelList

routes = web.RouteTableDef()
_encode = msgspec.json.Encoder().encode


def _model(name: str, row: ModelRow) -> Model:
    return Model(name, row.created, row.owned_by)


@routes.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    settings = request.app[SETTINGS]
    models = models_of(settings.models, given_channel(request, settings))
    named = [_model(name, row) for name, row in models.items() if "*" not in name]
    return web.Response(body=_encode(ModelList(named)), content_type="application/json")


@routes.get("/v1/models/{model:.+}")
async def read_model(request: web.Request) -> web.Response:
    name, settings = request.match_info["model"], request.app[SETTINGS]
    row = find_model(settings.models, name, given_channel(request, settings))
    if row is None or "*" in name:
        message = f"The model '{name[:256]}' does not exist."
        raise NotFound(message, param="model", code="model_not_found")
    return web.Response(body=_encode(_model(name, row)), content_type="application/json")
