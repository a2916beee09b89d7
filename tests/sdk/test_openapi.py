"""What the running server answers is what its /openapi.json says."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest_asyncio

from fakes.upstream import FakeUpstream, call_delta, reply
from support.clients import Answer, RawClient
from support.cluster_thread import ClusterThread

Check = Callable[[str, str, Answer], None]
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SOMETIMES = {
    "x-respool-dropped",
    "x-respool-idempotent-replay",
    "openai-poll-after-ms",
    "x-respool-queue-position",
    "x-respool-attempts",
}


@pytest_asyncio.fixture
async def check(service: ClusterThread, raw: RawClient) -> Check:
    """``check(method, path template, answer)`` by the server's own description."""
    document = json.loads((await raw.get("/openapi.json")).body)

    def against(schema: Any, value: Any) -> None:
        found = jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})
        errors = [f"{list(error.instance_path)}: {error.message[:300]}" for error in found.iter_errors(value)]
        assert not errors, errors

    def check(method: str, path: str, answer: Answer) -> None:
        described = document["paths"][path][method.lower()]["responses"][str(answer.status)]
        media = answer.headers["content-type"].partition(";")[0]
        schema = described["content"][media]["schema"]
        assert set(described["headers"]) - {"Retry-After"} <= set(answer.headers) | SOMETIMES
        if media == "application/json":
            against(schema, answer.json())
            return
        assert media == "text/event-stream"
        for line in answer.body.decode().split("\n"):
            if line.startswith("data: {"):
                against(schema, json.loads(line.removeprefix("data: ")))

    return check


async def test_responses(raw: RawClient, upstream: FakeUpstream, check: Check) -> None:
    upstream.queue(reply("Hel", "lo", reasoning=["hm"]))
    body = {"model": "tiny", "input": "hi", "user": "u", "metadata": {"a": "b"}, "reasoning": {"effort": "low"}}
    answer = await raw.post("/v1/responses", json=body)
    check("POST", "/v1/responses", answer)
    response_id = answer.json()["id"]
    check("GET", "/v1/responses/{response_id}", await raw.get(f"/v1/responses/{response_id}"))
    listed = await raw.get(f"/v1/responses/{response_id}/input_items")
    check("GET", "/v1/responses/{response_id}/input_items", listed)
    cancelled = await raw.post(f"/v1/responses/{response_id}/cancel")
    assert cancelled.status == 400
    check("POST", "/v1/responses/{response_id}/cancel", cancelled)
    deleted = await raw.delete(f"/v1/responses/{response_id}")
    check("DELETE", "/v1/responses/{response_id}", deleted)
    gone = await raw.get(f"/v1/responses/{response_id}")
    assert gone.status == 404
    check("GET", "/v1/responses/{response_id}", gone)
    counted = await raw.post("/v1/responses/input_tokens", json={"input": "hi"})
    check("POST", "/v1/responses/input_tokens", counted)


async def test_streams(raw: RawClient, upstream: FakeUpstream, check: Check) -> None:
    calls = [call_delta(0, call_id="call_1", name="f", arguments="{}")]
    upstream.queue(reply("Hel", "lo", reasoning=["hm"], calls=calls))
    answer = await raw.post("/v1/responses", json={"model": "tiny", "input": "hi", "tools": [TOOL], "stream": True})
    check("POST", "/v1/responses", answer)
    assert answer.body.count(b"event: ") > 10
    response_id = json.loads(answer.body.partition(b"data: ")[2].partition(b"\n")[0])["response"]["id"]
    again = await raw.get(f"/v1/responses/{response_id}", params={"stream": "true", "starting_after": "2"})
    check("GET", "/v1/responses/{response_id}", again)


async def test_failures_and_refusals(raw: RawClient, check: Check) -> None:
    check("POST", "/v1/responses", await raw.post("/v1/responses", json={"model": "echo", "input": "echo:fail"}))
    refused = await raw.post("/v1/responses", json={"model": "nobody", "input": "hi"})
    assert refused.status == 400
    check("POST", "/v1/responses", refused)


async def test_conversations(raw: RawClient, check: Check) -> None:
    path = "/v1/conversations"
    made = await raw.post(path, json={"items": [{"role": "user", "content": "hi"}], "metadata": {"a": "b"}})
    check("POST", path, made)
    one, template = f"{path}/{made.json()['id']}", f"{path}/{{conversation_id}}"
    check("GET", template, await raw.get(one))
    check("POST", template, await raw.post(one, json={"metadata": {}}))
    added = await raw.post(f"{one}/items", json={"items": [{"role": "assistant", "content": "hello"}]})
    check("POST", f"{template}/items", added)
    listed = await raw.get(f"{one}/items")
    check("GET", f"{template}/items", listed)
    assert len(listed.json()["data"]) == 2
    item = f"{one}/items/{listed.json()['last_id']}"
    check("GET", f"{template}/items/{{item_id}}", await raw.get(item))
    check("DELETE", f"{template}/items/{{item_id}}", await raw.delete(item))
    check("DELETE", template, await raw.delete(one))


async def test_models_and_health(raw: RawClient, check: Check) -> None:
    check("GET", "/v1/models", await raw.get("/v1/models"))
    check("GET", "/v1/models/{model}", await raw.get("/v1/models/other/model"))
    check("GET", "/v1/models/{model}", await raw.get("/v1/models/nobody"))
    for path in ("/", "/health", "/healthz", "/ready"):
        check("GET", path, await raw.get(path))


async def test_the_root_says_where_everything_is(service: ClusterThread, raw_client: Callable[..., RawClient]) -> None:
    """Without a key, as it tells no more than the page."""
    stranger = raw_client(service.origin, headers={})
    places = {name: value for name, value in (await stranger.get("/")).json().items() if value.startswith("/")}
    assert places["api"] == "/v1/responses"
    document = (await stranger.get("/openapi.json")).json()
    assert set(places.values()) <= set(document["paths"])
    wrong = await stranger.post("/", json={"model": "echo", "input": "hi"})
    assert wrong.status == 405
    assert wrong.json()["error"]["message"] == "Not allowed to POST on / (HINT: a client's base_url ends in /v1)"


async def test_the_page_needs_no_key(service: ClusterThread, raw_client: Callable[..., RawClient]) -> None:
    stranger = raw_client(service.origin, headers={})
    page = await stranger.get("/docs")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<h1>Respool" in page.body
    document = await stranger.get("/openapi.json")
    assert document.json()["openapi"] == "3.1.0"
