"""Real processes on a real Valkey: front ends and workers of this checkout, started, killed and read by tests.

Each process logs JSON lines; ``await process.logged(event, **fields)`` waits for one. That is the signal that tests wait
for, instead of sleeping.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared.children import bound_to
from shared.supervisor import valkey_binary

ROOT = Path(__file__).parents[2]
START_S = 20.0


class Process:
    """One process and what it has logged."""

    proxied = False
    """Whether its Redis is behind a proxy; whoever starts it so notes it here."""

    def __init__(self, name: str, child: asyncio.subprocess.Process) -> None:
        self.name = name
        self.child = child
        self.lines: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._news = asyncio.Condition()
        self._over = False
        self._reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.child.pid

    async def _read(self) -> None:
        assert self.child.stdout is not None
        async for raw in self.child.stdout:
            line = raw.decode(errors="replace").rstrip()
            async with self._news:
                try:
                    self.lines.append(msgspec.json.decode(line))
                except msgspec.DecodeError:
                    self.text.append(line)
                self._news.notify_all()
        async with self._news:
            self._over = True
            self._news.notify_all()

    def find(self, event: str, **fields: object) -> list[dict[str, Any]]:
        wanted = {"event": event, **fields}
        return [line for line in self.lines if wanted.items() <= line.items()]

    async def logged(self, event: str, *, timeout_s: float = 10.0, count: int = 1, **fields: object) -> dict[str, Any]:
        """The *count*-th line with this event and these fields, as soon as it is there."""
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: self._over or len(self.find(event, **fields)) >= count)
            return self.find(event, **fields)[count - 1]
        except (TimeoutError, IndexError):
            raise AssertionError(f"{self.name} did not log {event} {fields}:\n{self.tail()}") from None

    def tail(self) -> str:
        return "\n".join([*self.text[-20:], *(str(line) for line in self.lines[-20:])])

    def send(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    async def ended(self, timeout_s: float = 15.0) -> int:
        async with asyncio.timeout(timeout_s):
            return await self.child.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        await self.child.wait()
        await self._reader

    async def terminate(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, and wait for the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.child.terminate()
        code = await self.ended(timeout_s)
        await self._reader
        return code


class FrontEnd(Process):
    origin = ""
    """``http://127.0.0.1:PORT``"""


class Cluster:
    """A Valkey with any number of front ends and workers. Models come from *config* (TOML) or the environment."""

    def __init__(self, env: Mapping[str, str] | None = None, config: str = "") -> None:
        self.env = dict(env or {})
        self.config = config
        self.processes: list[Process] = []
        self.front_ends: list[FrontEnd] = []
        self.workers: list[Process] = []

    async def __aenter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="respool-", dir="/tmp"))
        self.socket = self.folder / "valkey.sock"
        self.redis_url = f"unix://{self.socket}"
        (self.folder / "respool.toml").write_text(self.config)
        self.valkey = await self.start_valkey()
        self.redis = Redis.from_url(self.redis_url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.aclose()
        for process in reversed(self.processes):
            await process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def start_valkey(self, *wrapped_in: str) -> Process:
        """Start it (again), and wait until it answers. *wrapped_in* is a command that executes the rest of its line."""
        self.socket.unlink(missing_ok=True)
        command = [
            *wrapped_in, str(valkey_binary()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self.valkey = Process("valkey", await _spawn(command, {}))
        self.processes.append(self.valkey)
        client = Redis.from_url(self.redis_url)
        async with asyncio.timeout(START_S):
            while True:
                try:
                    await client.ping()
                    break
                except (RedisError, OSError):
                    await asyncio.sleep(0.01)
        await client.aclose()
        return self.valkey

    async def written(self) -> None:
        """Wait until all that Valkey has acknowledged is in its file: with ``everysec`` it waits for up to 2 s behind a
        slow disk. Until it is started again, it acknowledges nothing before that."""
        retry = Retry(NoBackoff(), 3)  # something else may cut the connection
        async with Redis.from_url(self.redis_url, retry=retry, retry_on_error=[RedisConnectionError]) as client:
            await client.config_set("appendfsync", "always")

    async def kill_valkey(self) -> None:
        await self.written()
        await self.valkey.kill()

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        base = {
            "REDIS_URL": self.redis_url, "HOST": "127.0.0.1", "PORT": "0", "LOG_FORMAT": "json",
            "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        if self.config:
            base["RESPOOL_CONFIG"] = str(self.folder / "respool.toml")
        return {"PATH": os.environ["PATH"], **base, **self.env, **more}

    async def start_front_end(self, *, program: Sequence[str] = ("-m", "api"), **env: str) -> FrontEnd:
        """A front end on a free port, ready to serve."""
        number = len(self.front_ends)
        child = await _spawn([sys.executable, *program], self._environment(env))
        front_end = FrontEnd(f"api {number}", child)
        self.processes.append(front_end)
        started = await front_end.logged("process.started", timeout_s=START_S)
        await front_end.logged("hub.connected", timeout_s=START_S)
        front_end.origin = f"http://127.0.0.1:{started['address'][1]}"
        self.front_ends.append(front_end)
        return front_end

    async def start_worker(self, *, program: Sequence[str] = ("-m", "worker"), **env: str) -> Process:
        """A worker that takes work."""
        worker = Process(
            f"worker {len(self.workers)}", await _spawn([sys.executable, *program], self._environment(env))
        )
        self.processes.append(worker)
        await worker.logged("process.started", timeout_s=START_S)
        self.workers.append(worker)
        return worker


async def _spawn(command: list[str], env: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command, env=dict(env), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 20,
        preexec_fn=bound_to(os.getpid()),  # a test run that is killed leaves nothing behind
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running(
    *, env: Mapping[str, str] | None = None, config: str = "", front_ends: int = 1, workers: int = 1
) -> AsyncIterator[Cluster]:
    """A cluster with so many processes of each room."""
    async with Cluster(env, config) as cluster:
        await asyncio.gather(
            *(cluster.start_front_end() for _ in range(front_ends)), *(cluster.start_worker() for _ in range(workers))
        )
        yield cluster


def chat_model(base_url: str, name: str = "*", **row: object) -> str:
    """TOML for a model table with one Chat Completions backend."""
    fields = {"dialect": "chat", "base_url": base_url, **row}
    lines = (f"{key} = {msgspec.json.encode(value).decode()}" for key, value in fields.items())
    return f'[models."{name}"]\n' + "\n".join(lines) + '\n[models.echo]\ndialect = "echo"\n'
