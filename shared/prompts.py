"""Templates behind ``prompt``: files in one folder, read when they are asked for.

``NAME.txt``, ``NAME.md`` or ``NAME.toml`` is the template NAME; ``NAME@VERSION.txt`` a certain version of it. Without a
version asked for, the file without one is taken, else the highest version. A text file holds the instructions; a TOML
file may have ``instructions``, ``input`` (a user message in front of the request's own input) and ``model`` (for
requests that name none). ``{{variable}}`` stands for a variable in both texts.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import RespoolError

MAX_BYTES = 1 << 20
_FILE = re.compile(r"([A-Za-z0-9_-]{1,64})(?:@([A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}))?\.(?:txt|md|toml)")
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z0-9_]{1,64})\s*\}\}")
_FIELDS = ("instructions", "input", "model")


class PromptUnreadable(RespoolError):
    """A template's file is damaged: the operator's fault."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One version of a template. ``version`` is ``None`` for a file without one."""

    name: str
    version: str | None
    instructions: str = ""
    input: str = ""
    model: str = ""

    @property
    def variables(self) -> list[str]:
        """What must be given, in the order of their first use."""
        return list(dict.fromkeys(_VARIABLE.findall(f"{self.instructions}\n{self.input}")))


def fill(text: str, variables: Mapping[str, str]) -> str:
    """*text* with its variables; what they hold is not looked into again."""
    return _VARIABLE.sub(lambda found: variables[found.group(1)], text)


def versions(folder: Path, name: str) -> dict[str | None, Path]:
    """The files of the template *name*, the best last."""
    found = {version: path for other, version, path in _files(folder) if other == name}
    return dict(sorted(found.items(), key=lambda entry: (entry[0] is None, _natural(entry[0] or ""))))


def read_prompt(name: str, version: str | None, path: Path) -> Prompt:
    """Raises ``PromptUnreadable``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise PromptUnreadable(f"{path.name}: larger than {MAX_BYTES} bytes")
        text = data.decode()
        fields = tomllib.loads(text) if path.suffix == ".toml" else {"instructions": text.removesuffix("\n")}
    except OSError as error:
        raise PromptUnreadable(f"{path.name}: {error.strerror}") from error
    except ValueError as error:
        raise PromptUnreadable(f"{path.name}: {error}") from error
    for field, value in fields.items():
        if field not in _FIELDS or not isinstance(value, str):
            raise PromptUnreadable(f"{path.name}: {field}: only the texts {', '.join(_FIELDS)} are understood")
    return Prompt(name, version, **fields)


def list_prompts(folder: Path) -> Iterator[tuple[str, Prompt | PromptUnreadable]]:
    """Every template file with what is in it. Raises ``OSError`` when the folder cannot be read."""
    for name, version, path in sorted(_files(folder), key=lambda each: (each[0], _natural(each[1] or ""))):
        try:
            yield path.name, read_prompt(name, version, path)
        except PromptUnreadable as error:
            yield path.name, error


def _files(folder: Path) -> Iterator[tuple[str, str | None, Path]]:
    for path in sorted(folder.iterdir()):
        found = _FILE.fullmatch(path.name)
        if found is not None:
            yield found.group(1), found.group(2), path


def _natural(version: str) -> list[tuple[int, str]]:
    """10 comes behind 9, and numbers behind words."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", version)]
