"""One claimed response, from claim to settled outcome.

claim -> history loaded -> backend called -> events to the line -> settled. Whoever stops a run gives the reason:
``cancelled`` (settle as cancelled, with what there is), ``drain`` (give back if nobody has seen output, else fail),
``lost`` (another worker owns it: touch nothing).
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import structlog

from shared.core.emitter import Emitter, Ending
from shared.core.frames import render
from shared.core.responses import draft
from shared.errors import StoreUnavailable, UpstreamError
from shared.examiner import Examiner, TooCostly
from shared.logs import bound
from shared.metrics import FIRST, QUEUED, RUN, TOKENS, labelled
from shared.settings import Settings
from shared.store.parts import encode_ended
from shared.store.responses import Responses
from shared.store.rows import Claimed
from shared.store.takeover import settle_from_log
from shared.tasks import die_starved
from shared.wire.items import Item
from shared.wire.requests import Request
from shared.wire.responses import Response, ResponseError, Usage
from worker.backends.base import Backends, Route, Wait
from worker.context import read_context
from worker.enforcement import TOO_COSTLY, find_breach, plan_repair
from worker.lease import StopReason
from worker.outbox import Outbox, Refusal
from worker.patience import Patience, Pause
from worker.ratios import Observer

MAX_RELEASES = 3
MAX_ATTEMPTS = 16
"""So many calls to backends are told of."""
LARGE_BYTES = 256 << 10
"""Of output."""
FAULT = "The response could not be made, because of a fault in the server."
FOREGROUND_ADVICE = "The response took longer than {:g} s. Create it with background=true and poll or stream it."

log = structlog.get_logger()
_decode_request = msgspec.json.Decoder(Request).decode


@dataclass(frozen=True, slots=True)
class Tools:
    """What every run of a worker shares."""

    responses: Responses
    outbox: Outbox
    backends: Backends
    settings: Settings
    observer: Observer
    examiner: Examiner


class Released(Exception):
    """The response was given back: nothing is left to settle."""


class Run:
    """One execution of one response. ``execute`` never raises; it ends when the outcome is settled or not ours."""

    def __init__(self, claimed: Claimed, tools: Tools) -> None:
        self.attempt = claimed.attempt
        self._claimed = claimed
        self._tools = tools
        self._reason: StopReason | None = None
        self._work: asyncio.Task[Any] | None = None
        """What is to be cancelled: this run's task, while it works."""
        self._line = tools.outbox.line(claimed.id, claimed.attempt, claimed.seq, self._refused)
        self._patience = Patience(claimed.tries)
        self._repaired = False
        self._route: Route | None = None
        self._started = time.monotonic()
        self._first = True
        self._summary: dict[str, object] = {}
        """What the last line says of the run, as far as it is known: its model and tokens."""

    @property
    def goes_on(self) -> bool:
        """Nobody has told it to stop."""
        return self._reason is None

    @property
    def must_finish(self) -> bool:
        """It was given back so often that the next drain waits for its end, however long that takes."""
        return self._claimed.releases >= MAX_RELEASES

    @property
    def _shown(self) -> bool:
        """Whether somebody may have seen output."""
        return self._claimed.stream and self._emitter.number > self._claimed.seq

    @property
    def _attempts(self) -> str:
        """The calls to backends, of earlier executions too: the last ones, as the record keeps them."""
        before = self._claimed.attempts.split(",") if self._claimed.attempts else ()
        made = self._route.attempts if self._route else ()
        return ",".join([*before, *made][-MAX_ATTEMPTS:])

    def stop(self, reason: StopReason) -> None:
        """Stop the work. The first reason counts, but nothing is stronger than ``lost``."""
        if self._reason is None or reason == "lost":
            self._reason = reason
            work, self._work = self._work, None
            if work is not None:
                work.cancel()  # once: it is taken back once

    def _refused(self, refusal: Refusal) -> None:
        self.stop(refusal)

    async def execute(self) -> None:
        claimed = self._claimed
        if claimed.attempt == 1:
            QUEUED.observe(claimed.age_ms / 1000)
        about = {"response_id": claimed.id, "attempt": claimed.attempt, "request_id": claimed.request_id}
        with bound(**about, tenant_id=claimed.tenant):
            try:
                status = await self._execute()
                duration_s = time.monotonic() - self._started
                RUN.observe(duration_s)
                summary = {"duration_ms": round(duration_s * 1000), "attempts": self._attempts, **self._summary}
                if status == "lost":
                    log.info("response.dropped", **summary)
                else:
                    log.info("response.settled", status=status, **summary)
            except Released:
                log.info("response.released", reason=self._reason or "retry")
            except StoreUnavailable as error:  # the lease decides
                log.warning("redis.unavailable", error=str(error))
            except MemoryError:
                die_starved()
            except Exception:  # the entry of a job: a fault of ours must not end the worker; the lease decides
                log.exception("job.failed")
            finally:
                self._line.close()

    async def _execute(self) -> str:
        try:
            request = _decode_request(self._claimed.request)
        except msgspec.MsgspecError:
            # Written by a newer version, or damaged: no worker of ours can run it.
            log.exception("job.unreadable")
            ending = Ending("failed", error=ResponseError("server_error", "This response cannot be read back."))
            return await self._settle_from_log(ending)
        self._summary["model"] = request.model
        self._emitter = self._fresh(request)
        return await self._settle(await self._until_stop(request) or await self._after_stop())

    async def _until_stop(self, request: Request) -> Ending | None:
        """How the work ended, ``None`` when it was stopped."""
        self._work = task = asyncio.current_task()
        try:
            return await self._relay(request) if self._reason is None else None
        except asyncio.CancelledError:
            if self._reason is None or task is None:
                raise
            task.uncancel()
            return None
        finally:
            self._work = None

    def _fresh(self, request: Request) -> Emitter:
        claimed = self._claimed
        response = draft(request)
        response.status = "in_progress"
        flags = {"streaming": claimed.stream, "obfuscate": request.obfuscate}
        return Emitter(response, number=claimed.seq, next_item=request.items, **flags)

    async def _relay(self, request: Request) -> Ending:
        """Call the backend, again if need be, to the end of the answer."""
        if not request.generate:
            return Ending("completed")
        limit_s, advice = self._deadline(request)
        try:
            async with asyncio.timeout(limit_s):
                self._route = route = self._tools.backends.route(
                    request,
                    await read_context(self._claimed, request, self._tools.responses, self._tools.settings),
                    self._claimed.tenant,
                    self._claimed.request_id,
                    self._claimed.sticky,
                )
                while True:
                    try:
                        ending = await route.run(self._emitter, self._flush)
                        self._tools.observer.observe(request, route.items, ending.usage)
                        if ending.usage is not None:
                            labelled(TOKENS, "in").inc(ending.usage.input_tokens)
                            labelled(TOKENS, "out").inc(ending.usage.output_tokens)
                        repair = await self._hold_to(request, ending)
                        if not isinstance(repair, list):
                            return repair
                        route.extend(repair)
                    except UpstreamError as error:
                        if error.busy or self._shown or not (error.elsewhere and route.more):
                            pause = self._before_place() if error.busy else self._before_next_try(error, route)
                            if pause is None:
                                raise  # from here: a frame that holds an error and is held by it is garbage for long
                            await self._wait(pause)
                    if not route.more:
                        route.restart()
                    if not self._claimed.stream:
                        self._emitter = self._fresh(request)
        except UpstreamError as error:
            return Ending("failed", error=ResponseError(error.code, error.message))
        except TimeoutError:
            return _failed(advice)
        except Released:
            raise
        except MemoryError:
            die_starved()
        except Exception:  # the entry of a backend: a fault in it fails this response, with a trace in the log
            log.exception("job.failed")
            return _failed(FAULT)

    def _before_place(self) -> Pause | None:
        if self._claimed.age_ms > self._tools.settings.max_queue_s * 1000:
            return None
        return self._patience.before_place()

    def _before_next_try(self, error: UpstreamError, route: Route) -> Pause | None:
        tries = self._patience.tries + 1
        log.warning(
            "upstream.failed",
            base_url=route.base_url,
            code=error.code,
            error=error.message,
            tries=tries,
            attempts=[*route.attempts],
        )
        pause = self._patience.before_next_try(error, shown=self._shown)
        if pause is not None and not pause.released:
            log.info("upstream.retried", wait_s=round(pause.wait_s, 2), tries=tries)
        return pause

    async def _hold_to(self, request: Request, ending: Ending) -> Ending | list[Item]:
        """*ending*, a failed one when the answer does not meet the request's demands, or what is said to the model for
        one more answer: once, and only while nothing was shown."""
        if ending.status != "completed":
            return ending
        try:
            breach = await find_breach(request, self._emitter.close(), self._tools.examiner)
        except TooCostly:  # another answer would be no easier to judge
            log.warning("output.unfit", repaired=self._repaired, streaming=self._claimed.stream)
            return replace(ending, status="failed", error=ResponseError("server_error", TOO_COSTLY))
        if breach is None:
            return ending
        log.warning("output.unfit", repaired=self._repaired, streaming=self._claimed.stream)
        if self._repaired or self._claimed.stream:
            return replace(ending, status="failed", error=ResponseError("server_error", breach))
        self._repaired = True
        return plan_repair(breach, self._emitter.close())

    def _deadline(self, request: Request) -> tuple[float, str]:
        """Seconds that are left, and what to say when they are over."""
        settings = self._tools.settings
        if request.background or request.stream:
            return settings.max_run_s, f"The response took longer than {settings.max_run_s:g} s."
        left_s = max(0.0, settings.max_foreground_s - self._claimed.age_ms / 1000)
        return min(left_s, settings.max_run_s), FOREGROUND_ADVICE.format(settings.max_foreground_s)

    def _flush(self) -> Wait | None:
        if self._emitter.size_bytes > self._tools.settings.max_output_bytes:
            raise UpstreamError("The output is larger than this server's max_output_bytes.")
        frames, count = self._emitter.take_frames()
        if count:
            if self._first:
                self._first = False
                FIRST.observe(self._claimed.age_ms / 1000 + time.monotonic() - self._started)
            self._line.append(frames, count)
        return self._line.room if self._line.full else None

    async def _wait(self, pause: Pause) -> None:
        if pause.released:
            await self._release("retry", delay_s=pause.wait_s, tries=self._patience.tries)
        await asyncio.sleep(pause.wait_s)

    async def _release(self, why: Literal["drain", "retry"], *, delay_s: float = 0.0, tries: int = 0) -> None:
        """Give the response back. Returns only when that was refused."""
        try:
            word = await self._tools.responses.release(
                self._claimed.id,
                self._tools.outbox.worker,
                self.attempt,
                why,
                delay_s=delay_s,
                tries=tries,
                attempts=self._attempts,
            )
        except StoreUnavailable:
            word = "fenced"  # the lease runs out, and it is run again
        if word == "ok":
            raise Released
        self.stop("cancelled" if word == "cancelled" else "lost")

    async def _after_stop(self) -> Ending:
        if self._reason == "drain":
            if not self._shown:
                await self._release("drain", tries=self._claimed.tries)
            if self._reason == "drain":
                return _failed("The server was shut down before this response was complete.")
        return Ending("cancelled")

    async def _settle(self, ending: Ending) -> str:
        if self._reason == "lost":
            return "lost"
        if ending.usage is not None:
            self._summary |= _tokens(ending.usage)
        if self._tools.settings.legacy_usage and ending.usage is not None:
            ending = replace(ending, usage=ending.usage.with_legacy())
        try:
            response = self._emitter.end(ending, at=_now())
            last, count = self._say_last()
            body, output_bytes = encode_ended(response)
        except MemoryError:
            die_starved()
        except Exception:  # output that cannot be written: what was logged of it stays, and the rest is lost
            log.exception("job.failed")
            await self._line.drained()
            return await self._settle_from_log(_failed(FAULT))
        word = await self._line.settle(
            response.status, last, count, body=body, output_bytes=output_bytes, attempts=self._attempts
        )
        if word == "ok":
            return response.status
        if word == "lost":
            return "lost"
        return await self._settle_cancelled(response)

    def _say_last(self) -> tuple[bytes, int]:
        """What is left to be logged with the status, and how many events that is. The last ones repeat the whole output:
        where it is large each goes alone, so that a reader of the log never has to take them all at once."""
        if self._emitter.size_bytes <= LARGE_BYTES:
            return self._emitter.take_frames()
        frames = [render(event) for event in self._emitter.take()]
        for frame in frames[:-1]:
            self._line.append(frame, 1)
        return b"".join(frames[-1:]), len(frames[-1:])

    async def _settle_cancelled(self, response: Response) -> str:
        """The end came too late: a cancel had been noted. What was logged is kept; without a log, what there is."""
        if self._claimed.stream:
            return await self._settle_from_log(Ending("cancelled"))
        response = msgspec.structs.replace(
            response, status="cancelled", completed_at=None, error=None, incomplete_details=None
        )
        body, output_bytes = encode_ended(response)
        word = await self._line.settle(
            "cancelled", b"", 0, body=body, output_bytes=output_bytes, attempts=self._attempts
        )
        return "cancelled" if word == "ok" else "lost"

    async def _settle_from_log(self, ending: Ending) -> str:
        """The status; ``lost`` where it is another's by now."""
        tools = self._tools
        word = await settle_from_log(
            tools.responses, tools.outbox.worker, self._claimed.id, self.attempt, ending, at=_now()
        )
        if word == "cancelled" and ending.status != "cancelled":  # a cancel was noted: no other end is taken
            return await self._settle_from_log(Ending("cancelled"))
        return ending.status if word == "ok" else "lost"


def _failed(message: str) -> Ending:
    return Ending("failed", error=ResponseError("server_error", message))


def _tokens(usage: Usage) -> dict[str, object]:
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}


def _now() -> int:
    return int(time.time())
