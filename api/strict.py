"""``strict_parameters``: a key that this server does not know is refused, wherever in a body it stands."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from api.decoding import decode
from api.operations import with_types
from shared.errors import InvalidRequest
from shared.wire.compaction import CompactBody
from shared.wire.conversations import AddItemsBody, CreateConversationBody, UpdateConversationBody
from shared.wire.items import StoredItem, Tool
from shared.wire.requests import CreateBody

MAX_SHOWN_CHARS = 80


class _Reference(msgspec.Struct, tag_field="type", tag="item_reference"):
    id: str


_INPUT = str | list[StoredItem | _Reference] | None
_ITEMS = list[StoredItem] | None
_KINDS = {
    CreateBody: inspect.type_info(with_types(CreateBody, input=_INPUT, tools=list[Tool] | None)),
    CompactBody: inspect.type_info(with_types(CompactBody, input=_INPUT)),
    CreateConversationBody: inspect.type_info(with_types(CreateConversationBody, items=_ITEMS)),
    AddItemsBody: inspect.type_info(with_types(AddItemsBody, items=_ITEMS)),
    UpdateConversationBody: inspect.type_info(UpdateConversationBody),
}
_anything = msgspec.json.Decoder().decode


def check_known(body: bytes, kind: type[msgspec.Struct]) -> None:
    """All keys of *body*, which is of that *kind*, are known, but for those whose value is null."""
    for path in _unknown(decode(_anything, body), _KINDS[kind], ""):
        raise InvalidRequest(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")


def _unknown(value: Any, kind: inspect.Type, path: str) -> Iterator[str]:
    """Paths of unknown keys in *value*. What does not fit its *kind* is passed over: other checks refuse it."""
    match kind:
        case inspect.UnionType(types=types):
            for each in _fitting(value, types):
                yield from _unknown(value, each, path)
        case inspect.StructType(fields=fields, tag_field=tag_field) if isinstance(value, dict):
            known = {field.encode_name: field.type for field in fields}
            for name, member in value.items():
                place = f"{path}{'.' if path else ''}{name[:MAX_SHOWN_CHARS]}"
                if name in known:
                    yield from _unknown(member, known[name], place)
                elif member is not None and name != tag_field:
                    yield place
        case inspect.ListType(item_type=member) if isinstance(value, list):
            for i, each in enumerate(value):
                yield from _unknown(each, member, f"{path}[{i}]")
        case inspect.DictType(value_type=member) if isinstance(value, dict):
            for name, each in value.items():
                yield from _unknown(each, member, f"{path}.{name[:MAX_SHOWN_CHARS]}")
        case _:
            pass


def _fitting(value: Any, types: Sequence[inspect.Type]) -> Iterator[inspect.Type]:
    """Lists, and the struct that *value*'s type names. Messages and references to items may be without one."""
    named = value.get("type") if isinstance(value, dict) else None
    if named is None and isinstance(value, dict):
        named = "message" if "role" in value else "item_reference"
    for each in types:
        if not isinstance(each, inspect.StructType) or each.tag in (None, named):
            yield each
