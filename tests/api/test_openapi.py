"""The description of this server: valid, complete, true of what it answers, and readable as a page."""

import html.parser
import re
from typing import Any

import jsonschema_rs
import msgspec
import openapi_spec_validator
import pytest
from aiohttp import web

from api.main import build
from api.openapi import describe
from api.operations import OPERATIONS
from api.routes.docs import render
from shared.settings import ModelRow, Settings

DOCUMENT = describe("1.2.3", needs_key=True)
SETTINGS = Settings(models={"echo": ModelRow(dialect="echo")})


def routes(app: web.Application) -> set[tuple[str, str]]:
    """What the application serves; HEAD comes with every GET."""
    found = set()
    for route in app.router.routes():
        assert route.resource is not None
        path = re.sub(r"\{(\w+)[^}]*\}", r"{\1}", route.resource.canonical)
        found.add((route.method, path))
    return {(method, path) for method, path in found if method != "HEAD"}


def test_every_route_is_described_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == routes(build(SETTINGS))
    assert len(OPERATIONS) == len(described)


def test_it_is_valid_openapi() -> None:
    openapi_spec_validator.validate(DOCUMENT)
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


def test_keys_are_asked_for_where_they_are_needed() -> None:
    assert DOCUMENT["security"] == [{"key": []}]
    assert describe("1", needs_key=False)["security"] == [{"key": []}, {}]
    paths: Any = DOCUMENT["paths"]
    assert paths["/health"]["get"]["security"] == []
    assert "security" not in paths["/v1/responses"]["post"]
    assert {"401", "500", "503"} <= set(paths["/v1/models"]["get"]["responses"])


def test_streams_are_described() -> None:
    content = DOCUMENT["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]
    assert content["text/event-stream"]["schema"] == {"$ref": "#/components/schemas/ResponseStreamEvent"}
    event = DOCUMENT["components"]["schemas"]["ResponseStreamEvent"]
    assert len(event["discriminator"]["mapping"]) == len(event["anyOf"]) > 20


def test_answers_always_have_what_is_always_written() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert "usage" in schemas["Response"]["required"]
    assert "user" not in schemas["Response"]["required"]
    assert not schemas["CreateBody"].get("required")


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"model": "m", "input": "hi"}, True),
        ({"model": "m", "input": [{"type": "message", "role": "user", "content": "hi"}], "temperature": None}, True),
        ({"model": 5}, False),
        ({"model": "m", "tools": [{"type": "function", "name": "f"}]}, True),
        ({"model": "m", "tools": "f"}, False),
    ],
)
def test_bodies(body: dict[str, Any], valid: bool) -> None:
    schema = DOCUMENT["paths"]["/v1/responses"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert validator(schema).is_valid(body) == valid


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_names_everything_and_loads_nothing() -> None:
    text = render(DOCUMENT)
    page = _Page(text)
    for operation in OPERATIONS:
        assert f"<code>{operation.path}</code>" in text
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes.get("href") or "" for tag, attributes in page.tags if tag == "a"]
    assert [link for link in links if link.startswith("#") and link[1:] not in ids] == []
    assert {link for link in links if not link.startswith("#")} == {"openapi.json"}
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe"}
    assert not [1 for _, attributes in page.tags if "src" in attributes]
    assert "url(" not in text


def test_the_page_shows_texts_as_texts() -> None:
    document = msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    document["paths"]["/v1/models"]["get"]["summary"] = "<script>alert(1)</script>"
    document["components"]["schemas"]["Model"]["properties"]["id"]["description"] = "<img src=x>"
    tags = {tag for tag, _ in _Page(render(document)).tags}
    assert not tags & {"script", "img"}
