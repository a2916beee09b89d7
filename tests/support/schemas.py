"""The two published descriptions of the API as fast validators with readable messages.

Data: tests/data/contract (see its README). A union says only "not valid under any of the given schemas", so the
messages here come from the branch whose `type` fits the value.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs

DATA = Path(__file__).parent.parent / "data" / "contract"
MESSAGE_LIMIT = 240  # characters; the schemas quote whole values in their messages

Json = dict[str, Any]


class Document:
    """One OpenAPI document: components by name, and the components of stream events by their `type`."""

    def __init__(self, title: str, path: Path) -> None:
        self.title = title
        self._urn = f"urn:contract:{path.stem}"
        contents = json.loads(path.read_bytes())
        self._registry = jsonschema_rs.Registry([(self._urn, contents)])
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}
        self.components: Json = contents["components"]["schemas"]
        self.events = dict(_event_components(self.components))

    def violations(self, component: str, value: Any, where: str = "") -> list[str]:
        """Everything that is wrong with *value* as a *component*; `where` is put in front of the paths."""
        validator = self._validator(component)
        if validator.is_valid(value):
            return []
        return [f"{self.title} {component}: {line}" for line in _lines(validator.iter_errors(value), where)]

    def _validator(self, component: str) -> jsonschema_rs.Draft202012Validator:
        if component not in self._validators:
            if component not in self.components:
                raise LookupError(f"{self.title} has no component {component!r}")
            schema = {"$ref": f"{self._urn}#/components/schemas/{component}"}
            self._validators[component] = jsonschema_rs.Draft202012Validator(schema, registry=self._registry)
        return self._validators[component]


@functools.cache
def openai() -> Document:
    return Document("OpenAI", DATA / "openai-responses.min.openapi.json")


@functools.cache
def open_responses() -> Document:
    return Document("Open Responses", DATA / "openresponses.min.openapi.json")


def _event_components(components: Json) -> Iterator[tuple[str, str]]:
    """(event type, component) of every component that has a sequence number and exactly one possible `type`."""
    for name, component in components.items():
        properties = component.get("properties", {})
        names = properties.get("type", {}).get("enum", [])
        if "sequence_number" in properties and len(names) == 1:
            yield names[0], name


def _lines(errors: Iterable[jsonschema_rs.ValidationError], where: str) -> list[str]:
    lines: dict[str, None] = {}
    for error in errors:
        for leaf in _leaves(error):
            path = "/".join([where.strip("/"), *map(str, leaf.instance_path)]).strip("/")
            lines[f"at /{path}: {_shorten(leaf.message)}"] = None
    return list(lines)


def _leaves(error: jsonschema_rs.ValidationError) -> Iterator[jsonschema_rs.ValidationError]:
    """The errors behind a failed union, if one of its branches was clearly meant; else the error itself."""
    branches: list[list[jsonschema_rs.ValidationError]] = getattr(error.kind, "context", None) or []
    meant = [branch for branch in branches if branch and not any(_is_mismatch(error, leaf) for leaf in branch)]
    if len(meant) != 1:
        yield error
        return
    for inner in meant[0]:
        yield from _leaves(inner)


def _is_mismatch(union: jsonschema_rs.ValidationError, leaf: jsonschema_rs.ValidationError) -> bool:
    """Whether *leaf* says that the value is of another kind than this branch of the *union* describes."""
    inside = leaf.instance_path[len(union.instance_path) :]
    return inside == ["type"] or (not inside and leaf.kind.name == "type")


def _shorten(message: str) -> str:
    if len(message) <= MESSAGE_LIMIT:
        return message
    half = MESSAGE_LIMIT // 2
    return f"{message[:half]} ... {message[-half:]}"
