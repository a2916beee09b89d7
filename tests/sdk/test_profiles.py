"""What a profile means for clients: where the key goes, what is refused, and what is left out and named."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from fakes.upstream import FakeUpstream, reply
from support.clients import Answer, RawClient
from support.cluster_thread import ClusterThread

PIXEL = "data:image/png;base64,iVBORw0KGgo="
MODELS = """
[models.azure]
dialect = "chat"
base_url = "{url}/deployments/gpt"
profile = "azure"
key_env = "AZURE_KEY"
[models.azure.profile_overrides]
extra_query = {{api-version = "2024-10-21"}}
[models.claude]
dialect = "chat"
base_url = "{url}"
profile = "anthropic"
[models.blind]
dialect = "chat"
base_url = "{url}"
[models.blind.profile_overrides]
vision = false
refuse_params = ["stop"]
[models.seeing]
dialect = "chat"
base_url = "{url}"
profile = "openai"
"""


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    url = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    with ClusterThread(env={"AZURE_KEY": "azure-secret"}, config=MODELS.format(url=url)) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


@pytest_asyncio.fixture
async def raw(service: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(service.origin)


async def create(raw: RawClient, model: str, **fields: Any) -> Answer:
    return await raw.post("/v1/responses", json={"model": model, "input": "hi", **fields})


async def test_azure_gets_its_key_and_version_where_it_looks_for_them(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("ok"))
    assert (await create(raw, "azure")).status == 200
    call = await upstream.called()
    assert call.path == "/v1/deployments/gpt/chat/completions"
    assert call.query == {"api-version": "2024-10-21"}
    assert call.headers["api-key"] == "azure-secret"
    assert "authorization" not in call.headers


async def test_what_is_left_out_is_named_and_logged_once(
    raw: RawClient, upstream: FakeUpstream, service: ClusterThread
) -> None:
    asked = {"temperature": 1.5, "seed": 3, "user": "u", "reasoning": {"effort": "low"}}
    for _ in range(2):
        upstream.queue(reply("ok"))
        answer = await create(raw, "claude", **asked)
        assert answer.headers["x-respool-dropped"] == "seed, user, temperature (set to 1), reasoning.effort"
    body = (await upstream.called(1)).body
    assert body["temperature"] == 1
    assert not body.keys() & {"seed", "user", "reasoning_effort"}
    (front_end,) = service.cluster.front_ends
    await service.logged(front_end, "parameter.dropped", parameter="reasoning.effort")
    assert len(front_end.find("parameter.dropped", parameter="seed")) == 1


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("claude", {"top_logprobs": 2}, "unsupported_parameter", "top_logprobs"),
    ("claude", {"text": {"format": {"type": "json_object"}}}, "unsupported_value", "text.format"),
    ("blind", {"stop": "x"}, "unsupported_parameter", "stop"),
    (
        "blind",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]}]},
        "unsupported_content",
        "input[0].content[0]",
    ),
    (
        "seeing",
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.b/c.pdf"}]}]},
        "unsupported_value",
        "input[0].content[0].file_url",
    ),
]


@pytest.mark.parametrize(("model", "fields", "code", "param"), REFUSED)
async def test_what_is_refused_is_never_queued(
    model: str, fields: dict[str, Any], code: str, param: str, raw: RawClient, upstream: FakeUpstream
) -> None:
    answer = await create(raw, model, **fields)
    assert answer.status == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert upstream.calls == []


async def test_an_image_of_an_earlier_turn_is_refused_too(raw: RawClient, upstream: FakeUpstream) -> None:
    upstream.queue(reply("ok"))
    picture = [{"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]}]
    first = (await create(raw, "seeing", input=picture)).json()
    answer = await create(raw, "blind", previous_response_id=first["id"])
    assert (answer.status, answer.json()["error"]["code"]) == (400, "unsupported_content")
    assert answer.json()["error"]["param"] == "previous_response_id"
