"""Parts that the bodies of all dialects have in common."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from hashlib import sha256
from typing import Any

import msgspec

from shared.core.profiles import OptionalParam, Profile
from shared.wire.items import CustomChoice, FunctionChoice, JsonObjectFormat, JsonSchemaFormat
from shared.wire.requests import Request

Json = dict[str, Any]


def plan_params(
    request: Request,
    profile: Profile,
    names: Iterable[OptionalParam],
    dropped: AbstractSet[OptionalParam] | None = None,
) -> Json:
    """Those of *names* that the request has, as the profile wants them; without what it drops, or *dropped*."""
    left_out = profile.drop_params if dropped is None else dropped
    given = ((name, getattr(request, name)) for name in names)
    found: Json = {name: value for name, value in given if value is not None and name not in left_out}
    for name in ("user", "safety_identifier") if profile.hash_identifiers else ():
        if name in found:
            found[name] = sha256(found[name].encode()).hexdigest()
    for clamped, (least, most) in profile.clamp.items():
        if clamped in found:
            found[clamped] = min(max(found[clamped], least), most)
    return found


def plan_response_format(request: Request, profile: Profile) -> Json:
    """`text.format` as Chat Completions have it."""
    wanted = request.format
    if isinstance(request.tool_choice, FunctionChoice | CustomChoice):
        return {}  # some clients ask for both; the answer is a call then, and its schema is the tool's
    if isinstance(wanted, JsonSchemaFormat) and profile.response_format == "schema":
        schema: Json = {"name": wanted.name, "schema": wanted.schema, "strict": bool(wanted.strict)}
        if wanted.description is not None:
            schema["description"] = wanted.description
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if isinstance(wanted, JsonObjectFormat | JsonSchemaFormat) and profile.response_format != "none":
        return {"response_format": {"type": "json_object"}}
    return {}


def say_schema(request: Request, profile: Profile) -> str:
    """For servers that can promise an object, but not of which form: the model is told."""
    wanted = request.format
    forced = isinstance(request.tool_choice, FunctionChoice | CustomChoice)
    if profile.response_format != "object" or forced or not isinstance(wanted, JsonSchemaFormat):
        return ""
    schema = msgspec.json.encode(wanted.schema).decode()
    return f"Answer with one JSON object that fits this JSON Schema, and with nothing else:\n{schema}"


def merge(body: Json, more: Json) -> None:
    """*more* over *body*, objects within objects, too. *more* itself is never changed."""
    for name, value in more.items():
        if isinstance(value, dict):
            inner = body.get(name)
            body[name] = dict(inner) if isinstance(inner, dict) else {}
            merge(body[name], value)
        else:
            body[name] = value
