"""One call of a backend, without a queue around it."""

from shared.core.emitter import Emitter, Ending
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.seal import Sealer
from shared.settings import ModelRow
from shared.wire.items import Message, OutputText
from shared.wire.requests import Request
from shared.wire.responses import Response
from worker.backends.base import Call
from worker.backends.http import HttpBackend


async def answer(backend: HttpBackend, row: ModelRow) -> tuple[Response, UpstreamError | None]:
    """(what there is, and how it failed if it did)."""
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="m")
    emit = Emitter(draft(request))

    def flush() -> None:
        emit.take()

    call = Call(request, [Message("user", "x")], row, "req", Sealer([]).bind("us", "state"))
    try:
        return emit.end(await backend.run(call, emit, flush), at=2), None
    except UpstreamError as error:
        return emit.end(Ending("failed"), at=2), error


def text_of(response: Response) -> str:
    messages = [item for item in response.output if isinstance(item, Message)]
    return "".join(part.text for one in messages for part in one.content if isinstance(part, OutputText))
