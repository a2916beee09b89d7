"""Calls to a real llama.cpp, one right behind another: it closes each connection a moment behind the end of its stream."""

import asyncio

from structlog.testing import capture_logs

from shared.core.emitter import Emitter
from shared.core.responses import draft
from shared.settings import ModelRow
from shared.wire.items import Message
from shared.wire.requests import Request
from support.answers import STATE
from support.asking import text_of
from support.llamacpp import LlamaCpp
from support.loops import on_both_loops
from worker.backends.base import Call
from worker.backends.http import HttpBackend


@on_both_loops
async def test_calls_right_behind_each_other(llamacpp: LlamaCpp) -> None:
    """Whatever of the end has come by then. None fails, and each is made once as far as anybody hears."""
    row = ModelRow(dialect="chat", base_url=llamacpp.base_url, profile="llamacpp")
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="tiny", temperature=0, max_output_tokens=2)
    with capture_logs() as logged:
        async with HttpBackend() as backend:
            for turns in range(0, 400, 10):
                emit = Emitter(draft(request))
                async with asyncio.timeout(20):
                    ending = await backend.run(
                        Call(request, [Message("user", "hello")], row, "req", STATE), emit, _nothing
                    )
                assert text_of(emit.end(ending, at=2))
                for _ in range(turns):
                    await asyncio.sleep(0)
    assert {line["event"] for line in logged} == {"upstream.called"}


def _nothing() -> None:
    """Nobody waits for events."""
