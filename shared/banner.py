"""What `respool up` tells people, beside its logs."""

import signal
from collections.abc import Sequence
from pathlib import Path

from shared.config import OVERLOOKED
from shared.reachability import Row
from shared.settings import ModelRow, Settings, without_password

REMEDY = ". Start it (this server need not be started again), or correct its base_url"


def base_url(host: str, port: int) -> str:
    """How to reach the server from this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def banner(settings: Settings, port: int, *, keyed: bool = False, overlooked: bool = False) -> str:
    """What a person needs to know when everything is up. *overlooked*: there is a configuration that is not used."""
    notice = f"\n  Notice  {OVERLOOKED}" if overlooked else ""
    url = base_url(settings.host, port)
    embedded = f"embedded Valkey, data in {Path(settings.data_dir).absolute()} (appendfsync {settings.durability})"
    redis = without_password(settings.redis_url) if settings.redis_url else embedded
    named = sorted(
        (name for name in settings.models if "*" not in name), key=lambda name: settings.models[name].dialect == "echo"
    )
    model = named[0] if named else "MODEL"
    header, imports, key = "", "", '"none"'
    if keyed:
        header, imports, key = (
            ' -H "Authorization: Bearer $RESPOOL_API_KEY"',
            "import os; ",
            'os.environ["RESPOOL_API_KEY"]',
        )
    return f"""
  Respool answers on {url}
  Redis   {redis}
  Models  {", ".join(map(_told, settings.models, settings.models.values()))}{notice}

  curl {url}/v1/responses{header} -H 'Content-Type: application/json' -d '{{"model": "{model}", "input": "Hello"}}'

  {imports}from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key={key})
  print(client.responses.create(model="{model}", input="Hello").output_text)
"""


def _told(name: str, row: ModelRow) -> str:
    """A pattern says where it leads: whatever is asked for goes there."""
    return f"{name} (to {row.base_url})" if "*" in name and row.base_url else name


def doubts(rows: Sequence[Row], check: str) -> str:
    """What is wrong with backends, each once for all its models, and what to do; empty when all is well. *check* is the
    command that looks again."""
    parts: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.state != "ok":
            parts.setdefault((row.state, row.message), []).append(row.part)
    if not parts:
        return ""
    lines = [
        f"  Notice  {', '.join(names)}: {message}{REMEDY if state == 'unreachable' else ''}"
        for (state, message), names in parts.items()
    ]
    return "\n".join(
        [*lines, f"          Until that is mended, responses of these models may fail. Look again: {check}", ""]
    )


def farewell(number: signal.Signals, drain_s: float) -> str:
    """What a person needs to know when it stops. Behind a terminal's ``^C`` it begins on a line of its own."""
    what = f"Stopping: running responses get up to {drain_s:g} s to end."
    if number == signal.SIGINT:
        return f"\n{what} Press Ctrl-C again to stop at once."
    return f"{what} A second signal stops at once."
