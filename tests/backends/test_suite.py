"""One suite for every backend: each has its own wire for a scenario, what must come of it is the same for all.

The worker's real shell calls a real server that plays the wire; the embedded echo model is asked for the same in its own words.
A new backend passes this before it has a name. What a worker makes of failures: tests/integration/test_dialects.py.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from fakes.upstream import FakeUpstream, close, hang, pause, send, start, status
from shared.core.emitter import Emitter, Ending
from shared.core.frames import render_all
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.settings import ModelRow
from shared.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    FunctionTool,
    InputFile,
    InputImage,
    InputText,
    Item,
    JsonSchemaFormat,
    Message,
    Reasoning,
)
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError
from support.answers import STATE, outcome
from support.contract import check_stream
from support.wires import DIALECTS, Dialect, wire
from worker.backends.base import Backend, Call
from worker.backends.echo import NOTICE, EchoBackend
from worker.backends.http import HttpBackend

PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [FunctionTool("f", parameters=SCHEMA), FunctionTool("g", parameters=SCHEMA)]
Name = Literal["chat", "responses", "anthropic", "echo"]

everyone = pytest.mark.parametrize("backend", [*DIALECTS, "echo"])
wired = pytest.mark.parametrize("dialect", DIALECTS)
"""Of what the echo model has none: a wire that can be cut, hang or hold garbage; refusals, filters, answers in a format, several
calls, arguments, and a body in which one could look for images."""


def nothing() -> None:
    """Nobody waits for the events."""


async def ask(upstream: FakeUpstream, dialect: Dialect, items: Sequence[Item] | None = None, flush: Any = nothing,
              row: dict[str, Any] | None = None, **fields: Any) -> Response:  # fmt: skip
    """The response, however it ends; its events keep the contract."""
    model = ModelRow(dialect=dialect, base_url=upstream.base_url, **(row or {}))
    async with HttpBackend() as backend:
        return await ran(backend, model, items or [Message("user", "Hi")], flush, **fields)


async def ran(backend: Backend, model: ModelRow, items: Sequence[Item], flush: Any, **fields: Any) -> Response:
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="m", **fields)
    emit = Emitter(draft(request))
    emit.created()
    emit.in_progress()
    try:
        ending = await backend.run(Call(request, items, model, "req", STATE), emit, flush)
    except UpstreamError as error:
        ending = Ending("failed", error=ResponseError(error.code, error.message))
    response = emit.end(ending, at=2)
    frames = render_all(emit.take()).split(b"\n\n")[:-1]
    assert check_stream([json.loads(one.partition(b"\ndata: ")[2]) for one in frames]) == []
    return response


async def answered(dialect: Dialect, frames: Sequence[bytes], **options: Any) -> tuple[dict[str, Any], Response, Any]:
    """(the outcome, the response, the body that was sent)."""
    async with FakeUpstream() as upstream:
        upstream.queue(start(), *map(send, frames))
        response = await ask(upstream, dialect, **options)
        return outcome(response), response, (await upstream.called(0)).body


async def heard(backend: Name, items: Sequence[Item] = (), flush: Any = nothing, *, text: Sequence[str] = (),
                reasoning: str = "", call: str = "", **fields: Any) -> tuple[dict[str, Any], Response]:  # fmt: skip
    """(the outcome, the response) of any backend that says this; the echo model without what it always says in front."""
    if backend != "echo":
        reasons, calls = [reasoning] if reasoning else [], [[call, "{}"]] if call else []
        frames = wire(backend, reasoning=reasons, text=text, calls=calls, end="calls" if call else "stop")
        found, response, _ = await answered(backend, frames, items=items or None, flush=flush, **fields)
        return found, response
    options = ["echo:think "] * bool(reasoning) + ["echo:call "] * bool(call)
    question = "".join([*options, *text])
    asked = [*(items or [Message("user", question)])]
    response = await ran(EchoBackend(), ModelRow(dialect="echo"), asked, flush, **fields)
    found = outcome(response)
    return {**found, "text": found["text"].removeprefix(NOTICE).removeprefix("".join(options))}, response


@everyone
async def test_text_and_usage(backend: Name) -> None:
    found, response = await heard(backend, text=["Hel", "lo"])
    assert (found["text"], found["status"]) == ("Hello", "completed")
    assert found["usage"] == ([1, 0, 10, 0] if backend == "echo" else [9, 0, 2, 0])
    assert len(response.output) == 1


@wired
async def test_nothing_is_an_answer_too(dialect: Dialect) -> None:
    _, response, _ = await answered(dialect, wire(dialect))
    assert (response.output, response.status) == ([], "completed")


@everyone
async def test_characters(backend: Name) -> None:
    found, _ = await heard(backend, text=["grüß ", "😀", " e\u0301 ", "漢"])
    assert found["text"] == "grüß 😀 e\u0301 漢"


@everyone
async def test_reasoning_comes_first(backend: Name) -> None:
    found, response = await heard(backend, reasoning="Let me repeat that.", text=["so"])
    assert [type(item) for item in response.output] == [Reasoning, Message]
    assert (found["reasoning"], found["text"]) == ("Let me repeat that.", "so")


@everyone
async def test_one_call_and_its_output(backend: Name) -> None:
    found, response = await heard(backend, call="f", tools=TOOLS)
    assert (found["calls"], found["status"], found["text"]) == ([["f", "{}"]], "completed", "")
    (call,) = response.output
    assert isinstance(call, FunctionCall)
    items: list[Item] = [Message("user", "sunny"), call, FunctionCallOutput(call.call_id, "fine")]
    found, _ = await heard(backend, items, text=["sunny"], tools=TOOLS)
    assert (found["text"], found["status"], found["calls"]) == ("sunny", "completed", [])


@everyone
async def test_every_read_is_flushed(backend: Name) -> None:
    flushed = 0

    def flush() -> None:
        nonlocal flushed
        flushed += 1

    await heard(backend, flush=flush, text=["echo:delay_ms=1 "] if backend == "echo" else ["Hel", "lo"])
    assert flushed


@everyone
async def test_the_limit(backend: Name) -> None:
    if backend == "echo":
        found, response = await heard("echo", text=["Hello"], max_output_tokens=2)
        assert found["text"] == "You talk "
    else:
        found, response, _ = await answered(backend, wire(backend, text=["Hel"], end="length"))
        assert found["text"] == "Hel"
    assert (found["status"], found["reason"]) == ("incomplete", "max_output_tokens")
    assert [item.status for item in response.output if isinstance(item, Message)] == ["incomplete"]


@everyone
async def test_a_failure_keeps_what_there_was(backend: Name) -> None:
    if backend == "echo":
        found, response = await heard("echo", text=["echo:break"])
    else:
        error = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"no"}}\n\n'
        found, response, _ = await answered(backend, [*wire(backend, text=["You "])[:-2], error])
    assert (found["status"], found["error"], found["text"]) == ("failed", "server_error", "You ")
    assert [item.status for item in response.output if isinstance(item, Message)] == ["incomplete"]


@everyone
async def test_a_cancel_is_at_once(backend: Name) -> None:
    begun = asyncio.Event()

    def flush() -> None:
        begun.set()

    async with FakeUpstream() as upstream:
        if backend == "echo":
            slow = [Message("user", "echo:delay_ms=60000")]
            running = asyncio.create_task(ran(EchoBackend(), ModelRow(dialect="echo"), slow, flush))
        else:
            upstream.queue(start(), send(*wire(backend, text=["Hel"])[:-2]), hang())
            running = asyncio.create_task(ask(upstream, backend, flush=flush))
        async with asyncio.timeout(5):
            await begun.wait()
        running.cancel()
        if backend != "echo":
            await upstream.disconnected(0, timeout_s=1.0)
        await asyncio.wait([running])
        assert running.cancelled()


@wired
async def test_characters_cut_by_the_network(dialect: Dialect) -> None:
    body = b"".join(wire(dialect, text=["grüß ", "😀", "\u2028", "漢"]))
    found, _, _ = await answered(dialect, [body[at : at + 3] for at in range(0, len(body), 3)])
    assert found["text"] == "grüß 😀\u2028漢"


@wired
async def test_halves_of_a_character(dialect: Dialect) -> None:
    body = b"".join(wire(dialect, text=["<", "1>", "!"])).replace(b'"<"', rb'"\ud83d"').replace(b'"1>"', rb'"\ude00"')
    found, _, _ = await answered(dialect, [body])
    assert found["text"] == "😀!"


@wired
async def test_a_refusal_is_an_answer(dialect: Dialect) -> None:
    found, _, _ = await answered(dialect, wire(dialect, refusal="I will not."))
    assert (found["refusal"], found["status"]) == ("I will not.", "completed")


@wired
async def test_calls(dialect: Dialect) -> None:
    one = ["f", '{"city"', ': "Oslo"}']
    for calls in ([one], [one, ["g", "{}"]], [["f"]]):
        found, response, _ = await answered(dialect, wire(dialect, calls=calls, end="calls"), tools=TOOLS)
        assert found["calls"] == [[name, "".join(fragments) or "{}"] for name, *fragments in calls]
        assert found["status"] == "completed"
        assert [item.call_id for item in response.output if isinstance(item, FunctionCall)] == [
            f"c{i}" for i in range(len(calls))
        ]


@wired
async def test_a_round_trip_of_tools(dialect: Dialect) -> None:
    items: list[Item] = [
        Message("user", "Hi"),
        FunctionCall("c0", "f", '{"city":"Oslo"}'),
        FunctionCallOutput("c0", "sunny"),
    ]
    found, _, body = await answered(dialect, wire(dialect, text=["fine"]), items=items, tools=TOOLS)
    assert found["text"] == "fine"
    sent = json.dumps(body)
    assert all(word in sent for word in ("c0", "Oslo", "sunny"))
    assert sent.index("Oslo") < sent.index("sunny")


@wired
async def test_images(dialect: Dialect) -> None:
    items: list[Item] = [Message("user", [InputText("see"), InputImage(PIXEL)])]
    _, _, body = await answered(dialect, wire(dialect, text=["a dot"]), items=items)
    assert PIXEL.partition(",")[2] in json.dumps(body)


@wired
async def test_an_address_is_passed_on_and_never_fetched(dialect: Dialect) -> None:
    address = "https://nobody.invalid/c.pdf"
    items: list[Item] = [Message("user", [InputText("see"), InputFile(file_url=address)])]
    row = {"profile": "openrouter"} if dialect == "chat" else {}
    found, _, body = await answered(dialect, wire(dialect, text=["a page"]), items=items, row=row)
    assert found["text"] == "a page"
    parts = {
        "chat": {"type": "file", "file": {"file_data": address}},
        "responses": {"type": "input_file", "file_url": address},
        "anthropic": {"type": "document", "source": {"type": "url", "url": address}},
    }
    assert json.dumps(parts[dialect]) in json.dumps(body)


@wired
async def test_structured_output(dialect: Dialect) -> None:
    pieces = ['{"city":', '"Oslo"}']
    native = dialect != "anthropic"
    frames = wire(dialect, text=pieces) if native else wire(dialect, calls=[["place", *pieces]], end="calls")
    found, _, body = await answered(dialect, frames, format=JsonSchemaFormat("place", SCHEMA))
    assert (found["text"], found["calls"]) == ('{"city":"Oslo"}', [])
    assert "place" in json.dumps(body)
    assert json.dumps(SCHEMA) in json.dumps(body)


@pytest.mark.parametrize(("end", "reason"), [("length", "max_output_tokens"), ("filter", "content_filter")])
@wired
async def test_incomplete(dialect: Dialect, end: str, reason: str) -> None:
    found, response, _ = await answered(dialect, wire(dialect, text=["Hel"], end=end))
    assert (found["status"], found["reason"], found["text"]) == ("incomplete", reason, "Hel")
    assert response.usage is not None


@wired
async def test_a_hang_up_at_every_byte_fails_until_the_end_was_said(dialect: Dialect) -> None:
    body = b"".join(wire(dialect, text=["Hel", "lo"]))
    some = asyncio.Semaphore(8)

    async def cut(at: int) -> str:
        async with some, FakeUpstream() as upstream:
            upstream.queue(start(), send(body[:at]), close())
            response = await ask(upstream, dialect)
            assert "Hello".startswith(outcome(response)["text"])
            return response.status

    seen = await asyncio.gather(*map(cut, range(len(body) + 1)))
    assert seen == sorted(seen, key=["failed", "completed"].index)
    assert (seen[0], seen[-1]) == ("failed", "completed")


@wired
async def test_comments_keep_a_slow_answer_alive(dialect: Dialect) -> None:
    first, *rest = wire(dialect, text=["Hel", "lo"])
    idle_s, gap_s = 1.0, 0.15
    slow = [step for _ in range(9) for step in (pause(gap_s), send(b": still here\n\n"))]
    async with FakeUpstream() as upstream:
        upstream.queue(start(), send(first), *slow, send(*rest))
        began = asyncio.get_running_loop().time()
        response = await ask(upstream, dialect, row={"idle_timeout_s": idle_s})
        assert asyncio.get_running_loop().time() - began > idle_s
    assert (outcome(response)["text"], response.status) == ("Hello", "completed")


@pytest.mark.parametrize("garbage", [b"data: {nope\n\n", b"data: [1]\n\n", b"data: 3\n\n"])
@wired
async def test_garbage(dialect: Dialect, garbage: bytes) -> None:
    found, _, _ = await answered(dialect, [*wire(dialect, text=["Hel"])[:-2], garbage])
    assert (found["status"], found["error"]) == ("failed", "server_error")


@wired
async def test_a_hang_runs_into_the_timer(dialect: Dialect) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(start(), send(*wire(dialect, text=["Hel"])[:1]), hang())
        response = await ask(upstream, dialect, row={"idle_timeout_s": 0.3})
        assert (response.status, response.error and response.error.code) == ("failed", "server_error")
        await upstream.disconnected(0)


@pytest.mark.parametrize(
    ("code", "body", "wanted"),
    [
        (429, {"error": {"message": "slow", "type": "rate_limit_error"}}, "rate_limit_exceeded"),
        (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}, "invalid_prompt"),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "server_error"),
        (401, {"detail": "who?"}, "server_error"),
        (500, b"<html>no</html>", "server_error"),
        (200, {"error": {"message": "no", "code": "429"}}, "rate_limit_exceeded"),
    ],
)
@wired
async def test_errors_in_every_shape(dialect: Dialect, code: int, body: Any, wanted: str) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(status(code, body))
        response = await ask(upstream, dialect)
        assert response.error is not None
        assert response.error.code == wanted


@wired
async def test_an_error_in_mid_answer_keeps_what_there_was(dialect: Dialect) -> None:
    error = b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error","message":"slow"}}\n\n'
    found, _, _ = await answered(dialect, [*wire(dialect, text=["Hel", "lo"])[:-2], error])
    assert (found["status"], found["error"]) == ("failed", "rate_limit_exceeded")
    assert found["text"].startswith("Hel")
