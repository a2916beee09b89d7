"""Schemas of strangers, examined where they can do no harm.

What a schema costs cannot be told by looking at it: a reference used twice at each of 30 levels, a pattern, or an ``enum``
against a large array are all it takes to keep a validator busy. So each server has a process for that
(``shared.schema_process``), in which every job has a limit of processor time that the kernel keeps. Its event loop only waits.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from shared.children import bound_to
from shared.schema_process import Job

COMPILE_S = 0.25
"""Of processor time for the schemas of one request: 256 KiB of ordinary ones take some 15 ms."""
VALUE_S = 1.0
"""Of processor time for one answer."""
STUCK_S = 30.0
"""So long may a job take by the clock, however busy the machine is."""
SOUND = 4096
"""So many schemas are remembered as good."""
TOO_COSTLY = {-signal.SIGPROF, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGTRAP}
"""How the process ends by a job: no time, no memory, or no stack left."""
COMMAND = (sys.executable, "-m", "shared.schema_process")
ROOT = Path(__file__).parents[1]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(str | None).decode


class TooCostly(Exception):
    """The job took more than it may. ``place`` is that of the schema which was being examined."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place


class Examiner:
    """Takes one job after the other. The process starts with the first one, and ends with this."""

    def __init__(self) -> None:
        self.waiting = 0
        """Jobs that are not done."""
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._sound: dict[bytes, None] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._kill()

    async def compile_fault(self, schemas: Sequence[str]) -> tuple[int, str] | None:
        """The place of the first of *schemas* that cannot be used, and why. Raises `TooCostly`."""
        keys = [sha256(text.encode()).digest() for text in schemas]
        places = [i for i, key in enumerate(keys) if key not in self._sound]
        if not places:
            return None
        try:
            verdicts = await self._do(Job([schemas[i] for i in places], COMPILE_S))
        except TooCostly as error:
            raise TooCostly(places[error.place]) from None
        for i, verdict in zip(places, verdicts, strict=True):
            if verdict is not None:
                return i, verdict
            self._sound[keys[i]] = None
        while len(self._sound) > SOUND:
            del self._sound[next(iter(self._sound))]
        return None

    async def value_fault(self, schema: str, value: str) -> str | None:
        """As in ``shared.core.schemas``. Raises `TooCostly`."""
        return (await self._do(Job([schema], VALUE_S, value)))[0]

    async def _do(self, job: Job) -> list[str | None]:
        line = _encode(job) + b"\n"
        self.waiting += 1
        code = None
        try:
            async with self._turn:
                for _ in range(2):  # one that was ended from outside says nothing about the job
                    verdicts = await self._try(line, len(job.schemas))
                    if len(verdicts) == len(job.schemas):
                        return verdicts
                    code = await self._wait()
                    if code in TOO_COSTLY:
                        raise TooCostly(len(verdicts))
                raise RuntimeError(f"the process that examines schemas ends by itself: {code}")
        finally:
            self.waiting -= 1

    async def _try(self, line: bytes, count: int) -> list[str | None]:
        """As many verdicts as there are before the process ends. It is ended when nothing comes, or nobody waits any more:
        whoever comes next shall not read what was meant for another."""
        verdicts: list[str | None] = []
        try:
            async with asyncio.timeout(STUCK_S):
                to, from_ = await self._streams()
                try:
                    to.write(line)
                    await to.drain()
                except ConnectionError:  # it has ended
                    return verdicts
                while len(verdicts) < count and (answer := await from_.readline()).endswith(b"\n"):
                    verdicts.append(_decode(answer))
                return verdicts
        except TimeoutError:
            await self._kill()
            raise TooCostly(len(verdicts)) from None
        except BaseException:
            await self._kill()
            raise

    async def _streams(self) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        if self._child is None:
            self._child = await asyncio.create_subprocess_exec(
                *COMMAND, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                start_new_session=True, preexec_fn=bound_to(os.getpid()),
            )  # fmt: skip
        to, from_ = self._child.stdin, self._child.stdout
        if to is None or from_ is None:
            raise RuntimeError("a process without the pipes that were asked for")
        return to, from_

    async def _wait(self) -> int | None:
        """How the process has ended: it has closed its output."""
        child, self._child = self._child, None
        return None if child is None else await child.wait()

    async def _kill(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.kill()
            await self._wait()
