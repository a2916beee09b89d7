"""Each script is put together from the parts that it names, and from no others."""

import re
from pathlib import Path

import pytest

import shared.store

LUA = Path(shared.store.__file__).parent / "lua"
PARTS = {path.stem: path.read_text() for path in (LUA / "parts").glob("*.lua")}
SCRIPTS = {path.stem: path.read_text() for path in LUA.glob("*.lua") if path.stem != "common"}
MAKER = {
    name: part for part, text in PARTS.items() for name in re.findall(r"^local (?:function )?(\w+)", text, re.MULTILINE)
}


def used(text: str) -> set[str]:
    """The parts that *text* takes something from; what it says in comments and texts does not count."""
    code = re.sub(r"'[^'\n]*'", "", re.sub(r"--.*", "", text))
    own = set(re.findall(r"local function (\w+)", code))
    return {MAKER[word] for word in set(re.findall(r"\w+", code)) - own if word in MAKER}


def named(script: str) -> list[str]:
    line = re.match(r".*\n-- with (.+)\n", SCRIPTS[script])
    return line[1].split(", ") if line else []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_names_the_parts_that_it_needs(script: str) -> None:
    needed = used(SCRIPTS[script])
    while more := {other for part in needed for other in used(PARTS[part])} - needed:
        needed |= more
    assert set(named(script)) == needed


@pytest.mark.parametrize("script", SCRIPTS)
def test_parts_stand_behind_those_that_they_need(script: str) -> None:
    before: set[str] = set()
    for part in named(script):
        assert used(PARTS[part]) - {part} <= before
        before.add(part)
