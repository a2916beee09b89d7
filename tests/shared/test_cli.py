import asyncio
import io
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from aiohttp import web

from shared.checkup import examine, exit_code
from shared.cli import run
from shared.client import RETRIES, Screen, Stream, Unreachable, connect, judge
from shared.reachability import Row
from shared.settings import CONVENTIONAL
from shared.store.checks import Finding, assess
from shared.supervisor import valkey_binary

ROOT = Path(__file__).parents[2]
LIMIT_S = 20
ID = "resp_00abc"


def response(status: str = "completed", **more: object) -> dict[str, object]:
    return {"id": ID, "object": "response", "status": status, "output": [], "error": None} | more


def frame(number: int, kind: str, **fields: object) -> bytes:
    body = {"type": kind, "sequence_number": number, **fields}
    return f"event: {kind}\ndata: {json.dumps(body)}\n\n".encode()


EVENTS = [
    frame(0, "response.created", response=response("queued")),
    frame(1, "response.reasoning_text.delta", delta="Hm."),
    frame(2, "response.output_text.delta", delta="Hel"),
    frame(3, "response.output_text.delta", delta="lo"),
    frame(4, "response.output_item.done", item={"type": "message", "content": []}),
    frame(5, "response.output_item.done", item={"type": "function_call", "name": "f", "arguments": "{}"}),
    frame(6, "response.completed", response=response()),
]
DONE = b"data: [DONE]\n\n"
SHOWN = "Hello\nf({})\n"

Play = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


async def unavailable(request: web.Request, reply: web.StreamResponse) -> None:
    raise web.HTTPServiceUnavailable


class Server:
    """Answers like the real one, and plays a part of a script for each stream that is asked for."""

    def __init__(self, *parts: Play) -> None:
        self.parts = list(parts)
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.models = ["m1", "m2"]
        self.states: list[str] = []
        """In which the response is when it is asked for; behind them it is in_progress."""
        self.streaming = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        if request.headers.get("Authorization") == "Bearer bad":
            return web.json_response(
                {"error": {"message": "Bad key.", "type": "t", "param": None, "code": None}}, status=401
            )
        if request.path == "/v1/models":
            rows = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in self.models]
            return web.json_response({"object": "list", "data": rows})
        if request.path.endswith("/cancel"):
            return web.json_response(response("cancelled"))
        if request.method == "GET" and "stream" not in request.query:
            return web.json_response(response(self.states.pop(0) if self.states else "in_progress"), status=self.status)
        if request.method == "POST":
            self.bodies.append(await request.json())
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        if part is not unavailable:
            await reply.prepare(request)
        await part(request, reply)
        return reply

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)  # 0 means for ever
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def send(*data: bytes, cut: bool = False) -> Play:
    async def play(request: web.Request, reply: web.StreamResponse) -> None:
        await reply.write(b"".join(data))
        if cut:
            assert request.transport is not None
            request.transport.close()

    return play


def hang(server: "Server") -> Play:
    """Send the start, then hang until the client leaves."""

    async def play(request: web.Request, reply: web.StreamResponse) -> None:
        await reply.write(b"".join(EVENTS[:4]))
        server.streaming.set()
        await asyncio.Event().wait()

    return play


async def ask(server: Server, *, color: bool = False) -> tuple[Stream, str]:
    out = io.StringIO()
    async with server.serve() as url, asyncio.timeout(LIMIT_S), connect(url, None) as client:
        client.first_pause_s = 0
        stream = Stream(client, Screen(out, color=color), "", None)
        await stream.create({"model": "m", "input": "x", "stream": True})
    return stream, out.getvalue()


async def test_text_is_printed_as_it_comes() -> None:
    stream, text = await ask(Server(send(*EVENTS, DONE)))
    assert (text, stream.response_id, stream.after) == (SHOWN, ID, 6)
    assert stream.final is not None
    assert judge(stream.final) == 0


async def test_reasoning_is_dimmed_on_a_terminal() -> None:
    _, text = await ask(Server(send(*EVENTS, DONE)), color=True)
    assert text == click.style("Hm.", dim=True) + "\n" + SHOWN


@pytest.mark.parametrize("count", range(1, len(EVENTS)))
async def test_a_cut_stream_goes_on_behind_the_last_event(count: int) -> None:
    server = Server(send(*EVENTS[:count], EVENTS[count][:9], cut=True), send(*EVENTS[count:], DONE))
    _, text = await ask(server)
    assert text == SHOWN
    assert server.asked == ["POST /v1/responses", f"GET /v1/responses/{ID}?stream=true&starting_after={count - 1}"]


