"""The `respool` command. It starts the rooms as processes and imports neither of them.

Commands import what they need when they run: `respool version` must not load aiohttp (0.4 s). Exit codes: 0, 1 failure,
2 usage, 69 Redis or the server does not answer, 78 bad configuration, 130 and 143 after a signal.
"""

import asyncio
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shared.errors import ConfigError, RespoolError, StoreUnavailable

if TYPE_CHECKING:
    from shared.client import Client, Stream

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Respool: a self-hosted server for the Responses API. Start everything with `respool up`."""


def _config(command: Command) -> Command:
    command = click.option("--redis-url", metavar="URL", help="redis://, rediss:// or unix://; instead of REDIS_URL.")(
        command
    )
    return click.option("--config", metavar="FILE", help="Configuration file; instead of RESPOOL_CONFIG.")(command)


def _data(command: Command) -> Command:
    text = "Folder of the embedded Valkey; instead of RESPOOL_DATA_DIR."
    return click.option("--data", metavar="DIR", help=text)(command)


def _address(command: Command) -> Command:
    command = click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; instead of PORT.")(command)
    return click.option("--host", help="Address to listen on; instead of HOST.")(command)


def _server(command: Command) -> Command:
    variables = ["RESPOOL_API_KEY", "OPENAI_API_KEY"]
    command = click.option("--key", envvar=variables, help=f"Key to send ({', '.join(variables)}).")(command)
    default = "http://127.0.0.1:8080"
    return click.option(
        "--url", envvar="RESPOOL_URL", default=default, show_default=True, help="The server (RESPOOL_URL)."
    )(command)


def _environ(**options: object) -> dict[str, str]:
    """This process's environment with the options laid over it."""
    names = {
        "config": "RESPOOL_CONFIG", "redis_url": "REDIS_URL", "data": "RESPOOL_DATA_DIR", "host": "HOST", "port": "PORT",
    }  # fmt: skip
    given = {names[option]: str(value) for option, value in options.items() if value is not None}
    dropped = {"REDIS_URL_FILE"} if "REDIS_URL" in given else set()
    return {name: value for name, value in os.environ.items() if name not in dropped} | given


@cli.command()
@_config
@_address
@_data
@click.option("--api", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of front ends.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of workers.")
def up(api: int, workers: int, **options: object) -> int:
    """Start everything: Redis (embedded, if none is given), front ends and workers."""
    from shared import logs
    from shared.config import load_settings, read_config
    from shared.supervisor import Supervisor

    environ = _environ(**options)
    settings = load_settings(environ, read_config(environ))
    logs.configure(settings.log_level, settings.log_format, room="up")

    async def supervise() -> int:
        say = lambda text: click.echo(text, err=True)  # noqa: E731 - standard output belongs to the logs
        return await Supervisor(settings, environ, api=api, workers=workers, say=say).run()

    return asyncio.run(supervise())


def _become(room: str, environ: dict[str, str]) -> None:
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", room], environ)  # noqa: S606 - ourselves, without a shell


@cli.command()
@_config
@_address
def api(**options: object) -> None:
    """Run one front end (`python -m api`)."""
    _become("api", _environ(**options))


@cli.command()
@_config
def worker(**options: object) -> None:
    """Run one worker (`python -m worker`)."""
    _become("worker", _environ(**options))


@cli.command()
@_config
@_data
@click.option("--model", metavar="NAME", help="Only this model: a few tiny calls show how its answers fit its profile.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(as_json: bool, model: str | None, **options: object) -> int:
    """Check the configuration, Redis and every backend, without starting anything."""
    import msgspec

    from shared.checkup import examine, exit_code

    rows = asyncio.run(examine(_environ(**options), model))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(rows), indent=2))
    else:
        colors = {"ok": "green", "warning": "yellow"}
        width = max(len(row.part) for row in rows)
        for row in rows:
            state = click.style(f"{row.state:<11}", fg=colors.get(row.state, "red"))
            click.echo(f"{row.part:<{width}}  {state}  {row.message}")
    return exit_code(rows)


