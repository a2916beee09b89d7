"""Hold the leases of this worker's runs, and find and settle what dead workers left."""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Literal, Protocol

import structlog

from shared.core.emitter import Ending
from shared.core.lifecycle import MAX_CRASHES
from shared.core.packing import pack_ended, pack_output
from shared.errors import StoreUnavailable
from shared.metrics import Report
from shared.settings import Settings
from shared.store.responses import Responses
from shared.store.rows import Reaped
from shared.store.takeover import read_log, settle_from_log
from shared.tasks import die_starved
from shared.wire.responses import ResponseError

REAP_LIMIT = 100
LAG_S = 0.5

log = structlog.get_logger()
StopReason = Literal["cancelled", "lost", "drain"]

REASONS: Mapping[str, Ending] = {
    "cancelled": Ending("cancelled"),
    "lost": Ending("failed", error=ResponseError("server_error", "The worker that ran this response was lost.")),
    "waited": Ending("failed", error=ResponseError("server_error", "No worker took this response in time.")),
}


class Held(Protocol):
    """What the lease needs of a run."""

    attempt: int

    @property
    def goes_on(self) -> bool: ...

    def stop(self, reason: StopReason) -> None: ...


class Leases:
    """The leases of one worker in one partition, and its look at everybody's."""

    def __init__(self, responses: Responses, partition: str, worker: str, settings: Settings) -> None:
        self.held: dict[str, Held] = {}
        self.draining = False
        """Told with the heartbeat."""
        self._responses = responses
        self._partition = partition
        self._worker = worker
        self._settings = settings
        self._taken: dict[str, int] = {}
        """What the reaper owns, with its attempt, until it is settled: renewed like a run."""
        self._to_pack: asyncio.Queue[str] = asyncio.Queue(REAP_LIMIT)

    def cancel(self, response_id: str, attempt: int) -> None:
        """A cancel call from a front end."""
        run = self.held.get(response_id)
        if run is not None and run.attempt == attempt:
            run.stop("cancelled")

    async def keep(self) -> None:
        """Renew every ``renew_s``, for ever. A refused renewal stops its run; a noted cancel too."""
        due, report = -math.inf, Report(time.monotonic)  # the first sign of life at once
        while True:
            due = max(due + self._settings.renew_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            if time.monotonic() - due > LAG_S:
                log.warning("loop.lagged", lag_s=round(time.monotonic() - due, 3))
            try:
                await self._renew()  # first: a sign of life that takes its time must not cost a lease
                fields: dict[str, int | bytes] = {
                    "held": len(self.held),
                    "slots": self._settings.worker_slots,
                    "draining": int(self.draining),
                }
                await self._responses.beat(f"rs:w:{self._worker}", fields | report.fields())
            except StoreUnavailable as error:
                log.warning("redis.unavailable", error=str(error), held=len(self.held))
            except MemoryError:
                die_starved()
            except Exception:  # whatever Redis answered: a worker that stopped renewing would lose all its runs
                log.exception("lease.failed", held=len(self.held))

    async def _renew(self) -> None:
        held = [(response_id, run.attempt) for response_id, run in self.held.items()] + list(self._taken.items())
        if not held:
            return
        words = await self._responses.renew(self._partition, self._worker, held, self._settings.lease_s)
        for (response_id, attempt), word in zip(held, words, strict=True):
            run = self.held.get(response_id)
            if word == "kept" or run is None or run.attempt != attempt:
                continue
            if word == "lost":
                log.warning("lease.lost", response_id=response_id, attempt=attempt)
            run.stop("lost" if word == "lost" else "cancelled")

    async def reap(self) -> None:
        """Look at what is due every ``reap_s``, for ever."""
        settings = self._settings
        while True:
            await asyncio.sleep(settings.reap_s)
            try:
                found = await self._responses.reap(
                    self._partition, self._worker, limit=REAP_LIMIT, lease_s=settings.lease_s,
                    max_queue_s=settings.max_queue_s, max_crashes=MAX_CRASHES,
                )  # fmt: skip
            except StoreUnavailable:
                continue
            except MemoryError:
                die_starved()
            except Exception:  # whatever Redis answered: the next look may fare better
                log.exception("reaper.failed")
                continue
            self._taken |= {each.id: each.attempt for each in found if each.what in ("settle", "empty")}
            for reaped in found:
                if reaped.what != "pack":
                    await self._take(reaped)
                elif not self._to_pack.full():  # else it comes again
                    self._to_pack.put_nowait(reaped.id)

    async def _take(self, reaped: Reaped) -> None:
        if reaped.what == "requeued":
            if reaped.reason == "waiting":
                log.info("response.reconciled", response_id=reaped.id)
            else:
                log.info("response.requeued", response_id=reaped.id, reason=reaped.reason)
            return
        try:
            ending, empty = REASONS[reaped.reason], reaped.what == "empty"
            word = await settle_from_log(
                self._responses, self._worker, reaped.id, reaped.attempt, ending, at=int(time.time()), empty=empty
            )
            log.warning("response.reaped", response_id=reaped.id, reason=reaped.reason, answer=word)
        except StoreUnavailable as error:  # when the lease is over, the next look takes it again
            log.warning("redis.unavailable", error=str(error), response_id=reaped.id)
        except MemoryError:
            die_starved()
        except Exception:  # a log that cannot be folded must not stop the reaper: the next look takes it again
            log.exception("reaper.failed", response_id=reaped.id)
        finally:
            self._taken.pop(reaped.id, None)

    async def pack(self) -> None:
        """Make ended responses small, one after the other, for ever."""
        while True:
            response_id = await self._to_pack.get()
            try:
                await self._pack(response_id)
            except StoreUnavailable:
                continue
            except MemoryError:
                die_starved()
            except Exception:  # one log that cannot be packed stays as it is; the others are packed
                log.exception("reaper.failed", response_id=response_id)

    async def _pack(self, response_id: str) -> None:
        ended = await self._responses.read(response_id, "")
        if ended is None:
            return
        frames = await read_log(self._responses, response_id) if ended.stream else b""
        if frames:
            packed, makes_object = await asyncio.to_thread(pack_ended, frames, ended.object)
            await self._responses.pack(response_id, log=packed, makes_object=makes_object)
        else:
            packed = await asyncio.to_thread(pack_output, ended.object)
            await self._responses.pack(response_id, output=packed)
        before_bytes = len(frames) + len(ended.object)
        log.debug("response.packed", response_id=response_id, before_bytes=before_bytes, after_bytes=len(packed))
