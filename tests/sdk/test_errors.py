"""Bad requests: the right status, code and parameter, always in the envelope, and never a 5xx."""

import json
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from support.clients import RawClient

HI: Mapping[str, Any] = {"model": "echo", "input": "hi"}
TOOL = {"type": "function", "name": "f", "parameters": {}}

BAD: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"input": "hi"}, "missing_required_parameter", "model"),
    ({"model": "echo"}, "missing_required_parameter", "input"),
    ({**HI, "model": "nobody"}, "model_not_found", "model"),
    ({**HI, "stream": "yes"}, "invalid_type", "stream"),
    ({**HI, "input": 5}, "invalid_type", "input"),
    ({**HI, "input": [{"role": "king", "content": "hi"}]}, "invalid_value", "input[0].role"),
    ({**HI, "input": [{"type": "mystery"}]}, "unsupported_value", "input[0].type"),
    ({**HI, "max_output_tokens": 10}, "integer_below_min_value", "max_output_tokens"),
    ({**HI, "temperature": 2.5}, "decimal_above_max_value", "temperature"),
    ({**HI, "metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
    ({**HI, "metadata": {str(n): "" for n in range(17)}}, "object_above_max_properties", "metadata"),
    ({**HI, "include": ["everything"]}, "invalid_value", "include[0]"),
    ({**HI, "tools": [{"type": "file_search"}]}, "unsupported_value", "tools[0].type"),
    ({**HI, "tools": [TOOL, {"type": "function"}]}, "missing_required_parameter", "tools[1].name"),
    ({**HI, "tool_choice": {"type": "function", "name": "g"}, "tools": [TOOL]}, "invalid_value", "tool_choice"),
    ({**HI, "previous_response_id": "@x"}, "invalid_value", "previous_response_id"),
    ({**HI, "previous_response_id": "resp_abc"}, "previous_response_not_found", "previous_response_id"),
    ({**HI, "background": True, "prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD, ids=lambda value: str(value)[:40])
async def test_a_bad_body_is_a_bad_request(
    body: dict[str, Any], code: str | None, param: str | None, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.post("/responses", body=body, cast_to=object)
    error = caught.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert error.request_id is not None
    assert error.request_id.startswith("req_")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="half"),
        pytest.param(b'{"model": "echo", "input": "hi"} x', id="more behind it"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="string"),
        pytest.param(b'{"model": "echo", "input": NaN}', id="NaN"),
        pytest.param(b'{"model": "echo", "input": "\xff\xfe"}', id="not UTF-8"),
        pytest.param(b'{"model": "echo", "input": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'\xef\xbb\xbf{"model": "echo", "input": "hi"}', id="byte order mark"),
        pytest.param(b'{"model": "echo", "input": ' + b"[" * 200_000, id="deep array"),
        pytest.param(b'{"model": "echo", "input": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, id="deep object"),
        pytest.param(b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", id="deep and unknown"),
        pytest.param(b'{"model": "echo", "input": "hi", "tools": [' + b"[" * 100_000 + b"]" * 100_001 + b"}", id="deep tool"),
        pytest.param(b'{"model": "echo", "input": [{"role": "user", "content": "\xc3\x28"}]}', id="not UTF-8, deeper"),
        pytest.param(b'{"model": "echo", "input": "hi", "metadata": {"\\udfff": "x"}}', id="surrogate in a key"),
        pytest.param(b'{"model": "echo", "input": "hi", "max_output_tokens": 1e400}', id="infinite"),
        pytest.param(b'{"model": "echo", "input": "hi", "max_output_tokens": 9' + b"9" * 5000 + b"}", id="huge"),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_request(body: bytes, raw: RawClient) -> None:
    answer = await raw.post("/v1/responses", data=body, headers={"Content-Type": "application/json"})
    assert answer.status == 400, answer.body[:300]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_deep_schema_is_no_fault_of_the_server(raw: RawClient) -> None:
    for depth in (50, 500, 900, 2_000, 50_000):
        schema = '{"a":' * depth + "{}" + "}" * depth
        body = f'{{"model": "echo", "input": "hi", "tools": [{{"type": "function", "name": "f", "parameters": {schema}}}]}}'
        answer = await raw.post("/v1/responses", data=body.encode())
        assert answer.status in (200, 400), depth
        if answer.status == 200:
            assert json.loads(answer.body)["status"] == "completed"


async def test_the_type_of_the_content_does_not_matter(raw: RawClient) -> None:
    answer = await raw.post("/v1/responses", data=json.dumps(HI).encode(), headers={"Content-Type": "text/plain"})
    assert answer.status == 200


async def test_a_body_that_is_too_large(raw: RawClient, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.responses.create(model="echo", input="x" * (1 << 20))
    assert caught.value.status_code == 413
    assert caught.value.type == "invalid_request_error"


async def test_what_is_just_small_enough_is_taken(client: openai.AsyncOpenAI) -> None:
    text = "x" * ((1 << 20) - 500)
    response = await client.responses.create(model="echo", input=text)
    assert response.output_text.endswith(text)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v1/responses", 405, "POST"),
        ("PUT", "/v1/responses/resp_x", 405, "DELETE, GET, HEAD"),
        ("GET", "/v1/responses/resp_x/cancel", 405, "POST"),
        ("POST", "/v1/models", 405, "GET, HEAD"),
        ("GET", "/v1/nothing", 404, None),
        ("POST", "/responses", 404, None),
        ("GET", "/v1/responses/resp_x/nothing", 404, None),
    ],
)
async def test_wrong_methods_and_places(
    method: str, path: str, status: int, allowed: str | None, raw: RawClient
) -> None:
    answer = await raw.request(method, path)
    assert answer.status == status
    assert answer.headers.get("allow") == allowed
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_queries_that_newer_clients_send_are_ignored(raw: RawClient) -> None:
    answer = await raw.post("/v1/responses?beta=true", json=dict(HI), headers={"OpenAI-Beta": "x=v1"})
    assert answer.status == 200
    path = f"/v1/responses/{answer.json()['id']}"
    for query in (
        "include[]=reasoning.encrypted_content",
        "include=message.output_text.logprobs,reasoning.encrypted_content",
        "include_obfuscation=false",
        "stream=false",
    ):
        assert (await raw.get(f"{path}?{query}")).status == 200


async def test_empty_queries_are_absent_ones(raw: RawClient) -> None:
    made = (await raw.post("/v1/responses", json={**HI, "stream": True})).body.decode()
    response_id = made.partition('"id":"')[2].partition('"')[0]
    for path, names in (
        ("", ("stream", "starting_after", "wait", "include", "include[]", "include_obfuscation")),
        ("/input_items", ("limit", "order", "after", "include")),
    ):
        url = f"/v1/responses/{response_id}{path}"
        plain = await raw.get(url)
        answers = [await raw.get(f"{url}?{query}=") for query in (*names, "=&".join(names))]
        assert {(answer.status, answer.body) for answer in answers} == {(200, plain.body)}
    replayed = await raw.get(f"/v1/responses/{response_id}?stream=true&starting_after=&include_obfuscation=false")
    assert replayed.body.decode() == made


async def test_what_was_left_out_is_named_in_a_header(client: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "web_search"}, TOOL, {"type": "namespace", "name": "n", "tools": []}]
    answer = await client.responses.with_raw_response.create(model="echo", input="hi", tools=tools)
    assert answer.headers["x-respool-dropped"] == "tools[0] (web_search), tools[2] (namespace)"
    assert [tool.type for tool in answer.parse().tools] == ["function"]


async def test_unknown_parameters_are_named_in_the_header(client: openai.AsyncOpenAI) -> None:
    unknown: Any = {"temprature": 1, "max_tokens": 5, "a\r\nb, c": 1, "größe": 1, "": 1, "x" * 64: 1, "y" * 65: 1}
    answer = await client.responses.with_raw_response.create(
        model="echo", input="hi", tools=[{"type": "web_search"}], extra_body=unknown
    )
    shown = ["temprature", "max_tokens", "a%0D%0Ab%2C%20c", "gr%C3%B6%C3%9Fe", "", "x" * 64, f"{'y' * 64}..."]
    named = [f"{name} (unknown)" for name in shown]
    assert answer.headers["x-respool-dropped"].split(", ") == ["tools[0] (web_search)", *named]


async def test_many_things_left_out_fit_into_the_header(client: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "web_search"}] * 1000
    answer = await client.responses.with_raw_response.create(model="echo", input="hi", tools=tools)
    assert answer.headers["x-respool-dropped"].endswith("tools[19] (web_search), and 980 more")
