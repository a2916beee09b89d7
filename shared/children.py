"""A child process that is kept alive: started again with growing pauses when it ends, until it is stopped.

Children have sessions of their own, so that a terminal's Ctrl-C reaches only their parent, and on Linux the kernel
kills them when the parent dies.
"""

import asyncio
import ctypes
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from shared.store.processes import MARK

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
STEADY_S = 10.0  # a child that lived this long starts again at the first pause
HURRY_S = 3.0
PR_SET_PDEATHSIG = 1

log = structlog.get_logger()
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def bound_to(parent: int) -> Callable[[], None] | None:
    """What a child does before exec: ask to be killed when *parent* dies. Runs after fork, so it does next to nothing."""
    libc = _libc
    if libc is None:
        return None

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return bind


class Child:
    """One process that is kept alive until it is stopped."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        on_exit: Callable[["Child", int], None],
        *,
        inherited: Sequence[int] = (),
    ) -> None:
        self.name, self.runs = name, 0
        self.mark = ""
        """Another one for each start, which the process is told: none but that one has it."""
        self._command, self._environ, self._on_exit, self._inherited = command, environ, on_exit, inherited
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._keep())

    @property
    def pid(self) -> int | None:
        """While it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def _keep(self) -> None:
        clock, pause_s = asyncio.get_running_loop().time, FIRST_PAUSE_S
        while not self._stopping.is_set():
            began, code = clock(), 127
            try:
                self._process = await self._start()
            except OSError as error:
                log.error("child.exited", child=self.name, error=str(error))
            else:
                self.runs += 1
                if self.runs > 1:
                    log.warning("child.restarted", child=self.name, pid=self._process.pid)
                else:
                    log.info("child.started", child=self.name, pid=self._process.pid)
                code = await self._process.wait()
                tell = log.info if self._stopping.is_set() else log.warning
                tell("child.exited", child=self.name, pid=self._process.pid, exit_code=code)
            if not self._stopping.is_set():
                self._on_exit(self, code)
            pause_s = FIRST_PAUSE_S if clock() - began >= STEADY_S else pause_s
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _start(self) -> asyncio.subprocess.Process:
        self.mark = secrets.token_hex(8)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**self._environ, MARK: self.mark},
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._inherited,
            preexec_fn=bound_to(os.getpid()),
        )
        if self._stopping.is_set():
            process.terminate()
        return process

    async def stop(self, limit_s: float, hurry: asyncio.Event | None = None) -> None:
        """SIGTERM; a second one at once when *hurry* is set, so that it gives back what it holds; after *limit_s*
        seconds, or ``HURRY_S`` behind the second one, SIGKILL for it and what it started."""
        self._stopping.set()
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        impatient = asyncio.create_task((hurry or asyncio.Event()).wait())
        await asyncio.wait({self._task, impatient}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if impatient.done() and not self._task.done() and self._process:
            with suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait({self._task}, timeout=HURRY_S)
        impatient.cancel()
        if not self._task.done():
            self.kill()
        await self._task

    def kill(self) -> None:
        """SIGKILL for it and what it started; until it is stopped, that starts it again."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
