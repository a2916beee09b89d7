"""Which values a place in a body may have, for errors that list them."""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\[[^\]]*\]|[^.\[]+")


def supported(kind: Any, path: str) -> list[str]:
    """What the type *kind* takes at *path* (as msgspec writes it: ``tools[0].type``), as it is shown. Empty when that is no
    choice between constants."""
    return list(dict.fromkeys(_values(_info(kind), _STEP.findall(path))))


@functools.cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _values(kind: inspect.Type, steps: Sequence[str]) -> Iterator[str]:
    match kind:
        case inspect.Metadata(type=inner):
            yield from _values(inner, steps)
        case inspect.UnionType(types=types):
            for each in types:
                yield from _values(each, steps)
        case inspect.LiteralType(values=values) if not steps:
            yield from map(repr, values)
        case inspect.StructType(fields=fields) if steps:
            if steps == [kind.tag_field]:
                yield repr(kind.tag)
            for field in fields:
                if field.encode_name == steps[0]:
                    yield from _values(field.type, steps[1:])
        case inspect.CollectionType(item_type=member) | inspect.DictType(value_type=member) if steps:
            yield from _values(member, steps[1:])
        case _:
            pass
