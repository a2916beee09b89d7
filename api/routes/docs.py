"""``/``: where everything is. ``/openapi.json``, and ``/docs``: the same as one page of HTML without scripts and foreign assets.

None needs a key, and none tells more than another.
"""

from collections.abc import Iterator
from html import escape
from importlib import metadata
from typing import Any

import msgspec
from aiohttp import web

from api.openapi import describe
from api.operations import About
from api.resources import SETTINGS
from shared.exposure import is_loopback
from shared.settings import Settings

Json = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: light-dark(#0550ae, #79b8ff) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem }
a { color: var(--link); text-decoration: none } a:hover { text-decoration: underline }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
code { font: .9em ui-monospace, monospace } h3 b { display: inline-block; min-width: 4.2rem }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 } td, th { text-align: left; vertical-align: top;
padding: .2rem .6rem .2rem 0; border-top: 1px solid var(--line) } td:first-child { white-space: nowrap; width: 14rem }
th { font-weight: 600; background: var(--soft) } nav { columns: 16rem } p { margin: .3rem 0 }
"""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

routes = web.RouteTableDef()
DOCUMENT = web.AppKey("document", bytes)
PAGE = web.AppKey("page", str)
ABOUT = msgspec.json.encode(About())


def prepare(app: web.Application) -> None:
    """Make both once, for this server's settings."""
    document = describe(_version(), needs_key=_needs_key(app[SETTINGS]))
    app[DOCUMENT], app[PAGE] = msgspec.json.encode(document), render(document)


def _version() -> str:
    try:
        return metadata.version("respool")
    except metadata.PackageNotFoundError:  # run from the folder, without being installed
        return "0"


def _needs_key(settings: Settings) -> bool:
    return bool(settings.keys) or not is_loopback(settings.host)


@routes.get("/")
async def about(_: web.Request) -> web.Response:
    return web.Response(body=ABOUT, content_type="application/json")


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


@routes.get("/docs")
async def docs(request: web.Request) -> web.Response:
    return web.Response(text=request.app[PAGE], content_type="text/html", headers=HEADERS)


def render(document: Json) -> str:
    """An OpenAPI document, such as ours, as a page."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    body = "\n".join([*_operations(document), "<h2>Types</h2>", *_types(document)])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body><h1>{title}</h1>'
        f'<p>{_text(info["description"])} <a href="openapi.json">openapi.json</a></p>\n{body}\n</body></html>\n'
    )


def _operations(document: Json) -> Iterator[str]:
    rows = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>"
        for method, path, operation in rows:
            if tag["name"] in operation["tags"]:
                yield from _operation(method, path, operation)


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f'<h3 id="{operation["operationId"]}"><b>{method.upper()}</b> <code>{escape(path)}</code></h3>'
    key = " No key is needed." if operation.get("security") == [] else ""
    yield f"<p>{_text(operation['summary'])}. {_text(operation.get('description', ''))}{key}</p>"
    rows = [
        (each["name"], f"{_type(each['schema'])} <i>in {each['in']}</i>", each.get("description", ""))
        for each in operation["parameters"]
    ]
    if body := operation.get("requestBody"):
        rows.append(("body", _contents(body), "" if body["required"] else "May be missing."))
    for status, answer in operation["responses"].items():
        rows.append((status, _contents(answer), answer["description"]))
    yield _table(rows)


def _contents(holder: Json) -> str:
    return " or ".join(f"{_type(each['schema'])} <i>{media}</i>" for media, each in holder["content"].items())


def _types(document: Json) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{_text(schema.get("description", ""))}</p>'
        if "properties" not in schema:
            yield f"<p>{_type(schema)}</p>"
            continue
        required = schema.get("required", ())
        yield _table(
            (field, _type(each), f"{each.get('description', '')}{' Always there.' if field in required else ''}")
            for field, each in schema["properties"].items()
        )


def _type(schema: Json) -> str:
    """A short name of *schema*, with links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " | ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(msgspec.json.encode(each).decode())}</code>" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items') or {})}"
    limits = [f"{sign} {schema[name]}" for name, sign in (("minimum", "≥"), ("maximum", "≤")) if name in schema]
    return " ".join([escape(str(schema.get("type", "anything"))), *limits])


def _table(rows: "Iterator[tuple[str, str, str]] | list[tuple[str, str, str]]") -> str:
    lines = [f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{_text(text)}" for name, kind, text in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _text(text: str) -> str:
    """Plain text whose `code` is marked."""
    parts = escape(text.replace("``", "`")).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
