"""The arq worker, with claiming, running and ending of jobs replaced: no arq command runs per job.

arq gives the worker process, its signals and its queue layout. Its delivery is not strong enough (design, section 5):
here a claim is one script with a lease, a blocking bell (with a poll of 1 s as fallback) tells of new work, and what a
run leaves behind is decided by its lease.
"""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.exceptions import RedisError

from shared.errors import StoreUnavailable
from shared.store.commands import Commands, pack
from shared.store.redis import LOST, bell_key
from shared.store.rows import Claimed, Lane
from worker.job import Run, Tools
from worker.lease import Leases

CLAIM_MAX = 8
BELL_S = 1
BACKOFF_S = 0.5
BACKGROUND_SHARE = 4
"""Every so many claims look at the background lane first."""
LAST_WORDS_S = 10.0
"""How long stopped runs may take to settle or give back."""

log = structlog.get_logger()


async def respond(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:  # arq's signature
    """The name under which jobs stand in arq's queue. Never called: claimed responses are run by ``job.Run``."""


def plan_lanes(call: int) -> tuple[Lane, Lane]:
    """Foreground first, with a guaranteed share for background."""
    return ("background", "foreground") if call % BACKGROUND_SHARE == 0 else ("foreground", "background")


class ResponseWorker(Worker):
    """Runs responses of one partition until a signal: the first one drains, the second one stops at once."""

    def __init__(self, tools: Tools, leases: Leases, bell: Commands, partition: str, name: str) -> None:
        """*bell* is a connection of its own: it waits there."""
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._freed = asyncio.Event()
        self._tools = tools
        self._leases = leases
        self._bell = bell
        self._partition = partition
        self._name = name
        self._call = 0
        self._unanswered = False
        """What the last claim took, if anything, is not known."""
        self._runs: dict[Run, asyncio.Task[None]] = {}
        self._pause: asyncio.Future[Any] | None = None
        super().__init__(
            functions=[func(respond, name="respond")],
            queue_name=f"arq:queue:{{{partition}}}:foreground",
            redis_pool=ArqRedis(connection_pool=tools.responses.client.connection_pool),
            max_jobs=tools.settings.worker_slots,
        )

    def handle_sig(self, signum: signal.Signals) -> None:
        if self._stopping.is_set():
            self._at_once.set()
        log.info("process.draining", signal=signal.Signals(signum).name, runs=len(self._runs))
        self._stop_claiming()

    def drain(self) -> None:
        """An operator asks for it, perhaps again: that is no second signal."""
        if not self._stopping.is_set():
            log.info("process.draining", signal="", runs=len(self._runs))
            self._stop_claiming()

    def _stop_claiming(self) -> None:
        self._leases.draining = True
        self.allow_pick_jobs = False
        self._stopping.set()
        if self._pause is not None:
            self._pause.cancel()

    async def main(self) -> None:
        while self.allow_pick_jobs:
            await self._poll_iteration()
        if self._unanswered:
            await self._ask_again()
        await self._drain()

    async def _poll_iteration(self) -> None:
        """Claim and start what waits, or wait for a slot, the bell or a signal."""
        free = self.max_jobs - len(self._runs)
        if free <= 0:
            self._freed.clear()
            await self._unless_stopping(self._freed.wait())
            return
        try:
            wanted = min(free, CLAIM_MAX)
            claimed = await self._claim(wanted)
            for each in claimed:
                self._start(each)
            if len(claimed) < wanted:  # the lanes are empty, and the next submit rings
                await self._unless_stopping(self._wait_for_bell())
        except (StoreUnavailable, RedisError, *LOST) as error:
            log.warning("redis.unavailable", error=str(error), claim=self._call + 1)
            await self._unless_stopping(asyncio.sleep(BACKOFF_S))

    async def _claim(self, slots: int) -> Sequence[Claimed]:
        """A claim that failed is repeated under its number: responses that it took are not stranded."""
        number = self._call + 1
        self._unanswered = True
        claimed = await self._tools.responses.claim(
            self._partition, self._name, number,
            slots=slots, lease_s=self._tools.settings.lease_s, lanes=plan_lanes(number),
        )  # fmt: skip
        self._call, self._unanswered = number, False
        return claimed

    async def _ask_again(self) -> None:
        """What the last claim took is run or given back by the drain, not left to its lease: that would count as a crash."""
        try:
            for each in await self._claim(0):
                self._start(each)
        except (StoreUnavailable, RedisError, *LOST) as error:
            log.warning("redis.unavailable", error=str(error), claim=self._call + 1)

    def _start(self, claimed: Claimed) -> None:
        older = self._leases.held.get(claimed.id)
        if older is not None and older.goes_on and older.attempt == claimed.attempt:
            return  # Redis has lost that we took it: the run goes on, and its line says again what was lost with it
        if older is not None:  # it was put back while we ran it, and has come to us again
            older.stop("lost")
        run = Run(claimed, self._tools)
        self._leases.held[claimed.id] = run
        task = asyncio.create_task(run.execute(), name=claimed.id)
        self._runs[run] = task

        def ended(_: "asyncio.Task[None]") -> None:
            del self._runs[run]
            if self._leases.held.get(claimed.id) is run:
                del self._leases.held[claimed.id]
            self._freed.set()

        task.add_done_callback(ended)

    async def _wait_for_bell(self) -> None:
        try:
            await self._bell.send(pack("BLPOP", bell_key(self._partition), BELL_S))
        except asyncio.CancelledError:
            await self._bell.aclose()  # or the next token would still be given to us
            raise

    async def _unless_stopping(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait; a signal ends that. The signal's handler cancels the task."""
        if self._stopping.is_set():
            waiting.close()
            return
        self._pause = asyncio.ensure_future(waiting)
        try:
            await self._pause
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise

    async def _drain(self) -> None:
        """Let runs finish for ``drain_s``; then give back what nobody has seen, and fail the rest."""
        at_once: asyncio.Future[Any] = asyncio.ensure_future(self._at_once.wait())
        everything: asyncio.Future[Any] = asyncio.gather(*self._runs.values())
        drain_s = self._tools.settings.drain_s
        await asyncio.wait([at_once, everything], timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        for run in list(self._runs):
            if at_once.done() or not run.must_finish:
                run.stop("drain")
        must_finish = any(run.must_finish for run in self._runs) and not at_once.done()
        await asyncio.wait(
            [at_once, everything], timeout=None if must_finish else LAST_WORDS_S, return_when=asyncio.FIRST_COMPLETED
        )
        for run in list(self._runs):
            run.stop("drain")
        await asyncio.wait([everything], timeout=LAST_WORDS_S)
        at_once.cancel()

    async def close(self) -> None:
        """Nothing to close: the pools belong to ``worker.main``."""