async def test_an_end_without_a_terminal_event_is_a_cut() -> None:
    _, text = await ask(Server(send(*EVENTS[:3]), send(*EVENTS[3:])))
    assert text == SHOWN


async def test_a_server_that_is_coming_up_again_is_waited_for() -> None:
    server = Server(send(*EVENTS[:3], cut=True), unavailable, unavailable, send(*EVENTS[3:]))
    _, text = await ask(server)
    assert text == SHOWN


async def test_retries_without_progress_are_bounded() -> None:
    server = Server(send(*EVENTS[:3]), send())
    with pytest.raises(Unreachable, match=f"respool watch {ID} --after 2 --url http://127.0.0.1:"):
        await ask(server)
    assert len(server.asked) == 1 + RETRIES + 1


async def test_a_cut_before_the_id_is_known_is_final() -> None:
    server = Server(send(cut=True))
    with pytest.raises(Unreachable):
        await ask(server)
    assert len(server.asked) == 1


async def test_what_is_no_event_is_told() -> None:
    with pytest.raises(click.ClickException, match="no event"):
        await ask(Server(send(b"data: <html>\n\n")))


@pytest.mark.parametrize(
    ("status", "more", "message"),
    [
        ("failed", {"error": {"code": "server_error", "message": "Out."}}, "failed: Out."),
        ("cancelled", {}, "was cancelled"),
    ],
)
def test_the_end_decides_the_exit_code(status: str, more: dict[str, object], message: str) -> None:
    with pytest.raises(click.ClickException, match=message) as caught:
        judge(json.dumps(response(status, **more)).encode())
    assert caught.value.exit_code == 1
    assert judge(json.dumps(response("incomplete")).encode()) == 0


async def respool(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.cli", *arguments, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def finished(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_ask_from_the_command_line() -> None:
    server = Server(send(*EVENTS, DONE))
    async with server.serve() as url:
        told = "model: m1 (another with --model NAME; there are m2)\n"
        assert await finished(await respool("ask", "Hi", "--url", url)) == (0, SHOWN, told)
        code, out, err = await finished(await respool("ask", "Hi", "--model", "m2", "--json", RESPOOL_URL=url))
        assert (code, json.loads(out), err) == (0, response(), "")
    assert server.bodies == [
        {"model": name, "input": "Hi", "stream": True, "background": False} for name in ("m1", "m2")
    ]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "model: m1 (another with --model NAME)\n"),  # patterns are not listed: there may be others
        (11, "model: m1 (another with --model NAME; there are m2, m3, m4, m5, m6, m7, m8, m9, and 2 more)\n"),
    ],
)
async def test_ask_says_which_model_it_took(count: int, told: str) -> None:
    server = Server(send(*EVENTS, DONE))
    server.models = [f"m{number}" for number in range(1, count + 1)]
    async with server.serve() as url:
        assert await finished(await respool("ask", "Hi", "--url", url)) == (0, SHOWN, told)


async def test_blanks_around_address_and_key_do_not_count() -> None:
    """As where they come from a file with a line end."""
    server = Server()
    async with server.serve() as url:
        given = {"RESPOOL_URL": f" {url}/\n", "RESPOOL_API_KEY": "sk-1\r\n"}
        assert (await finished(await respool("get", ID, **given)))[0] == 0
        code, _, err = await finished(await respool("get", ID, "--url", url, "--key", "sk\n1"))
    assert (code, "sk" in err.replace("--key", "")) == (2, False)
    assert "characters that a header cannot carry" in err


async def test_watch_get_and_cancel() -> None:
    server = Server(send(*EVENTS[3:], DONE))
    async with server.serve() as url:
        assert await finished(await respool("watch", ID, "--after", "2", "--url", url)) == (0, "lo\nf({})\n", "")
        code, out, _ = await finished(await respool("get", ID, "--url", url))
        assert (code, json.loads(out)["status"]) == (0, "in_progress")
        code, out, _ = await finished(await respool("cancel", ID, "--url", url))
        assert (code, json.loads(out)["status"]) == (0, "cancelled")
        code, _, err = await finished(await respool("get", ID, "--url", url, "--key", "bad"))
        assert (code, err) == (1, "Error: Bad key. Give a key with --key or RESPOOL_API_KEY.\n")
    assert server.asked[0] == f"GET /v1/responses/{ID}?stream=true&starting_after=2"


async def test_get_waits_for_the_end() -> None:
    server = Server()
    server.states = ["queued", "in_progress", "completed"]
    async with server.serve() as url:
        code, out, _ = await finished(await respool("get", ID, "--wait", "--url", url))
    assert (code, json.loads(out)["status"]) == (0, "completed")
    assert server.asked == [f"GET /v1/responses/{ID}", *2 * [f"GET /v1/responses/{ID}?wait=20"]]


