"""What `respool up` tells people, beside its logs."""

import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.program import program
from shared.reachability import Row
from shared.settings import ModelRow, Settings, without_password

DEFAULT_URL = "http://127.0.0.1:8080"
MOST_NAMED = 8  # models
REMEDY = ". Start it (this server need not be started again), or correct its base_url"


def base_url(host: str, port: int) -> str:
    """How to reach the server from this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def banner(settings: Settings, port: int, *, keyed: bool = False, notices: Sequence[str] = ()) -> str:
    """What a person needs to know when everything is up. *notices*: of what there is, but is not used."""
    notice = "".join(f"\n  Notice  {each}" for each in notices)
    url = base_url(settings.host, port)
    embedded = f"embedded Valkey, data in {Path(settings.data_dir).absolute()} (appendfsync {settings.durability})"
    redis = without_password(settings.redis_url) if settings.redis_url else embedded
    model, hint = _example(settings.models)
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
  Models  {", ".join(map(_told, settings.models, settings.models.values()))}{hint}{notice}

  curl {url}/v1/responses{header} -H 'Content-Type: application/json' -d '{{"model": "{model}", "input": "Hello"}}'

  {imports}from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key={key})
  print(client.responses.create(model="{model}", input="Hello").output_text)
"""


def _example(models: Mapping[str, ModelRow]) -> tuple[str, str]:
    """A model to begin with, and what to know about it. Behind a pattern are the person's own: ``echo`` would hide them."""
    named = [name for name in models if "*" not in name]
    model = next((name for name in named if models[name].dialect != "echo"), None)
    if model:
        return model, ""
    for pattern, row in models.items():
        if "*" in pattern:
            fits = "" if pattern == "*" else f" and that fits {pattern}"
            return "MODEL", f"\n  MODEL   stands for a name that {row.base_url} knows{fits}"
    return named[0], ""


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


def offers(rows: Sequence[Row], url: str) -> str:
    """Which names there are behind patterns, as their backends list them; empty when none does."""
    lines = []
    for row in rows:
        if row.lists:
            more = f", and {len(row.lists) - MOST_NAMED} more" if len(row.lists) > MOST_NAMED else ""
            name = row.lists[0] if len(row.lists) == 1 else "NAME"
            where = "" if url == DEFAULT_URL else f" --url {url}"
            lines.append(f"  Models  {', '.join(row.lists[:MOST_NAMED])}{more} (listed by {row.message})")
            lines.append(f"          Ask one: {program()} ask Hello --model {shlex.quote(name)}{where}")
    return "\n".join([*lines, ""]) if lines else ""


def farewell(number: signal.Signals, drain_s: float) -> str:
    """What a person needs to know when it stops. Behind a terminal's ``^C`` it begins on a line of its own."""
    what = f"Stopping: running responses get up to {drain_s:g} s to end."
    if number == signal.SIGINT:
        return f"\n{what} Press Ctrl-C again to stop at once."
    return f"{what} A second signal stops at once."
