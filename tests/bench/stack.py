"""What is measured, as processes: the simulated upstream, and `respool up` in front of it (with its embedded Valkey)."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
UPSTREAM = Path(__file__).with_name("upstream.py")
START_S, STOP_S = 30, 15
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
NAMES = {"-m\0api": "front end", "-m\0worker": "worker", "valkey-server": "Valkey", "shared.cli": "launcher"}


class Stack:
    """``direct`` and ``ours`` are the two base URLs, ``redis_url`` is our Valkey's. Data and logs lie in a folder that is
    removed at the end."""

    def __init__(self, rooms: int = 1) -> None:
        """*rooms*: how many front ends, and how many workers."""
        self._rooms = rooms

    async def __aenter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="respool-bench-"))
        self._children: list[asyncio.subprocess.Process] = []
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in reversed(self._children):
            if child.returncode is None:
                child.terminate()
                try:
                    await asyncio.wait_for(child.wait(), STOP_S)
                except TimeoutError:
                    child.kill()  # what it started is killed with it
                    await child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _start(self) -> None:
        upstream = await asyncio.create_subprocess_exec(
            sys.executable, UPSTREAM, "--port", "0", stdout=asyncio.subprocess.PIPE
        )
        self._children.append(upstream)
        assert upstream.stdout is not None
        self.direct = f"http://127.0.0.1:{int(await upstream.stdout.readline())}/v1"
        port = _free_port()
        settings = {
            "OPENAI_BASE_URL": self.direct, "OPENAI_API_KEY": "sk-bench", "HOST": "127.0.0.1", "PORT": str(port),
            "RESPOOL_DATA_DIR": str(self.folder / "data"), "RESPOOL_DURABILITY": "everysec", "LOG_FORMAT": "json",
            "RESPOOL_MAX_QUEUE": "50000",
        }  # fmt: skip
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": path, **settings}  # nothing else of this shell's settings
        with (self.folder / "log").open("wb") as log:
            up = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "shared.cli", "up", "--api", str(self._rooms), "--workers", str(self._rooms),
                cwd=self.folder, env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._children.append(up)
        self.ours = f"http://127.0.0.1:{port}/v1"
        self.redis_url = f"unix://{self.folder / 'data' / 'run' / 'valkey.sock'}"
        try:
            async with asyncio.timeout(START_S):
                while b"Respool answers on" not in (self.folder / "log").read_bytes():
                    if up.returncode is not None:
                        raise TimeoutError
                    await asyncio.sleep(0.05)
        except TimeoutError:
            sys.exit(f"bench: `respool up` did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
        self._pids = _descendants(up.pid)

    def pid(self, name: str) -> int:
        return self._pids[name]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far by each of our processes; empty where there is no /proc."""
        return {name: _cpu_s(pid) for name, pid in self._pids.items()}

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory of each of our processes."""
        return {name: int(_proc(pid, "statm").split()[1]) * PAGE_BYTES for name, pid in self._pids.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _proc(pid: int, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text()


def _descendants(root: int) -> dict[str, int]:
    """Name -> process id of *root* and its children."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid = int(stat.parent.name)
            if root in (pid, int(stat.read_text().rsplit(")", 1)[1].split()[1])):
                command = _proc(pid, "cmdline")
                name = next((name for part, name in NAMES.items() if part in command), str(pid))
                found[name if name not in found else f"{name} {pid}"] = pid
    return found


def _cpu_s(pid: int) -> float:
    """From the scheduler's own count in nanoseconds where there is one; else in ticks of 10 ms."""
    total_ns = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
    if total_ns:
        return total_ns / 1e9
    user, system = _proc(pid, "stat").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
