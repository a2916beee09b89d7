"""What a backend is, and the way of a response through those of its model."""

import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
import structlog

from shared.core import compaction
from shared.core.emitter import Emitter, Ending
from shared.core.fitness import misfits
from shared.core.window import drop_oldest
from shared.errors import StoreUnavailable, UpstreamError
from shared.metrics import CALLS, labelled
from shared.models import find_model
from shared.seal import Sealer
from shared.settings import ModelRow, without_password
from shared.wire.items import Item, StoredItem
from shared.wire.requests import Request
from worker.backends.health import Health, plan_order
from worker.backends.places import Places
from worker.translate.anthropic import AnthropicDialect
from worker.translate.chat import ChatDialect
from worker.translate.dialect import Dialect, State
from worker.translate.responses import ResponsesDialect

DIALECTS: Mapping[str, Dialect] = {
    "chat": ChatDialect(),
    "responses": ResponsesDialect(),
    "anthropic": AnthropicDialect(),
}
"""Those that are spoken over HTTP."""
STATE_KIND = "state"
"""What provider state is sealed as."""
Wait = Callable[[], Awaitable[None]]
Flush = Callable[[], Wait | None]
"""Hands over the events made so far; called after each read. What it answers is called and awaited before the next one: too
much is unflushed."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """One response to make: its request, its whole context in order, and where it goes."""

    request: Request
    items: Sequence[Item]
    row: ModelRow
    request_id: str
    state: State


class Backend(Protocol):
    """One dialect over one shell."""

    async def run(self, call: Call, emit: Emitter, flush: Flush) -> Ending:
        """Feed *emit* until the answer ends, and say how. Raises ``UpstreamError`` when it fails; closes its
        connection when it is cancelled."""
        ...


class Backends:
    """The model table with a backend behind each row, and what this worker knows of their health."""

    def __init__(
        self, models: Mapping[str, ModelRow], backends: Mapping[str, Backend], sealer: Sealer, places: Places
    ) -> None:
        """*backends* by the dialect of a row."""
        self._models = models
        self._backends = backends
        self._sealer = sealer
        self.places = places
        self.health: defaultdict[str, Health] = defaultdict(Health)

    def route(
        self, request: Request, stored: Sequence[StoredItem], tenant: str, request_id: str, sticky: str = ""
    ) -> "Route":
        """The way to the backends for one response; *sticky* is the one that the turn before has come from. Raises
        ``UpstreamError`` when there is none."""
        row = find_model(self._models, request.model, request.channel)
        if row is None:
            raise UpstreamError("This model is no longer configured.", code="server_error")
        items: Sequence[Item] | None = compaction.reveal(stored, self._sealer.bind(tenant, compaction.KIND).open)
        if items is None:
            message = (
                "A compaction item of this context can no longer be opened: RESPOOL_SEAL_KEY of the server has changed."
            )
            raise UpstreamError(message, code="invalid_prompt")
        targets = row.targets
        if len(targets) > 1:
            targets = tuple(target for target in targets if not any(misfits(request, (), stored, target.quirks)))
        call = Call(request, items, row, request_id, self._sealer.bind(tenant, STATE_KIND))
        return Route(self, targets or row.targets[:1], call, sticky)

    async def ask(self, call: Call, emit: Emitter, flush: Flush) -> Ending:
        return await self._backends[call.row.dialect].run(call, emit, flush)


class Route:
    """One response's way through the backends of its model. ``attempts`` tells of the calls that were made, each as
    ``backend:outcome:seconds``: the outcome is the status that the answer ended with, or failed, limited (429), refused
    (its request was at fault) or stopped (by us)."""

    def __init__(self, backends: Backends, targets: Sequence[ModelRow], call: Call, sticky: str) -> None:
        self.attempts: list[str] = []
        self.base_url = ""
        """Of the last one that was asked, as logs show it."""
        self._backends = backends
        self._targets = targets
        self._call = call
        self._sticky = sticky
        self._left: list[ModelRow] = []
        self.restart()

    @property
    def more(self) -> bool:
        """Whether there is a backend that was not asked in this round."""
        return bool(self._left)

    def restart(self) -> None:
        """Begin another round."""
        self._left = plan_order(self._targets, random.random, sticky=self._sticky)

    @property
    def items(self) -> Sequence[Item]:
        """What the model is told."""
        return self._call.items

    def extend(self, items: Sequence[Item]) -> None:
        """Add to what the model is told."""
        self._call = replace(self._call, items=[*self._call.items, *items])

    async def run(self, emit: Emitter, flush: Flush) -> Ending:
        """Ask the next backend that is up and has a place. Raises ``UpstreamError``."""
        busy, skipped, now = False, list[tuple[Health, ModelRow]](), time.monotonic()
        while self._left or skipped:
            if self._left:
                row = self._left.pop(0)
                health = self._backends.health[row.backend]
                if not health.takes(now):
                    skipped.append((health, row))
                    continue
            else:  # better one that is probably down than none
                health, row = min(skipped, key=lambda each: (each[0].rests_until > now, each[0].open_until))
                skipped.clear()
                if health.rests_until > now:
                    wait_s = health.rests_until - now
                    raise UpstreamError("The model's backends ask for time.", retryable=True, retry_after_s=wait_s,
                                        code="rate_limit_exceeded")  # fmt: skip
            if not row.max_concurrency:
                return await self._ask(row, health, emit, flush)
            try:
                async with self._backends.places.place(row) as taken:
                    if taken:
                        return await self._ask(row, health, emit, flush)
                    busy = True
            except StoreUnavailable as error:
                raise UpstreamError(
                    "The places of the backend cannot be counted.", retryable=True, busy=True
                ) from error
            if busy and not self._left:
                break
        raise UpstreamError("All places at the model's backends are taken.", retryable=True, busy=True)

    async def _ask(self, row: ModelRow, health: Health, emit: Emitter, flush: Flush) -> Ending:
        started, call = time.monotonic(), self._call
        health.asked()
        self.base_url = without_password(row.base_url)
        outcome = "stopped"
        try:
            call = Call(call.request, self._fitting(row), row, call.request_id, call.state)
            ending = await self._backends.ask(call, emit, flush)
            outcome = ending.status
            health.answered()
            return ending
        except UpstreamError as error:
            outcome = (
                "limited" if error.code == "rate_limit_exceeded" else "refused" if not error.elsewhere else "failed"
            )
            if health.failed(error, time.monotonic()):
                log.warning("backend.opened", backend=row.backend, open_s=health.open_s)
            raise
        finally:
            health.dropped()
            labelled(CALLS, row.backend, outcome).inc()
            self.attempts.append(f"{row.backend}:{outcome}:{time.monotonic() - started:.2f}")

    def _fitting(self, row: ModelRow) -> Sequence[Item]:
        request, items = self._call.request, self._call.items
        if request.truncation != "auto" or not row.context_tokens:
            return items
        reserved = len(request.instructions or "") + len(msgspec.json.encode(request.tools))
        return drop_oldest(items, row.context_tokens, reserved, request.max_output_tokens or 0)
