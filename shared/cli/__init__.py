"""The `respool` command. It starts the rooms as processes and imports neither of them.

Commands import what they need when they run: `respool version` must not load aiohttp (0.4 s). Exit codes: 0, 1 failure,
2 usage, 69 Redis or the server does not answer, 78 bad configuration, 130 and 143 after a signal.
"""

import importlib.metadata
import os
import sys

import click

from shared.cli import client, operating, serving
from shared.errors import ConfigError, RespoolError, StoreUnavailable
from shared.program import VARIABLE, program, typed


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Respool: a self-hosted server for the Responses API. Start everything with `up`."""


@click.command()
def version() -> None:
    """Print the version."""
    try:
        click.echo(importlib.metadata.version("respool"))
    except importlib.metadata.PackageNotFoundError:
        click.echo("not installed: run from a checkout")


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. Prints what went wrong."""
    try:
        code = cli.main(arguments, prog_name=program(), standalone_mode=False)
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


for _command in (*serving.COMMANDS, *client.COMMANDS, *operating.COMMANDS, version):
    cli.add_command(_command)


def main() -> None:
    os.environ.setdefault(VARIABLE, typed(sys.argv[0]))
    sys.exit(run(sys.argv[1:]))