@pytest.mark.parametrize(
    "arguments", [["ask", "Hi"], ["ask", "Hi", "--model", "m"], ["get", ID], ["cancel", ID], ["watch", ID]]
)
@pytest.mark.parametrize(("body", "kind"), [("<html>", "text/html"), ("[1, 2]", "application/json")])
async def test_a_server_of_another_kind_is_told(arguments: list[str], body: str, kind: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type=kind)

    server = Server()
    server.handle = answer  # type: ignore[method-assign]  # another server at the same place
    async with server.serve() as url:
        code, out, err = await finished(await respool(*arguments, "--url", url))
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: HTTP 200 from 127\.0\.0\.1:\d+, .* is this a Responses API server\?\n", err)


@pytest.mark.parametrize("background", [True, False])
async def test_ctrl_c(background: bool) -> None:
    server = Server()
    server.parts = [hang(server)]
    async with server.serve() as url:
        process = await respool("ask", "Hi", "--url", url, *(["--background"] if background else []))
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            await server.streaming.wait()
            assert await process.stdout.readexactly(5) == b"Hello"
        process.send_signal(signal.SIGINT)
        code, _, err = await finished(process)
    assert code == 130
    assert [each for each in server.asked if "/cancel" in each] == []  # the hang-up cancels what is in the foreground
    where = f"--url {url.removesuffix('/v1')}"
    told = f"{ID} goes on. See the rest: respool watch {ID} --after 3 {where}\nStop it: respool cancel {ID} {where}\n"
    assert (told in err) == background


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "Usage"),
        (["--nope"], 2, "No such option"),
        (["get"], 2, "Missing argument"),
        (["get", ID, "--url", "http://127.0.0.1:1"], 69, "start one with `respool up`"),
        (["watch", ID, "--url", "http://127.0.0.1:1"], 69, "start one with `respool up`"),
        (["get", ID, "--url", "127.0.0.1:1"], 2, "it begins with http:// or https://"),
        (["up", "--host", "0.0.0.0", "--port", "0"], 78, "no keys are configured"),
        (["up", "--config", "/nowhere"], 78, "RESPOOL_CONFIG: /nowhere cannot be read"),
        (["up", "--redis-url", "unix:///nowhere", "--port", "0"], 69, "unix:///nowhere does not answer"),
        (["check", "--redis-url", "unix:///nowhere"], 69, "unix:///nowhere does not answer"),
        (["version"], 0, ""),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RESPOOL_CONFIG", "OPENAI_BASE_URL", "OPENAI_API_KEY", *CONVENTIONAL.values()):
        monkeypatch.delenv(name, raising=False)
    assert run(arguments) == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
    assert "Traceback" not in printed.out + printed.err


async def test_messages_name_the_command_as_it_was_called() -> None:
    for told, name in (("", "respool"), ("./dev", "./dev")):
        _, _, err = await finished(await respool("get", ID, "--url", "http://127.0.0.1:1", RESPOOL_COMMAND=told))
        assert f"start one with `{name} up`" in err
        _, out, _ = await finished(await respool("get", "--help", RESPOOL_COMMAND=told))
        assert f"Usage: {name} get [OPTIONS]" in out


async def test_version_is_quick() -> None:
    """Lazy imports are kept: the slow libraries are not loaded for it."""
    heavy = {"aiohttp", "redis", "arq", "structlog", "api", "worker"}
    source = f"import sys; from shared.cli import run; run(['version']); print(sorted({heavy} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, env={"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, out, _ = await finished(process)
    assert out.splitlines()[-1] == "[]"


LONG_LIST = json.dumps({"data": [{"id": f"other-{number}"} for number in range(100_000)]})
"""It comes in many pieces."""


@asynccontextmanager
async def backend(status: int, body: str) -> AsyncIterator[str]:
    async def models(request: web.Request) -> web.Response:
        good = request.headers.get("Authorization") == "Bearer sk-good"
        return web.Response(status=status if good else 401, text=body)

    app = web.Application()
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "key", "state", "said"),
    [
        (200, '{"data": [{"id": "gpt"}]}', "sk-good", "ok", ""),
        (200, '{"data": [{"id": "other"}]}', "sk-good", "warning", "does not list a model gpt"),
        (200, LONG_LIST, "sk-good", "warning", "does not list a model gpt"),
        (200, "<html>", "sk-good", "ok", ""),
        (404, "", "sk-good", "warning", "gives 404"),
        (200, "", "sk-bad", "error", "refuses the key in GPT_KEY"),
    ],
)
async def test_check_asks_the_backends(tmp_path: Path, status: int, body: str, key: str, state: str, said: str) -> None:
    async with backend(status, body) as url:
        file = tmp_path / "c.toml"
        file.write_text(f'[models.gpt]\ndialect = "chat"\nbase_url = "{url}"\nkey_env = "GPT_KEY"\n')
        rows = await examine({"RESPOOL_CONFIG": str(file), "GPT_KEY": key})
    row = rows[-1]
    assert (row.part, row.state) == ("models.gpt", state)
    assert said in row.message
    assert "sk-" not in str(rows)