@cli.command()
@_config
def prompts(**options: object) -> int:
    """List the templates behind `prompt`: name, version, variables; and what is wrong with any."""
    from pathlib import Path

    from shared.config import load_settings, read_config
    from shared.prompts import PromptUnreadable, list_prompts

    environ = _environ(**options)
    folder = load_settings(environ, read_config(environ)).prompts_dir
    if folder is None:
        raise ConfigError(["prompts_dir: is not set"])
    try:
        found = list(list_prompts(Path(folder)))
    except OSError as error:
        raise ConfigError([f"prompts_dir: {folder}: {error.strerror}"]) from error
    for file, prompt in found:
        if isinstance(prompt, PromptUnreadable):
            click.echo(f"Error: {prompt}", err=True)
            continue
        version = f" version {prompt.version}" if prompt.version else ""
        model = f" model {prompt.model}" if prompt.model else ""
        click.echo(f"{prompt.name}{version}{model} ({file}) {' '.join(prompt.variables)}".rstrip())
    return int(any(isinstance(prompt, PromptUnreadable) for _, prompt in found))


def _with_client(url: str, key: str | None, use: "Callable[[Client], Coroutine[Any, Any, int]]") -> int:
    from shared.client import connect

    async def run() -> int:
        async with connect(url, key) as client:
            return await use(client)

    return asyncio.run(run())


def _stream(client: "Client", *, quiet: bool, response_id: str = "", after: int | None = None) -> "Stream":
    from shared.client import Screen, Stream

    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return Stream(client, Screen(sys.stdout, color=color, quiet=quiet), response_id, after)


async def _conclude(client: "Client", stream: "Stream", *, as_json: bool) -> int:
    """Print the Response if asked to, and tell by the exit code how it went."""
    from shared.client import judge

    final = stream.final or await client.call("GET", f"/v1/responses/{stream.response_id}")
    if as_json:
        _print_json(final)
    return judge(final)


def _print_json(body: bytes) -> None:
    click.echo(json.dumps(json.loads(body), indent=2, ensure_ascii=False))


@cli.command()
@click.argument("text")
@click.option("--model", help="The model; by default the first that the server lists.")
@click.option("--background", is_flag=True, help="Print its id first; it runs on if the connection is lost.")
@click.option("--json", "as_json", is_flag=True, help="Print the finished Response as JSON instead of its text.")
@_server
def ask(text: str, model: str | None, background: bool, as_json: bool, url: str, key: str | None) -> int:
    """Send TEXT (or - for standard input) and print the answer as it comes. Ctrl-C cancels it."""
    prompt = sys.stdin.read() if text == "-" else text

    async def use(client: "Client") -> int:
        name = model or await client.first_model()
        stream = _stream(client, quiet=as_json)
        if background:
            stream.on_id = lambda response_id: click.echo(response_id, err=True)
        try:
            await stream.create({"model": name, "input": prompt, "stream": True, "background": background})
        except asyncio.CancelledError:  # Ctrl-C; a foreground response is cancelled by the hang-up itself
            if background and stream.response_id:
                await client.call("POST", f"/v1/responses/{stream.response_id}/cancel")
                click.echo(f"\ncancelled {stream.response_id}", err=True)
            raise
        return await _conclude(client, stream, as_json=as_json)

    return _with_client(url, key, use)


@cli.command()
@click.argument("response_id")
@click.option("--after", type=click.IntRange(0), metavar="N", help="Only what comes behind event number N.")
@click.option("--json", "as_json", is_flag=True, help="Print the finished Response as JSON instead of its text.")
@_server
def watch(response_id: str, after: int | None, as_json: bool, url: str, key: str | None) -> int:
    """Follow a response that was created with stream=true, from its start or behind an event, to its end."""

    async def use(client: "Client") -> int:
        stream = _stream(client, quiet=as_json, response_id=response_id, after=after)
        await stream.follow()
        return await _conclude(client, stream, as_json=as_json)

    return _with_client(url, key, use)


@cli.command()
@click.argument("response_id")
@_server
def get(response_id: str, url: str, key: str | None) -> int:
    """Print a response as JSON."""

    async def use(client: "Client") -> int:
        _print_json(await client.call("GET", f"/v1/responses/{response_id}"))
        return 0

    return _with_client(url, key, use)


@cli.command()
@click.argument("response_id")
@_server
def cancel(response_id: str, url: str, key: str | None) -> int:
    """Cancel a background response, and print it as JSON."""

    async def use(client: "Client") -> int:
        _print_json(await client.call("POST", f"/v1/responses/{response_id}/cancel"))
        return 0

    return _with_client(url, key, use)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_config
