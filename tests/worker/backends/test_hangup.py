"""A backend that hangs up at any byte of its answer, over a real connection."""

import asyncio
from pathlib import Path

from fakes.upstream import FakeUpstream, close, send, start
from shared.config import ModelRow
from shared.core.emitter import Emitter, Ending
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.seal import Sealer
from shared.wire.items import Message, OutputText
from shared.wire.requests import Request
from shared.wire.responses import Response
from worker.backends.base import Call
from worker.backends.http import HttpBackend

BODY = (Path(__file__).parents[2] / "streams/own/deepseek-thinks-before-calls.body").read_bytes()
TEXT = BODY.replace(b'"reasoning_content":"Need"', b'"content":"Need"').replace(b'" data"', b'" more"')
WHY = b'"finish_reason":"tool_calls"'


async def answer(backend: HttpBackend, base_url: str) -> tuple[Response, UpstreamError | None]:
    """(what there is, and how it failed if it did)."""
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="m")
    emit = Emitter(draft(request))
    row = ModelRow(dialect="chat", base_url=base_url)

    async def flush() -> None:
        emit.take()

    call = Call(request, [Message("user", "x")], row, "req", Sealer([]).bind("us", "state"))
    try:
        return emit.end(await backend.run(call, emit, flush), at=2), None
    except UpstreamError as error:
        return emit.end(Ending("failed"), at=2), error


def text_of(response: Response) -> str:
    messages = [item for item in response.output if isinstance(item, Message)]
    return "".join(part.text for one in messages for part in one.content if isinstance(part, OutputText))


async def test_a_hang_up_at_every_byte_is_a_failure_with_what_there_was() -> None:
    said = set()
    why_at = TEXT.index(b"\n\n", TEXT.index(WHY)) + 2  # until here it has not said why it stopped
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        for at in range(why_at):
            upstream.queue(start(), send(TEXT[:at]), close())
            async with asyncio.timeout(10):
                response, error = await answer(backend, upstream.base_url)
            assert response.status == "failed", at
            assert error is not None
            assert error.retryable
            said.add(text_of(response))
        assert [call.outcome for call in upstream.calls] == ["closed"] * why_at
        upstream.queue(send(TEXT))
        response, error = await answer(backend, upstream.base_url)
        assert (response.status, error) == ("completed", None)
    assert said == {"", "Need"}