async def test_check_says_that_an_address_lacks_v1() -> None:
    async with backend(200, '{"data": []}') as url:
        rows = await examine({"OPENAI_BASE_URL": url.removesuffix("/v1"), "OPENAI_API_KEY": "sk-good"})
    where = url.removesuffix("/v1")
    assert rows[-1] == Row("models.*", "error", f"{where} is not the whole address: base_url must be {url}")


@pytest.mark.parametrize(
    ("host", "more", "state", "said"),
    [
        ("127.0.0.1", "allow_private = true", "ok", ""),
        ("127.0.0.1", "", "error", "allow_private = true"),
        ("no-such-host.invalid", "", "unreachable", "cannot be reached"),
    ],
)
async def test_check_looks_at_webhooks(tmp_path: Path, host: str, more: str, state: str, said: str) -> None:
    secret = f"whsec_{'a' * 43}="
    async with backend(200, "") as url:
        place = url.replace("127.0.0.1", host)
        file = tmp_path / "c.toml"
        file.write_text(
            f'[[webhooks]]\nname = "ci"\nurl = "{place}/in-the-path?in=the-query"\nsecret_env = "HOOK"\n{more}\n'
        )
        rows = await examine({"RESPOOL_CONFIG": str(file), "HOOK": secret})
    assert (rows[-1].part, rows[-1].state) == ("webhooks.ci", state)
    assert said in rows[-1].message
    assert [text for text in (secret, "in-the-path", "the-query") if text in str(rows)] == []


async def test_check_looks_at_redis(tmp_path: Path) -> None:
    binary = valkey_binary()
    assert binary is not None
    path = tmp_path / "s"
    process = await asyncio.create_subprocess_exec(
        str(binary), "--port", "0", "--unixsocket", str(path), "--dir", str(tmp_path), "--save", "",
        "--maxmemory-policy", "allkeys-lru", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            while b"eady to accept connections" not in await process.stdout.readline():
                pass
        rows = await examine({"REDIS_URL": f"unix://{path}"})
    finally:
        process.terminate()
        await process.communicate()
    assert [(row.part, row.state) for row in rows if row.part == "redis"] == [("redis", "warning")] * 2
    assert exit_code(rows) == 0


def test_exit_code_of_check() -> None:
    ok, warning = Row("a", "ok", ""), Row("a", "warning", "")
    assert exit_code([ok, warning]) == 0
    assert exit_code([ok, Row("redis", "error", "")]) == 1
    assert exit_code([Row("redis", "error", ""), Row("m", "unreachable", "")]) == 69
    assert exit_code([Row("configuration", "error", "")]) == 78


GOOD_INFO = {"redis_version": "7.0.15", "aof_enabled": 1, "maxmemory_policy": "noeviction"}


@pytest.mark.parametrize(
    ("info", "config", "levels"),
    [
        (GOOD_INFO, {}, []),
        (GOOD_INFO, {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}, []),
        (GOOD_INFO | {"redis_version": "6.2.14"}, {}, ["error"]),
        (GOOD_INFO | {"redis_version": "8.2.0"}, {}, []),
        (GOOD_INFO | {"redis_version": "7.2.4", "valkey_version": "9.1.2"}, {}, []),
        (GOOD_INFO | {"redis_version": "7.2.4", "valkey_version": "7.1.0"}, {}, ["error"]),
        (GOOD_INFO | {"redis_version": "unstable"}, {}, ["warning"]),
        (GOOD_INFO | {"aof_enabled": 0}, {}, ["warning"]),
        (GOOD_INFO, {"appendonly": "no"}, ["warning"]),
        (GOOD_INFO, {"appendfsync": "no"}, ["warning"]),
        (GOOD_INFO | {"maxmemory_policy": "volatile-lru"}, {}, ["warning"]),
        ({}, {}, ["warning"]),
    ],
)
def test_assess(info: dict[str, Any], config: dict[str, Any], levels: list[str]) -> None:
    findings = assess(info, config)
    assert [finding.level for finding in findings] == levels
    assert all(isinstance(finding, Finding) and finding.message for finding in findings)
