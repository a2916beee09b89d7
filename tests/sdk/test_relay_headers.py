"""What relays add to this API: off by default, and what each does when a setting asks for it."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import openai
import pytest
import pytest_asyncio

from support.clients import RawClient
from support.cluster_thread import ClusterThread

HI: Mapping[str, Any] = {"model": "echo", "input": "hi"}
CONFIG = """
legacy_usage = true
trust_request_id = true
trusted_proxies = "10.0.0.0/8, 127.0.0.1"
[models.echo]
dialect = "echo"
[models.echo-eu]
dialect = "echo"
channel = "eu"
name = "echo"
owned_by = "europe"
[models.only]
dialect = "echo"
channel = "eu"
"""
EMPTY = {"X-Request-Id": "", "X-Tenant-Id": "", "X-Channel": ""}


@pytest.fixture(scope="module")
def relaying() -> Iterator[ClusterThread]:
    with ClusterThread(config=CONFIG) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def relay(relaying: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(relaying.origin, headers={})


async def test_empty_headers_are_absent(relay: RawClient, raw: RawClient) -> None:
    for client in (relay, raw):
        answer = await client.post("/v1/responses", json=dict(HI), headers=EMPTY)
        assert answer.status == 200
        assert answer.headers["x-request-id"].startswith("req_")
        assert (await client.get(f"/v1/responses/{answer.json()['id']}")).status == 200


async def test_all_is_off_by_default(raw: RawClient) -> None:
    headers = {"X-Request-Id": "mine", "X-Tenant-Id": "acme", "X-Channel": "eu"}
    answer = await raw.post("/v1/responses", json=dict(HI), headers=headers)
    assert answer.status == 200
    assert answer.headers["x-request-id"].startswith("req_")
    assert "prompt_tokens" not in answer.json()["usage"]
    assert (await raw.get(f"/v1/responses/{answer.json()['id']}")).status == 200


@pytest.mark.parametrize("given", ["abc", "0f8fad5b-d9cb-469f-a165-70867728950e", "a" * 128, "a.b:c_d"])
async def test_a_well_formed_request_id_is_taken_over(given: str, relay: RawClient, relaying: ClusterThread) -> None:
    answer = await relay.post("/v1/responses", json=dict(HI), headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given
    line = await relaying.logged(relaying.cluster.workers[0], "response.settled", response_id=answer.json()["id"])
    assert line["request_id"] == given
    missing = await relay.get("/v1/nothing", headers={"X-Request-Id": given})
    assert (missing.status, missing.headers["x-request-id"]) == (404, given)


@pytest.mark.parametrize("given", ["a b", "a" * 129, "a\u00e9", "<script>", '"'])
async def test_another_one_is_replaced(given: str, relay: RawClient) -> None:
    answer = await relay.get("/v1/models", headers={"X-Request-Id": given})
    assert answer.status == 200
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_trusted_proxy_chooses_the_tenant(relay: RawClient) -> None:
    made = await relay.post("/v1/responses", json=dict(HI), headers={"X-Tenant-Id": "acme"})
    path = f"/v1/responses/{made.json()['id']}"
    assert (await relay.get(path, headers={"X-Tenant-Id": "acme"})).status == 200
    assert (await relay.get(path, headers={"X-Tenant-Id": "other"})).status == 404
    assert (await relay.get(path)).status == 404
    bad = await relay.get(path, headers={"X-Tenant-Id": "a b"})
    assert (bad.status, bad.json()["error"]["code"]) == (400, "invalid_value")


async def test_a_proxy_needs_a_key_like_everybody(raw_client: Callable[..., RawClient]) -> None:
    key = '[[keys]]\nname = "a"\ntenant = "t"\nsha256 = "' + "0" * 64 + '"\n'
    settings, _, models = CONFIG.partition("[models.echo]")
    with ClusterThread(workers=0, config=f"{settings}{key}[models.echo]{models}") as cluster:
        answer = await raw_client(cluster.origin, headers={}).get("/v1/models", headers={"X-Tenant-Id": "acme"})
        assert answer.status == 401


async def test_from_elsewhere_the_tenant_is_not_chosen(raw_client: Callable[..., RawClient]) -> None:
    with ClusterThread(env={"RESPOOL_TRUSTED_PROXIES": "10.0.0.0/8, ::1"}) as cluster:
        raw = raw_client(cluster.origin, headers={})
        forwarded = {"X-Tenant-Id": "acme", "X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
        made = await raw.post("/v1/responses", json=dict(HI), headers=forwarded)
        assert (await raw.get(f"/v1/responses/{made.json()['id']}")).status == 200


async def test_a_channel_chooses_among_backends(relay: RawClient) -> None:
    eu = {"X-Channel": "eu"}
    only = {"model": "only", "input": "hi"}
    assert (await relay.post("/v1/responses", json=only, headers=eu)).json()["model"] == "only"
    refused = await relay.post("/v1/responses", json=only)
    assert (refused.status, refused.json()["error"]["code"]) == (400, "model_not_found")
    assert (await relay.post("/v1/responses", json=dict(HI), headers=eu)).json()["status"] == "completed"
    listed = [[row["id"] for row in (await relay.get("/v1/models", headers=each)).json()["data"]] for each in ({}, eu)]
    assert listed == [["echo"], ["echo", "only"]]
    assert (await relay.get("/v1/models/echo", headers=eu)).json()["owned_by"] == "europe"
    assert (await relay.get("/v1/models/echo-eu", headers=eu)).status == 404


@pytest.mark.parametrize("given", ["us", "EU", "a b", "x" * 500])
async def test_an_unknown_channel_is_refused(given: str, relay: RawClient) -> None:
    for answer in (
        await relay.post("/v1/responses", json=dict(HI), headers={"X-Channel": given}),
        await relay.get("/v1/models", headers={"X-Channel": given}),
    ):
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["type"]) == (400, "invalid_value", "invalid_request_error")
        assert len(error["message"]) < 200


def check_usage(usage: Mapping[str, Any]) -> None:
    assert usage["prompt_tokens"] == usage["input_tokens"] > 0
    assert usage["completion_tokens"] == usage["output_tokens"] > 0
    assert usage["prompt_tokens_details"] == {
        "cached_tokens": 0,
        "text_tokens": 0,
        "audio_tokens": 0,
        "image_tokens": 0,
    }
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0, "text_tokens": 0, "audio_tokens": 0}


async def test_usage_has_both_names_everywhere(
    relay: RawClient, relaying: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    made = (await relay.post("/v1/responses", json=dict(HI))).json()
    check_usage(made["usage"])
    assert (await relay.get(f"/v1/responses/{made['id']}")).json() == made
    streamed = await relay.post("/v1/responses", json={**HI, "stream": True})
    last = json.loads(streamed.body.split(b"\n\n")[-3].partition(b"data: ")[2])
    assert last["type"] == "response.completed"
    check_usage(last["response"]["usage"])
    replay = await relay.get(f"/v1/responses/{last['response']['id']}?stream=true")
    assert replay.body == streamed.body
    answer = await openai_client(relaying.origin).responses.create(model="echo", input="hi")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