@_data
def doctor(as_json: bool, **options: object) -> int:
    """Say what is stuck or odd, and what will happen to it and when. Changes nothing.

    Exit code 0 when all is well, else 1.
    """
    from shared.operating import examine, lines

    troubles = asyncio.run(examine(_environ(**options)))
    if as_json:
        click.echo(json.dumps([trouble._asdict() for trouble in troubles], indent=2))
    else:
        for line in lines(troubles):
            click.echo(line)
    return min(len(troubles), 1)


@cli.command()
@click.argument("response_id")
@_config
@_data
def requeue(response_id: str, **options: object) -> None:
    """Put a response that hangs back into its queue; its worker loses it.

    Refused when it has ended, or when somebody may have seen output of it.
    """
    from shared.operating import requeue

    click.echo(f"{response_id}: {asyncio.run(requeue(_environ(**options), response_id))}")


@cli.command()
@click.argument("worker", required=False)
@click.option("--wait", is_flag=True, help="Return when they have exited.")
@_config
@_data
def drain(worker: str | None, wait: bool, **options: object) -> int:
    """Ask WORKER, or all that run now, to take nothing new, finish what they have, and exit.

    As SIGTERM does, from anywhere: what takes longer than drain_s is given back or failed. Whatever keeps workers running
    starts a new one in its place, and so does `respool up`; stop that instead to stop for good. GET /metrics shows the
    names of workers, and so does this command when it knows none called WORKER.
    """
    from shared.operating import drain

    left = asyncio.run(drain(_environ(**options), worker, wait=wait, say=click.echo))
    for name in left:
        click.echo(f"Error: {name} has not {'exited yet' if wait else 'followed'}", err=True)
    return min(len(left), 1)


@cli.group()
def keys() -> None:
    """The API keys that are kept in Redis. Those of the configuration file stand there."""


@keys.command("create")
@click.argument("name")
@click.option("--tenant", default="default", show_default=True, help="Whose responses it opens.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_config
@_data
def create_key(name: str, tenant: str, as_json: bool, **options: object) -> None:
    """Make a key called NAME and print it, this once."""
    from shared.keys import create

    key, first = asyncio.run(create(_environ(**options), name, tenant))
    if as_json:
        click.echo(json.dumps({"name": name, "tenant": tenant, "key": key}))
        return
    click.echo(key)
    click.echo(f"This is the key {name} of the tenant {tenant}. It cannot be shown again.", err=True)
    if first:
        click.echo("It is the first one: within seconds every call needs a key.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_config
@_data
def list_keys(as_json: bool, **options: object) -> None:
    """Show names, tenants, and when each key was made and last used; never a key."""
    from datetime import UTC, datetime

    from shared.keys import rows

    found = asyncio.run(rows(_environ(**options)))
    if as_json:
        click.echo(json.dumps([row._asdict() for row in found], indent=2))
        return
    shown = [("NAME", "TENANT", "CREATED", "LAST USED")]
    for row in found:
        created, used = (
            f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC" if at else "never" for at in (row.created, row.used)
        )
        shown.append((row.name, row.tenant, created, used))
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for cells in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


@keys.command("revoke")
@click.argument("name")
@_config
@_data
def revoke_key(name: str, **options: object) -> None:
    """Make the key called NAME worthless; front ends notice within 3 seconds."""
    from shared.keys import revoke

    last = asyncio.run(revoke(_environ(**options), name))
    click.echo(f"revoked {name}", err=True)
    if last:
        click.echo("It was the last one: on loopback, everybody is served without a key now.", err=True)


@cli.command()
def version() -> None:
    """Print the version."""
    try:
        click.echo(importlib.metadata.version("respool"))
    except importlib.metadata.PackageNotFoundError:
        click.echo("not installed: run from a checkout")


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. Prints what went wrong."""
    try:
        code = cli.main(arguments, prog_name="respool", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"Error: {problem}", err=True)
        return 78
    except RespoolError as error:
        click.echo(f"Error: {error}", err=True)
        return 69 if isinstance(error, StoreUnavailable) else 1
    except BrokenPipeError:  # the reader of our output has left, as in `respool ask ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
