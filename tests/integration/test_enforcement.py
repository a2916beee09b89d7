"""`tool_choice` and `text.format` hold whatever the backend does: one more try while nothing was shown, else a failure."""

from typing import Any

import pytest

from fakes.upstream import FakeUpstream, call_delta, reply
from support.clients import RawClient
from support.cluster import Cluster
from support.faults import NamedUpstream, create, ended, streaming, text_of

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
FORMAT = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}}
TOOLS = [{"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}]
MISFIT = """The model's answer does not fit text.format.schema at $.n: "one" is not of type "integer"."""
CALL = call_delta(0, call_id="call_1", name="look_up", arguments="{}")


async def foreground(raw: RawClient, text: str, /, **fields: Any) -> dict[str, Any]:
    answer = await raw.post("/v1/responses", json={"model": "tiny", "input": text, **fields})
    assert answer.status == 200
    response: dict[str, Any] = answer.json()
    return response


async def test_a_second_answer_that_fits(upstream: NamedUpstream, raw: RawClient) -> None:
    upstream.queue(reply('{"n": "one"}'))
    upstream.queue(reply('{"n": 1}'))
    response = await foreground(raw, "r", text=FORMAT)
    assert (response["status"], text_of(response)) == ("completed", '{"n": 1}')
    first, second = upstream.calls
    assert second.body["messages"][:-2] == first.body["messages"]
    assert second.body["messages"][-2] == {"role": "assistant", "content": '{"n": "one"}'}
    assert second.body["messages"][-1]["content"].startswith(MISFIT)


async def test_no_answer_that_fits(upstream: NamedUpstream, raw: RawClient) -> None:
    upstream.respond = lambda _: [reply('{"n": "one"}')]
    response = await foreground(raw, "r", text=FORMAT)
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": MISFIT, "type": "server_error", "param": None}
    assert text_of(response) == '{"n": "one"}'  # it can be looked at
    assert len(upstream.calls) == 2


async def test_what_was_shown_is_not_taken_back(upstream: NamedUpstream, raw: RawClient) -> None:
    upstream.plan("r", [reply('{"n": ', '"one"}')])
    async with streaming(raw, "r", text=FORMAT) as stream:
        events = [event async for event in stream.events()]
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == MISFIT
    assert text_of(events[-1]["response"]) == '{"n": "one"}'
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "look_up"}])
async def test_a_call_that_is_demanded(upstream: NamedUpstream, raw: RawClient, choice: object) -> None:
    upstream.queue(reply("I would rather talk."))
    upstream.queue(reply(calls=[CALL]))
    response = await ended(raw, (await create(raw, "r", tools=TOOLS, tool_choice=choice))["id"])
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == ["function_call"]
    assert len(upstream.calls) == 2


async def test_a_call_that_never_comes(upstream: NamedUpstream, raw: RawClient) -> None:
    upstream.respond = lambda _: [reply("I would rather talk.")]
    response = await foreground(raw, "r", tools=TOOLS, tool_choice="required")
    assert response["status"] == "failed"
    assert response["error"]["message"] == "tool_choice demands a tool call, and the model made none."


@pytest.mark.parametrize("keyword", ["$ref", "$schema"])
async def test_schemas_lead_nowhere(upstream: NamedUpstream, cluster: Cluster, raw: RawClient, keyword: str) -> None:
    """A schema that names an address is refused, and the address is never asked."""
    async with FakeUpstream() as elsewhere:
        schema = {"type": "object", "properties": {"a": {"$ref": f"{elsewhere.origin}/s.json"}}}
        if keyword == "$schema":
            schema = {"$schema": f"{elsewhere.origin}/s.json", "type": "object"}
        text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
        answer = await raw.post("/v1/responses", json={"model": "tiny", "input": "r", "text": text})
        assert elsewhere.calls == []
    error = answer.json()["error"]
    assert answer.status == 400
    assert (error["param"], error["code"]) == ("text.format.schema", "invalid_json_schema")
    assert upstream.calls == []


def doubled(levels: int, **root: Any) -> dict[str, Any]:
    """2 KB that stand for 2 to the power of *levels* schemas."""
    chain = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$defs": {**chain, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0", **root}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens"])
async def test_a_schema_that_compiles_for_ever(upstream: NamedUpstream, raw: RawClient, path: str) -> None:
    schema = doubled(24, unevaluatedProperties=False)
    tool = {"type": "function", "name": "f", "strict": True, "parameters": schema}
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    expected: list[tuple[dict[str, Any], str, str]] = [
        ({"tools": [tool]}, "tools[0].parameters", "invalid_function_parameters"),
        ({"text": text}, "text.format.schema", "invalid_json_schema"),
    ]
    for more, param, code in expected:
        answer = await raw.post(path, json={"model": "tiny", "input": "r", **more})
        error = answer.json()["error"]
        assert (answer.status, error["param"], error["code"]) == (400, param, code)
        assert "Make it smaller, with fewer references" in error["message"]
    assert upstream.calls == []


async def test_an_answer_that_is_judged_for_ever(upstream: NamedUpstream, cluster: Cluster, raw: RawClient) -> None:
    """It fails, once; what runs beside it on the same worker goes on."""
    upstream.respond = lambda _: [reply('{"n": 1}')]
    hostile = {"format": {"type": "json_schema", "name": "x", "schema": doubled(60)}}
    created = await create(raw, "r", text=hostile)
    other = await foreground(raw, "r", text=FORMAT)
    assert (other["status"], text_of(other)) == ("completed", '{"n": 1}')
    response = await ended(raw, created["id"])
    assert response["status"] == "failed"
    assert response["error"]["message"].startswith("The model's answer could not be held against text.format.schema")
    assert text_of(response) == '{"n": 1}'
    assert len(upstream.calls) == 2
    assert not any(process.find("loop.lagged") for process in cluster.processes)
