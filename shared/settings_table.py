"""The structs of the settings as a table, for docs/settings.md."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from shared.settings import TABLES, Settings, variable


class Row(NamedTuple):
    """One setting for the docs."""

    name: str
    variable: str
    type: str
    default: str
    meaning: str


def describe(struct: type[msgspec.Struct]) -> list[Row]:
    """The settings of *struct* as a table. Fields without a meaning are not settings."""
    hints = get_type_hints(struct, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(struct):
        metas = [part for part in get_args(hints[field.name]) if isinstance(part, Meta) and part.description]
        if not metas:
            continue
        name = variable(field.name) if struct is Settings and field.name not in TABLES else ""
        default = "(needed)" if field.required else _shown(field.default, field.default_factory)
        rows.append(Row(field.name, name, type_name(field.type), default, str(metas[-1].description)))
    return rows


def _shown(default: Any, factory: Any) -> str:
    value = factory() if default is msgspec.NODEFAULT else default
    if value in (None, "", (), {}, frozenset()):
        return "unset"
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(value) if isinstance(value, frozenset) else value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def choices(hint: Any) -> str:
    """The same as `type_name`, but of a list what it may hold."""
    if get_origin(hint) is Annotated:
        return choices(get_args(hint)[0])
    return type_name(get_args(hint)[0] if get_origin(hint) in (tuple, frozenset) else hint)


def type_name(hint: Any) -> str:
    """What a setting of this type may be, in words."""
    if get_origin(hint) is Annotated:
        return type_name(get_args(hint)[0])
    if get_origin(hint) in (UnionType, Union):
        return type_name(next(inner for inner in get_args(hint) if inner is not NoneType))
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) in (tuple, frozenset):
        return "list" if get_origin(get_args(hint)[0]) is Literal or get_args(hint)[0] is str else "tables"
    names = {int: "whole number", float: "number", bool: "true or false", dict: "table"}
    return names.get(get_origin(hint) or hint, "text")
