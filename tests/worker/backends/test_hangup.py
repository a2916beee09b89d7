"""A backend that hangs up at any byte of its answer, over a real connection."""

import asyncio
from pathlib import Path

from fakes.upstream import FakeUpstream, close, send, start
from shared.settings import ModelRow
from support.asking import answer, text_of
from worker.backends.http import HttpBackend

BODY = (Path(__file__).parents[2] / "streams/own/deepseek-thinks-before-calls.body").read_bytes()
TEXT = BODY.replace(b'"reasoning_content":"Need"', b'"content":"Need"').replace(b'" data"', b'" more"')
WHY = b'"finish_reason":"tool_calls"'


async def test_a_hang_up_at_every_byte_is_a_failure_with_what_there_was() -> None:
    said = set()
    why_at = TEXT.index(b"\n\n", TEXT.index(WHY)) + 2  # until here it has not said why it stopped
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        row = ModelRow(dialect="chat", base_url=upstream.base_url)
        for at in range(why_at):
            upstream.queue(start(), send(TEXT[:at]), close())
            async with asyncio.timeout(10):
                response, error = await answer(backend, row)
            assert response.status == "failed", at
            assert error is not None
            assert error.retryable
            said.add(text_of(response))
        assert [call.outcome for call in upstream.calls] == ["closed"] * why_at
        upstream.queue(send(TEXT))
        response, error = await answer(backend, row)
        assert (response.status, error) == ("completed", None)
    assert said == {"", "Need"}
