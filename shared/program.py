"""What people type to run the command: messages that name another command begin with it."""

import os
import shlex
import shutil
from pathlib import Path

NAME = "respool"
VARIABLE = "RESPOOL_COMMAND"
"""The launcher tells it to the command, and the command to the processes that it starts. It changes words, nothing else."""


def program() -> str:
    """Such as ``respool``, or ``./dev`` for who started through the launcher."""
    return os.environ.get(VARIABLE) or NAME


def typed(called: str) -> str:
    """The same from ``argv[0]`` of the installed script: its bare name where the shell finds this very file by it."""
    path = Path(called)
    if path.name != NAME:  # python -m
        return NAME
    found = shutil.which(NAME)
    return NAME if found is not None and path.exists() and path.samefile(found) else shlex.quote(called)
