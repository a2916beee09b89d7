"""What runs the server, and checks its configuration."""

import asyncio
import json
import os
import sys

import click

from shared.cli.options import environ_of, with_address, with_config, with_data
from shared.errors import ConfigError


@click.command()
@with_config
@with_address
@with_data
@click.option("--api", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of front ends.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of workers.")
def up(api: int, workers: int, **options: object) -> int:
    """Start everything: Redis (embedded, if none is given), front ends and workers."""
    from shared import logs
    from shared.config import load_settings, read_config
    from shared.supervisor import Supervisor

    environ = environ_of(**options)
    settings = load_settings(environ, read_config(environ))
    logs.configure(settings.log_level, settings.log_format, room="up")

    async def supervise() -> int:
        say = lambda text: click.echo(text, err=True)  # noqa: E731 - standard output belongs to the logs
        return await Supervisor(settings, environ, api=api, workers=workers, say=say).run()

    return asyncio.run(supervise())


def _become(room: str, environ: dict[str, str]) -> None:
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", room], environ)  # noqa: S606 - ourselves, without a shell


@click.command()
@with_config
@with_address
def api(**options: object) -> None:
    """Run one front end (`python -m api`)."""
    _become("api", environ_of(**options))


@click.command()
@with_config
def worker(**options: object) -> None:
    """Run one worker (`python -m worker`)."""
    _become("worker", environ_of(**options))


@click.command()
@with_config
@with_data
@click.option("--model", metavar="NAME", help="Only this model: a few tiny calls show how its answers fit its profile.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(as_json: bool, model: str | None, **options: object) -> int:
    """Check the configuration, Redis and every backend, without starting anything."""
    import msgspec

    from shared.checkup import examine, exit_code

    rows = asyncio.run(examine(environ_of(**options), model))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(rows), indent=2))
    else:
        colors = {"ok": "green", "warning": "yellow"}
        width = max(len(row.part) for row in rows)
        for row in rows:
            state = click.style(f"{row.state:<11}", fg=colors.get(row.state, "red"))
            click.echo(f"{row.part:<{width}}  {state}  {row.message}")
    return exit_code(rows)


@click.command()
@with_config
def prompts(**options: object) -> int:
    """List the templates behind `prompt`: name, version, variables; and what is wrong with any."""
    from pathlib import Path

    from shared.config import load_settings, read_config
    from shared.prompts import PromptUnreadable, list_prompts

    environ = environ_of(**options)
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


COMMANDS = (up, api, worker, check, prompts)
