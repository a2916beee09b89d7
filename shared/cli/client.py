"""What a client does, through the HTTP API."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from shared.cli.options import with_server

LONG_POLL_S = 20

if TYPE_CHECKING:
    from shared.client import Client, Stream


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


@click.command()
@click.argument("text")
@click.option("--model", help="The model; by default the first that the server lists, which is then told.")
@click.option(
    "--background",
    is_flag=True,
    help="Print its id first; it runs on when the connection is lost, and behind Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the finished Response as JSON instead of its text.")
@with_server
def ask(text: str, model: str | None, background: bool, as_json: bool, url: str, key: str | None) -> int:
    """Send TEXT (or - for standard input) and print the answer as it comes.

    Ctrl-C cancels it. With --background it goes on, and how to see the rest and how to stop it is told.
    """
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
                click.echo(f"\n{stream.response_id} goes on. See the rest: {stream.go_on()}", err=True)
                click.echo(f"Stop it: {stream.cancel()}", err=True)
            raise
        return await _conclude(client, stream, as_json=as_json)

    return _with_client(url, key, use)


@click.command()
@click.argument("response_id")
@click.option("--after", type=click.IntRange(0), metavar="N", help="Only what comes behind event number N.")
@click.option("--json", "as_json", is_flag=True, help="Print the finished Response as JSON instead of its text.")
@with_server
def watch(response_id: str, after: int | None, as_json: bool, url: str, key: str | None) -> int:
    """Follow a response that was created with stream=true, from its start or behind an event, to its end."""

    async def use(client: "Client") -> int:
        stream = _stream(client, quiet=as_json, response_id=response_id, after=after)
        await stream.follow()
        return await _conclude(client, stream, as_json=as_json)

    return _with_client(url, key, use)


@click.command()
@click.argument("response_id")
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@with_server
def get(response_id: str, wait: bool, url: str, key: str | None) -> int:
    """Print a response as JSON."""
    from shared.client import is_running

    async def use(client: "Client") -> int:
        body = await client.call("GET", f"/v1/responses/{response_id}")
        while wait and is_running(body):
            body = await client.call("GET", f"/v1/responses/{response_id}?wait={LONG_POLL_S}")
        _print_json(body)
        return 0

    return _with_client(url, key, use)


@click.command()
@click.argument("response_id")
@with_server
def cancel(response_id: str, url: str, key: str | None) -> int:
    """Cancel a background response, and print it as JSON."""

    async def use(client: "Client") -> int:
        _print_json(await client.call("POST", f"/v1/responses/{response_id}/cancel"))
        return 0

    return _with_client(url, key, use)


COMMANDS = (ask, watch, get, cancel)
