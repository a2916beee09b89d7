"""A run on a real Valkey, with a backend that says what cannot be written."""

from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from shared.config import load_settings
from shared.core.emitter import Emitter, Ending
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.examiner import Examiner
from shared.seal import Sealer
from shared.store.ratios import Ratios
from shared.store.redis import Store
from shared.store.responses import Responses
from shared.store.slots import Slots
from shared.wire.items import Message, OutputText
from shared.wire.requests import Request
from shared.wire.responses import Response
from support.garbage import none_left
from support.valkey import PARTITION, TENANT, WORKER, rid, started
from worker.backends.base import Backends, Call, Flush
from worker.backends.places import Places
from worker.job import FAULT, Run, Tools
from worker.outbox import Line, Outbox
from worker.ratios import Observer

SETTINGS = load_settings({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, {})
HALF = "\ud83d"
Play = Callable[[Emitter, Flush], None]


class Playing:
    """A backend that says what it was given to say."""

    def __init__(self, play: Play) -> None:
        self._play = play

    async def run(self, _call: Call, emit: Emitter, flush: Flush) -> Ending:
        self._play(emit, flush)
        return Ending("completed")


@pytest_asyncio.fixture
async def outbox(responses: Responses) -> AsyncIterator[Outbox]:
    async with Outbox(responses, PARTITION, WORKER) as outbox:
        yield outbox


async def execute(responses: Responses, outbox: Outbox, play: Play, *, stream: bool) -> tuple[Response, str]:
    """(what is stored, and the status that was logged) of a run."""
    request = Request(id=rid(1), created_at=1, model="m", stream=stream)
    emit = Emitter(draft(request))
    emit.created()
    opening, _ = emit.take_frames()
    emit.in_progress()
    begin, _ = emit.take_frames()
    frames = {"opening": opening, "begin": begin} if stream else {}
    claimed = await started(
        responses, stream=stream, request=msgspec.json.encode(request), items=b"[]",
        object=msgspec.json.encode(draft(request)), **frames,
    )  # fmt: skip
    store = Store(responses.client)
    places = Places(Slots(store), lease_s=5.0, renew_s=1.0)
    backends = Backends(SETTINGS.models, {"chat": Playing(play)}, Sealer([]), places)
    with capture_logs() as lines:
        async with Examiner() as examiner:
            tools = Tools(responses, outbox, backends, SETTINGS, Observer(Ratios(store)), examiner)
            await Run(claimed, tools).execute()
    found = await responses.read(rid(1), TENANT)
    assert found is not None
    (settled,) = [line["status"] for line in lines if line["event"] == "response.settled"]
    assert found.status == settled
    return msgspec.json.decode(found.object, type=Response), settled


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_settled(responses: Responses, outbox: Outbox, stream: bool) -> None:
    response, status = await execute(responses, outbox, lambda emit, _: emit.text("Hello"), stream=stream)
    assert (status, response.error) == ("completed", None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_what_ran_is_freed_at_once(responses: Responses, outbox: Outbox, stream: bool, fails: bool) -> None:
    def play(emit: Emitter, flush: Flush) -> None:
        emit.text("Hello")
        flush()
        if fails:
            raise UpstreamError("No.")

    with none_left(Run, Line, Emitter):
        await execute(responses, outbox, play, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
async def test_output_that_cannot_be_written_fails_at_once(responses: Responses, outbox: Outbox, stream: bool) -> None:
    def play(emit: Emitter, flush: Flush) -> None:
        emit.text("Hello")
        flush()
        emit.text(HALF)

    response, status = await execute(responses, outbox, play, stream=stream)
    assert status == "failed"
    assert response.error is not None
    assert response.error.message == FAULT
    texts = [
        part.text
        for item in response.output
        if isinstance(item, Message)
        for part in item.content
        if isinstance(part, OutputText)
    ]
    assert texts == (["Hello"] if stream else [])  # what was seen stays
