"""The catalogue of errors: each with its status, type, code, parameter and words, as clients see it."""

import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from fakes.upstream import FakeUpstream, chunk, hang, reply, send, status
from support.clients import Answer, RawClient
from support.cluster import chat_model
from support.cluster_thread import ClusterThread

MAX_BODY_BYTES = 200_000
ENV = {"RESPOOL_STRICT_PARAMETERS": "true", "RESPOOL_MAX_BODY_BYTES": str(MAX_BODY_BYTES), "RESPOOL_SEAL_KEY": "s" * 32}
HI = {"model": "echo", "input": "hi"}
TOOL = {"type": "function", "name": "f"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
BAD, LIMIT, FAULT = "invalid_request_error", "rate_limit_error", "server_error"
UNKNOWN = "resp_00" + "0" * 32


@pytest.fixture(scope="module")
def service(upstream_socket: socket.socket) -> Iterator[ClusterThread]:
    """Strict, with small bodies. Models: `tiny` (the test's upstream), `small` (100 tokens), `echo`."""
    address = f"http://127.0.0.1:{upstream_socket.getsockname()[1]}/v1"
    small = '[models.small]\ndialect = "echo"\ncontext_tokens = 100\n'
    with ClusterThread(env=ENV, config=small + chat_model(address, "tiny")) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def upstream(service: ClusterThread, upstream_socket: socket.socket) -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(sock=upstream_socket.dup()) as backend:
        yield backend


def check(answer: Answer, http: int, type_: str, code: str | None, param: str | None, words: str) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (answer.status, error["type"], error["code"], error["param"]) == (http, type_, code, param)
    assert re.search(words, error["message"]), error["message"]


def hi(**more: Any) -> dict[str, Any]:
    return {**HI, **more}


CREATE: list[tuple[Any, str | None, str | None, str]] = [
    # the body (400 each), code, param, words
    (b"", None, None, "could not parse the JSON body"),
    (b"{", None, None, "could not parse the JSON body of your request: Input data was truncated"),
    (b"[]", None, None, "must be a JSON object"),
    ({"input": "hi"}, "missing_required_parameter", "model", r"^Missing required parameter: 'model'\.$"),
    ({"model": "echo"}, "missing_required_parameter", "input", r"^Missing required parameter: 'input'\.$"),
    (
        hi(tools=[TOOL, {"type": "function"}]),
        "missing_required_parameter", "tools[1].name", r"^Missing required parameter: 'tools\[1\]\.name'\.$",
    ),
    (hi(container="x"), "unknown_parameter", "container", r"^Unknown parameter: 'container'\.$"),
    (hi(stream="yes"), "invalid_type", "stream", "expected bool"),
    (
        hi(tools=[{"type": "function", "function": {"name": "f"}}]), "missing_required_parameter", "tools[0].name",
        r"^Missing required parameter: 'tools\[0\]\.name'\. \(HINT: what Chat Completions has in 'function'",
    ),
    (hi(metadata={"k": 1}), "invalid_type", "metadata", "for a value in 'metadata': expected str, but got int"),
    (hi(truncation="maybe"), "invalid_value", "truncation", r"'maybe'\. Supported values are: 'auto', 'disabled'\.$"),
    (
        hi(text={"format": {"type": "yaml"}}), "invalid_value", "text.format.type",
        r"'yaml'\. Supported values are: 'text', 'json_object', 'json_schema'\.$",
    ),
    (
        hi(input=[{"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "nope"}]}]),
        "invalid_value", "input[0].content[1].type", "'nope'",
    ),
    (
        hi(previous_response_id="@x"),
        "invalid_value", "previous_response_id",
        r"^Invalid 'previous_response_id': '@x'\. Expected an ID that contains letters, numbers, underscores, or dashes, but this",
    ),
    (
        hi(max_output_tokens=10),
        "integer_below_min_value", "max_output_tokens",
        r"^Invalid 'max_output_tokens': integer below minimum value\. Expected a value >= 16, but got 10 instead\.$",
    ),
    (hi(top_logprobs=21), "integer_above_max_value", "top_logprobs", "<= 20, but got 21"),
    (hi(temperature=2.5), "decimal_above_max_value", "temperature", "<= 2, but got 2.5"),
    (hi(temperature=-0.5), "decimal_below_min_value", "temperature", ">= 0, but got -0.5"),
    (hi(metadata={"k": "v" * 513}), "string_above_max_length", "metadata.k", "at most 512 characters, but got 513"),
    (hi(metadata={str(n): "" for n in range(17)}), "object_above_max_properties", "metadata", "at most 16, but got 17"),
    (hi(stop=["a"] * 5), "array_above_max_length", "stop", "at most 4 items, but got 5"),
    (
        hi(previous_response_id=UNKNOWN),
        "previous_response_not_found", "previous_response_id", rf"^Previous response with id '{UNKNOWN}' not found\.$",
    ),
    (
        hi(previous_response_id=UNKNOWN, conversation="conv_x"),
        "mutually_exclusive_parameters", "previous_response_id", "'previous_response_id' and 'conversation'",
    ),
    (
        hi(input=[{"type": "function_call_output", "call_id": "c1", "output": "x"}]),
        None, "input", r"^No tool call found for function call output with call_id c1\.$",
    ),
    (hi(input=[CALL]), None, "input", r"^No tool output found for function call c1\.$"),
    (hi(model="nobody"), "model_not_found", "model", r"^The requested model 'nobody' does not exist\. \(HINT: GET /v1/models"),
    (hi(model="small", input="x" * 1000), "context_length_exceeded", "input", "exceeds the context window"),
    (hi(context_management=[{"type": "compaction"}]), "unsupported_parameter", "context_management", "not offered"),
    (hi(tools=[{"type": "file_search"}]), "unsupported_value", "tools[0].type", "file_search"),
    (hi(input=[{"type": "compaction_trigger"}]), "unsupported_value", "input[0].type", "compaction_trigger"),
    (
        hi(input=[{"type": "compaction", "encrypted_content": "x"}]),
        "invalid_encrypted_content", "input[0].encrypted_content", "could not be verified",
    ),
    (hi(include=["everything"]), "invalid_value", "include[0]", "'everything'"),
    (hi(prompt={"id": "p"}), "unsupported_parameter", "prompt", "prompts_dir"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "param", "words"), CREATE, ids=lambda value: str(value)[:60])
async def test_create(body: Any, code: str | None, param: str | None, words: str, raw: RawClient) -> None:
    sent = {"data": body} if isinstance(body, bytes) else {"json": body}
    check(await raw.post("/v1/responses", **sent), 400, BAD, code, param, words)


Do = Callable[[RawClient, FakeUpstream], Awaitable[Answer]]


async def made(raw: RawClient, **more: Any) -> str:
    answer = await raw.post("/v1/responses", json=hi(**more))
    assert answer.status == 200, answer.body
    return str(answer.json()["id"])


@contextlib.asynccontextmanager
async def running(raw: RawClient, upstream: FakeUpstream, **more: Any) -> AsyncIterator[str]:
    """A background response that is in mid-answer; cancelled at the end."""
    upstream.queue(send(chunk("Hel")), hang())
    response_id = await made(raw, model="tiny", background=True, **more)
    await upstream.called()
    yield response_id
    assert (await raw.post(f"/v1/responses/{response_id}/cancel")).status == 200
    await upstream.disconnected()


async def child_of_deleted(raw: RawClient, _: FakeUpstream) -> Answer:
    parent = await made(raw)
    await raw.delete(f"/v1/responses/{parent}")
    return await raw.post("/v1/responses", json=hi(previous_response_id=parent))


async def child_of_unstored(raw: RawClient, _: FakeUpstream) -> Answer:
    return await raw.post("/v1/responses", json=hi(previous_response_id=await made(raw, store=False)))


async def child_of_running(raw: RawClient, upstream: FakeUpstream) -> Answer:
    async with running(raw, upstream) as parent:
        return await raw.post("/v1/responses", json=hi(previous_response_id=parent))


async def locked(raw: RawClient, upstream: FakeUpstream) -> Answer:
    conversation = (await raw.post("/v1/conversations")).json()["id"]
    async with running(raw, upstream, conversation=conversation):
        return await raw.post("/v1/responses", json=hi(conversation=conversation))


async def reference(raw: RawClient, _: FakeUpstream) -> Answer:
    return await raw.post("/v1/responses", json=hi(input=[{"type": "item_reference", "id": "rs_x"}]))


async def not_streamed(raw: RawClient, _: FakeUpstream) -> Answer:
    return await raw.get(f"/v1/responses/{await made(raw)}?stream=true")


async def cancel_synchronous(raw: RawClient, _: FakeUpstream) -> Answer:
    return await raw.post(f"/v1/responses/{await made(raw)}/cancel")


async def cancel_ended(raw: RawClient, upstream: FakeUpstream, wanted: str) -> Answer:
    script = {"completed": reply("ok"), "incomplete": reply("half", finish="length"), "failed": status(400)}[wanted]
    upstream.queue(script)
    response_id = await made(raw, model="tiny", background=True)
    while (await raw.get(f"/v1/responses/{response_id}?wait=10")).json()["status"] != wanted:
        pass  # each of these waits for the next status
    return await raw.post(f"/v1/responses/{response_id}/cancel")


async def delete_running(raw: RawClient, upstream: FakeUpstream) -> Answer:
    async with running(raw, upstream) as response_id:
        return await raw.delete(f"/v1/responses/{response_id}")


async def delete_twice(raw: RawClient, _: FakeUpstream) -> Answer:
    response_id = await made(raw)
    assert (await raw.delete(f"/v1/responses/{response_id}")).status == 200
    return await raw.delete(f"/v1/responses/{response_id}")


def get(path: str) -> Do:
    return lambda raw, _: raw.get(path)


def post(path: str) -> Do:
    return lambda raw, _: raw.post(path, json=hi())


async def too_large(raw: RawClient, _: FakeUpstream) -> Answer:
    return await raw.post("/v1/responses", json=hi(input="x" * MAX_BODY_BYTES))


async def too_often(raw: RawClient, upstream: FakeUpstream) -> Answer:
    upstream.respond = lambda _: [status(429, headers={"Retry-After": "0"})]
    answer = await raw.post("/v1/responses/compact", json=hi(model="tiny"))
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    return answer


async def broken(raw: RawClient, upstream: FakeUpstream) -> Answer:
    upstream.respond = lambda _: [status(500, headers={"Retry-After": "0"})]
    return await raw.post("/v1/responses/compact", json=hi(model="tiny"))


LATER: list[tuple[Do, int, str, str | None, str | None, str]] = [
    (child_of_deleted, 400, BAD, "previous_response_not_found", "previous_response_id", "^Previous response with id"),
    (child_of_unstored, 400, BAD, "previous_response_not_found", "previous_response_id", "^Previous response with id"),
    (child_of_running, 400, BAD, "previous_response_not_found", "previous_response_id", r"has not ended yet\. Wait for its end"),
    (
        locked, 400, BAD, "conversation_locked", "conversation",
        r"^Another process is currently operating on this conversation\. Please retry in a few seconds\.$",
    ),
    (reference, 404, BAD, None, "input", r"^Item with id 'rs_x' not found\. Items are not persisted when 'store'"),
    (get(f"/v1/responses/{UNKNOWN}"), 404, BAD, None, None, rf"^Response with id '{UNKNOWN}' not found\.$"),
    (get(f"/v1/responses/{UNKNOWN}/input_items"), 404, BAD, None, None, "^Response with id"),
    (get("/v1/conversations/conv_x"), 404, BAD, None, None, "^Conversation with id 'conv_x' not found"),
    (get("/v1/models/nobody"), 404, BAD, "model_not_found", "model", "'nobody' does not exist"),
    (
        not_streamed, 400, BAD, "invalid_request_error", "stream",
        r"^This response cannot be streamed because it was not created with stream=true\.$",
    ),
    (get(f"/v1/responses/{UNKNOWN}?starting_after=-1&stream=true"), 400, BAD, "invalid_value", "starting_after", "integer"),
    (get(f"/v1/responses/{UNKNOWN}?include[]=x"), 400, BAD, "invalid_value", "include", "'x'"),
    (get(f"/v1/responses/{UNKNOWN}/input_items?limit=101"), 400, BAD, "invalid_value", "limit", "from 1 to 100"),
    (cancel_synchronous, 400, BAD, None, "response_id", r"^Cannot cancel a synchronous response\.$"),
    (delete_running, 400, BAD, None, None, "^Cannot delete an in-flight response"),
    (delete_twice, 404, BAD, None, None, "^Response with id"),
    (get("/v1/nothing"), 404, BAD, None, None, r"GET /v1/nothing\)$"),
    (get("/responses"), 404, BAD, None, None, "base_url"),
    (get("/v1/v1/models"), 404, BAD, None, None, "base_url"),
    (post("/v1/responses/responses"), 405, BAD, "method_not_allowed", None, "base_url ends in /v1"),
    (post("/v1/responses/"), 404, BAD, None, None, "use POST /v1/responses"),
    (get("/v1/chat/completions"), 404, BAD, None, None, "use POST /v1/responses"),
    (get("/v1/responses"), 405, BAD, "method_not_allowed", None, "use POST"),
    (too_large, 413, BAD, None, None, f"at most {MAX_BODY_BYTES} bytes"),
    (too_often, 429, LIMIT, "rate_limit_exceeded", None, "could not be compacted"),
    (broken, 500, FAULT, "server_error", None, "could not be compacted"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("do", "http", "type_", "code", "param", "words"), LATER, ids=lambda value: getattr(value, "__name__", None)
)
async def test_later(
    do: Do, http: int, type_: str, code: str | None, param: str | None, words: str,
    raw: RawClient, upstream: FakeUpstream,
) -> None:  # fmt: skip
    check(await do(raw, upstream), http, type_, code, param, words)


@pytest.mark.parametrize("ended", ["completed", "incomplete", "failed"])
async def test_cancel_of_what_has_ended(ended: str, raw: RawClient, upstream: FakeUpstream) -> None:
    words = rf"^Cannot cancel {'an' if ended == 'incomplete' else 'a'} {ended} response\.$"
    check(await cancel_ended(raw, upstream, ended), 400, BAD, None, "response_id", words)


async def test_a_full_queue(raw_client: Callable[..., RawClient]) -> None:
    with ClusterThread(workers=0, env={"RESPOOL_MAX_QUEUE": "1", "RESPOOL_SEAL_KEY": "s" * 32}) as cluster:
        raw = raw_client(cluster.origin)
        await made(raw, background=True)
        for path in ("/v1/responses", "/v1/responses/compact"):
            answer = await raw.post(path, json=hi())
            check(
                answer, 503, "service_unavailable_error", "server_is_overloaded", None, "too many responses are waiting"
            )
            assert 1 <= int(answer.headers["retry-after"]) <= 120
