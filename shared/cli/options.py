"""Options that several commands share. An option counts before the variable that it stands for."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def with_config(command: Command) -> Command:
    command = click.option("--redis-url", metavar="URL", help="redis://, rediss:// or unix://; instead of REDIS_URL.")(
        command
    )
    return click.option("--config", metavar="FILE", help="Configuration file; instead of RESPOOL_CONFIG.")(command)


def with_data(command: Command) -> Command:
    text = "Folder of the embedded Valkey; instead of RESPOOL_DATA_DIR."
    return click.option("--data", metavar="DIR", help=text)(command)


def with_address(command: Command) -> Command:
    command = click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; instead of PORT.")(command)
    return click.option("--host", help="Address to listen on; instead of HOST.")(command)


def with_server(command: Command) -> Command:
    variables = ["RESPOOL_API_KEY", "OPENAI_API_KEY"]
    command = click.option("--key", envvar=variables, help=f"Key to send ({', '.join(variables)}).")(command)
    default = "http://127.0.0.1:8080"
    return click.option(
        "--url", envvar="RESPOOL_URL", default=default, show_default=True, help="The server (RESPOOL_URL)."
    )(command)


def environ_of(**options: object) -> dict[str, str]:
    """This process's environment with the options laid over it."""
    names = {
        "config": "RESPOOL_CONFIG", "redis_url": "REDIS_URL", "data": "RESPOOL_DATA_DIR", "host": "HOST", "port": "PORT",
    }  # fmt: skip
    given = {names[option]: str(value) for option, value in options.items() if value is not None}
    dropped = {"REDIS_URL_FILE"} if "REDIS_URL" in given else set()
    return {name: value for name, value in os.environ.items() if name not in dropped} | given
