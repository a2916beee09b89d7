"""What an operator does, in Redis itself."""

import asyncio
import json

import click

from shared.cli.options import environ_of, with_config, with_data


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_config
@with_data
def doctor(as_json: bool, **options: object) -> int:
    """Say what is stuck or odd, and what will happen to it and when. Changes nothing.

    Exit code 0 when all is well, else 1.
    """
    from shared.operating import examine, lines

    troubles = asyncio.run(examine(environ_of(**options)))
    if as_json:
        click.echo(json.dumps([trouble._asdict() for trouble in troubles], indent=2))
    else:
        for line in lines(troubles):
            click.echo(line)
    return min(len(troubles), 1)


@click.command()
@click.argument("response_id")
@with_config
@with_data
def requeue(response_id: str, **options: object) -> None:
    """Put a response that hangs back into its queue; its worker loses it.

    Refused when it has ended, or when somebody may have seen output of it.
    """
    from shared.operating import requeue

    click.echo(f"{response_id}: {asyncio.run(requeue(environ_of(**options), response_id))}")


@click.command()
@click.argument("worker", required=False)
@click.option("--wait", is_flag=True, help="Return when they have exited.")
@with_config
@with_data
def drain(worker: str | None, wait: bool, **options: object) -> int:
    """Ask WORKER, or all that run now, to take nothing new, finish what they have, and exit.

    As SIGTERM does, from anywhere: what takes longer than drain_s is given back or failed. Whatever keeps workers running
    starts a new one in its place, and so does `up`; stop that instead to stop for good. Until then, if there was one worker
    only, what is new waits in the queue. GET /metrics shows the
    names of workers, and so does this command when it knows none called WORKER.
    """
    from shared.operating import drain

    left = asyncio.run(drain(environ_of(**options), worker, wait=wait, say=click.echo))
    for name in left:
        click.echo(f"Error: {name} has not {'exited yet' if wait else 'followed'}", err=True)
    return min(len(left), 1)


@click.group()
def keys() -> None:
    """The API keys that are kept in Redis. Those of the configuration file stand there."""


@keys.command("create")
@click.argument("name")
@click.option("--tenant", default="default", show_default=True, help="Whose responses it opens.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_config
@with_data
def create_key(name: str, tenant: str, as_json: bool, **options: object) -> None:
    """Make a key called NAME and print it, this once."""
    from shared.keys import create

    key, first = asyncio.run(create(environ_of(**options), name, tenant))
    if as_json:
        click.echo(json.dumps({"name": name, "tenant": tenant, "key": key}))
        return
    click.echo(key)
    click.echo(f"This is the key {name} of the tenant {tenant}. It cannot be shown again.", err=True)
    if first:
        click.echo("It is the first one: within seconds every call needs a key.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_config
@with_data
def list_keys(as_json: bool, **options: object) -> None:
    """Show names, tenants, and when each key was made and last used; never a key."""
    from datetime import UTC, datetime

    from shared.keys import rows

    found = asyncio.run(rows(environ_of(**options)))
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
@with_config
@with_data
def revoke_key(name: str, **options: object) -> None:
    """Make the key called NAME worthless; front ends notice within 3 seconds."""
    from shared.keys import revoke

    last = asyncio.run(revoke(environ_of(**options), name))
    click.echo(f"revoked {name}", err=True)
    if last:
        click.echo(
            "It was the last one: a server on loopback serves everybody without a key now, any other serves nobody.",
            err=True,
        )


COMMANDS = (doctor, requeue, drain, keys)
