import asyncio
import json
import os
import select
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from redis.asyncio import Redis

from shared.checkup import examine as check
from shared.errors import RespoolError
from shared.operating import examine
from shared.reachability import Row
from shared.supervisor import embedded_url, free_port, plan_valkey, valkey_binary

ROOT = Path(__file__).parents[2]
LIMIT_S = 20

# Stand-ins for the rooms: a front end that answers /ready, a worker that waits. MODE makes them misbehave.
API = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *args): pass
def stop(*_): print("drained", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
WORKER = """
import os, signal, sys
mode = os.environ.get("MODE", "")
if mode == "refuse": sys.exit(78)
if mode == "stubborn": signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("url", os.environ["REDIS_URL"], flush=True)
print("seal", os.environ.get("RESPOOL_SEAL_KEY_FILE"), flush=True)
while True: signal.pause()
"""
MAIN = f"""
import asyncio, os, sys
from shared import logs
from shared.config import load_settings
from shared.errors import RespoolError
from shared.operating import examine
from shared.supervisor import Supervisor
logs.configure("info", "json", room="up")
rooms = {{"api": [sys.executable, "-c", {API!r}], "worker": [sys.executable, "-c", {WORKER!r}]}}
async def main():
    settings = load_settings(os.environ, None)
    return await Supervisor(settings, os.environ, rooms=rooms, say=lambda text: print("said", *text.split(), flush=True)).run()
try:
    code = asyncio.run(main())
except RespoolError as error:
    print("failed", type(error).__name__, error, flush=True)
    code = 1
sys.exit(code)
"""


class Up:
    """A supervisor under test, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, wanted: Callable[[str], bool]) -> str:
        """The next line that is wanted."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            while data := await self.process.stdout.readline():
                self.lines.append(data.decode().rstrip())
                if wanted(self.lines[-1]):
                    return self.lines[-1]
        raise AssertionError(f"it ended without saying so: {self.lines}")

    async def text(self, start: str) -> str:
        return await self.line(lambda line: line.startswith(start))

    async def event(self, name: str, child: str) -> int:
        """Wait for a log line about a child; its pid."""

        def wanted(line: str) -> bool:
            return line.startswith("{") and (json.loads(line)["event"], json.loads(line).get("child")) == (name, child)

        return int(json.loads(await self.line(wanted))["pid"])

    async def pids(self) -> dict[str, int]:
        """Wait until everything is up; the children's pids."""
        await self.text("said Respool answers on")
        records = [json.loads(line) for line in self.lines if line.startswith("{")]
        return {record["child"]: record["pid"] for record in records if record["event"] == "child.started"}

    async def ended(self) -> int:
        async with asyncio.timeout(LIMIT_S):
            return await self.process.wait()


@asynccontextmanager
async def up(data: Path, **environ: str) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RESPOOL_DATA_DIR": str(data), "PORT": "0", "RESPOOL_DRAIN_S": "0.2", **environ},
    )  # fmt: skip
    try:
        yield Up(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def gone(pid: int) -> bool:
    """Wait for the end of a process that is no child of ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], LIMIT_S)[0])
    finally:
        os.close(handle)


async def redis_url(running: Up) -> str:
    told = [line for line in running.lines if line.startswith("url ")]
    return (told[0] if told else await running.text("url ")).removeprefix("url ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_up_and_drained(tmp_path: Path, number: signal.Signals, code: int) -> None:
    async with up(tmp_path / "data with space") as running:
        pids = await running.pids()
        assert set(pids) == {"valkey", "api", "worker"}
        async with Redis.from_url(await redis_url(running)) as client:
            config = await client.config_get("*")
        assert (config["appendonly"], config["appendfsync"], config["maxmemory-policy"]) == (
            "yes",
            "everysec",
            "noeviction",
        )
        assert (config["port"], config["save"], config["auto-aof-rewrite-min-size"]) == (
            "0",
            "",
            str(256 * 1024 * 1024),
        )
        running.process.send_signal(number)
        await running.text("drained")
        await running.event("child.exited", "valkey")
        assert await running.ended() == code
        assert all(gone(pid) for pid in pids.values())


@pytest.mark.parametrize("child", ["valkey", "api", "worker"])
async def test_a_killed_child_is_started_again(tmp_path: Path, child: str) -> None:
    async with up(tmp_path) as running:
        pids = await running.pids()
        url = await redis_url(running)
        async with Redis.from_url(url) as client:
            await client.set("kept", "yes")
        os.kill(pids[child], signal.SIGKILL)
        assert await running.event("child.exited", child) == pids[child]
        assert await running.event("child.restarted", child) != pids[child]
        running.process.terminate()
        assert await running.ended() == 143
    async with up(tmp_path) as running:
        await running.pids()
        async with Redis.from_url(await redis_url(running)) as client:
            assert await client.get("kept") == b"yes"


async def test_no_orphan_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    async with up(tmp_path, MODE="stubborn") as running:
        pids = await running.pids()
        running.process.kill()
        await running.ended()
        assert [name for name, pid in pids.items() if not gone(pid)] == []
    async with up(tmp_path) as running:  # and the folder is free again
        await running.pids()


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with up(tmp_path, MODE="stubborn", RESPOOL_DRAIN_S="600") as running:
        pids = await running.pids()
        running.process.terminate()
        await running.event("child.exited", "api")
        running.process.terminate()
        assert await running.ended() == 143
        assert gone(pids["worker"])


async def test_a_signal_during_the_start(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        pid = await running.event("child.started", "valkey")
        running.process.terminate()
        assert await running.text("said") == "said Stopping."
        assert await running.ended() == 143
        assert gone(pid)


async def test_a_backend_that_does_not_answer_is_told_behind_the_start(tmp_path: Path) -> None:
    async with up(tmp_path, OPENAI_BASE_URL="http://127.0.0.1:1/v1") as running:
        await running.pids()
        told = await running.text("said Notice")
        assert told.startswith("said Notice models.*: http://127.0.0.1:1/v1 does not answer: ")
        assert told.endswith("responses of these models may fail. Look again: respool check")
        assert "Start it (this server need not be started again), or correct its base_url" in told


async def test_the_names_that_a_backend_lists_are_told_behind_the_start(tmp_path: Path) -> None:
    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "qwen"}, {"id": "\x1b[2J"}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    async with up(tmp_path, OPENAI_BASE_URL=address) as running:
        assert '"model": "MODEL"' in await running.text("said Respool answers on")
        assert (await running.text("said Models")).startswith(
            f"said Models qwen (listed by {address}) Ask one: respool ask Hello --model qwen --url http://127.0.0.1:"
        )
    await runner.cleanup()


async def test_a_backend_that_is_slow_to_answer_holds_up_neither_start_nor_end(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with (
        server,
        up(tmp_path, OPENAI_BASE_URL=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as running,
    ):
        await running.pids()
        async with asyncio.timeout(LIMIT_S):
            await asked.wait()
        running.process.terminate()
        assert await running.ended() == 143
        assert not any(line.startswith("said Notice") for line in running.lines)


async def test_two_on_one_folder(tmp_path: Path) -> None:
    async with up(tmp_path) as first:
        await first.pids()
        async with up(tmp_path) as second:
            failed = await second.text("failed")
        assert "ConfigError" in failed
        assert f"another `respool up` is using {tmp_path}" in failed


async def test_a_room_that_refuses_its_configuration_ends_the_start(tmp_path: Path) -> None:
    async with up(tmp_path, MODE="refuse") as running:
        assert await running.text("failed") == (
            "failed ConfigError worker ended with exit code 78 while starting: see its messages above"
        )


async def test_a_given_redis_that_is_silent_is_never_replaced(tmp_path: Path) -> None:
    async with up(tmp_path, REDIS_URL=f"unix://{tmp_path}/none.sock") as running:
        assert (await running.text("failed")).startswith(
            f"failed StoreUnavailable REDIS_URL: unix://{tmp_path}/none.sock does not"
        )
    assert not (tmp_path / "appendonlydir").exists()


async def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with up(tmp_path / "file") as running:
        assert "RESPOOL_DATA_DIR" in await running.text("failed ConfigError")


async def test_valkey_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").touch()
    async with up(tmp_path) as running:
        failed = await running.text("failed StoreUnavailable")
        assert "valkey ended with exit code 1 while starting" in failed
        assert "append" in failed


async def test_deep_folders_have_their_socket_elsewhere(tmp_path: Path) -> None:
    data = tmp_path / ("deep" * 20) / ("deeper" * 10)
    async with up(data) as running:
        await running.pids()
        folder = Path((await redis_url(running)).removeprefix("unix://")).parent
        assert embedded_url(str(data)) == await redis_url(running)
        assert not folder.is_relative_to(tmp_path)
        assert folder.stat().st_mode & 0o777 == 0o700
        running.process.terminate()
        await running.ended()
        assert not folder.exists()
        assert embedded_url(str(data)) is None


def test_no_embedded_valkey_is_seen_in_the_folder_of_another_user(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "valkey.sock").touch()
    run.chmod(0)
    user = os.getuid()
    try:
        if user == 0:  # who may look everywhere
            os.setreuid(65534, 0)
        assert embedded_url(str(tmp_path)) is None
    finally:
        os.setreuid(user, user)
        run.chmod(0o700)


async def test_the_doctor_looks_at_the_embedded_valkey(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.pids()
        found = await examine({"RESPOOL_DATA_DIR": str(tmp_path)})
        assert [each.what for each in found] == ["no_workers", "no_front_ends"]  # the stand-ins do not sign


async def checked(data: Path) -> Row:
    """What `respool check` says of Redis."""
    (row,) = [row for row in await check({"RESPOOL_DATA_DIR": str(data)}) if row.part == "redis"]
    return row


async def test_check_looks_at_the_embedded_valkey_while_it_runs(tmp_path: Path) -> None:
    said = f"not checked: no REDIS_URL, so `respool up` starts the embedded Valkey in {tmp_path}"
    assert await checked(tmp_path) == Row("redis", "ok", said)
    async with up(tmp_path) as running:
        pids = await running.pids()
        assert await checked(tmp_path) == Row("redis", "ok", f"the embedded Valkey that runs in {tmp_path}")
        async with Redis.from_url(await redis_url(running)) as client:
            await client.config_set("maxmemory-policy", "allkeys-lru")
        warned = await checked(tmp_path)
        assert warned.state == "warning"
        assert "noeviction" in warned.message
        running.process.kill()
        assert gone(pids["valkey"])
    assert embedded_url(str(tmp_path)) is not None  # its socket is left
    assert await checked(tmp_path) == Row("redis", "ok", said)


async def test_check_says_that_the_embedded_valkey_is_silent(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        pids = await running.pids()
        os.kill(pids["valkey"], signal.SIGSTOP)
        silent = await checked(tmp_path)
    assert silent.state == "unreachable"
    assert silent.message.startswith(f"the embedded Valkey that runs in {tmp_path} does not answer")


def test_a_busy_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(RespoolError, match=f"PORT: {port} on 127.0.0.1 is in use: choose another with --port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(RespoolError, match=r"HOST: cannot listen on 192\.0\.2\.1"):
        free_port("192.0.2.1", 8080)


def test_the_wheel_has_a_server() -> None:
    binary = valkey_binary()
    assert binary is not None
    assert plan_valkey(binary, Path("/d"), Path("/s"), "always")[0] == str(binary)


async def told_seal_key(data: Path, **environ: str) -> str:
    async with up(data, **environ) as running:
        return (await running.text("seal ")).removeprefix("seal ")


def test_a_seal_key_is_made_once_and_only_for_the_embedded_valkey(tmp_path: Path) -> None:
    path = Path(asyncio.run(told_seal_key(tmp_path / "data")))
    key = path.read_text()
    assert path.parent == tmp_path / "data"
    assert len(key) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert Path(asyncio.run(told_seal_key(tmp_path / "data"))).read_text() == key
    assert asyncio.run(told_seal_key(tmp_path / "data", RESPOOL_SEAL_KEY="k" * 32)) == "None"


async def test_check_does_not_refuse_what_keys_in_a_valkey_at_rest_may_allow(tmp_path: Path) -> None:
    async def states() -> list[str]:
        rows = await check({"RESPOOL_DATA_DIR": str(tmp_path), "HOST": "0.0.0.0"})
        return [row.state for row in rows if row.part == "configuration"]

    assert await states() == ["error"]  # a new one has none
    async with up(tmp_path) as running:
        await running.pids()
        assert await states() == ["error"]  # one that runs is asked
    assert await states() == ["ok", "warning"]


async def test_check_says_that_an_absent_redis_may_hold_keys() -> None:
    rows = await check({"HOST": "0.0.0.0", "REDIS_URL": "redis://:secret@127.0.0.1:1/0"})
    states = [(row.part, row.state) for row in rows if row.part in ("configuration", "redis")]
    assert states == [("configuration", "ok"), ("configuration", "warning"), ("redis", "unreachable")]
    assert "secret" not in str(rows)
