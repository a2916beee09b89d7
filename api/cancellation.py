"""End a response early: one that nobody runs is settled at once, one that runs by its worker, or else from its log."""

import time

import msgspec
import structlog

from shared.core.emitter import Emitter, Ending
from shared.core.frames import render_all
from shared.core.lifecycle import TERMINAL
from shared.errors import Overloaded
from shared.hub import Hub, Reader
from shared.settings import Settings
from shared.store.responses import Responses
from shared.store.rows import Snapshot
from shared.store.takeover import settle_from_log
from shared.wire.responses import Response

FOLLOW_S = 1.0
"""How long a worker has to settle a response that was cancelled."""
MAX_ROUNDS = 20

log = structlog.get_logger()
_decode = msgspec.json.Decoder(Response).decode
_encode = msgspec.json.Encoder().encode


class Canceller:
    """Cancels responses, whoever runs them."""

    def __init__(self, responses: Responses, hub: Hub, settings: Settings) -> None:
        self._responses = responses
        self._hub = hub
        self._settings = settings

    async def cancel(self, response_id: str, tenant: str, ending: Ending | None = None) -> Snapshot | None:
        """The response once it has ended, however that came; ``None`` when there is no such response.

        *ending* (``cancelled`` unless given) only counts where nobody runs the response. Each round meets another
        state of the response; their number is bounded by its attempts.
        """
        ending = ending or Ending("cancelled")
        with self._hub.listen(response_id) as reader:
            for _ in range(MAX_ROUNDS):
                snapshot = await self._responses.read(response_id, tenant)
                if snapshot is None or snapshot.status in TERMINAL:
                    return snapshot
                frames, body = _render(snapshot, ending)
                word, detail = await self._responses.cancel(
                    response_id, tenant, self._hub.process,
                    seq=snapshot.seq, frames=frames, body=body, status=ending.status,
                )  # fmt: skip
                if word == "noted":
                    await self._settled(reader, response_id)
                log.debug("response.cancelled", response_id=response_id, answer=word, detail=detail)
        raise Overloaded("The response could not be cancelled right now. Please retry.", retry_after_s=1)

    async def _settled(self, reader: Reader, response_id: str) -> None:
        """Wait for the worker's settle notice; settle in its place if it does not follow."""
        deadline = time.monotonic() + FOLLOW_S
        while (left_s := deadline - time.monotonic()) > 0:
            heard = await reader.next(left_s)
            if heard is not None and heard.kind not in b"zs":
                continue
            snapshot = await self._responses.read(response_id, "")
            if snapshot is None or snapshot.status in TERMINAL:
                return
        attempt = await self._responses.take_over(response_id, self._hub.process, self._settings.lease_s)
        if attempt is not None:
            await settle_from_log(
                self._responses, self._hub.process, response_id, attempt, Ending("cancelled"), at=int(time.time())
            )


def _render(snapshot: Snapshot, ending: Ending) -> tuple[bytes, bytes]:
    """The last frames and the object of a response that nobody runs."""
    emitter = Emitter(_decode(snapshot.object), number=snapshot.seq, streaming=snapshot.stream)
    response = emitter.end(ending, at=int(time.time()))
    return render_all(emitter.take()), _encode(response)
