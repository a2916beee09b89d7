import ast
import re
from pathlib import Path

import pytest

from shared.program import program, typed

ROOT = Path(__file__).parents[2]
OTHERS = {"shared/settings.py", "shared/logs.py"}  # these texts are tables of the docs, not messages


def test_the_launcher_tells_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPOOL_COMMAND", "./dev")
    assert program() == "./dev"
    monkeypatch.setenv("RESPOOL_COMMAND", "")
    assert program() == "respool"


def test_an_installed_script_is_called_as_the_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, other = tmp_path / "bin" / "respool", tmp_path / "a venv" / "respool"
    for script in (found, other):
        script.parent.mkdir()
        script.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(found.parent))
    assert typed(str(found)) == "respool"
    assert typed(str(other)) == f"'{other}'"
    monkeypatch.setenv("PATH", "")
    assert typed(".venv/bin/respool") == ".venv/bin/respool"
    assert typed(str(ROOT / "shared/cli/__main__.py")) == "respool"


def test_no_message_names_a_command_that_may_not_be_there() -> None:
    """What people read says ``program()``: who came by ./dev has no `respool`."""
    verbs = re.compile(
        r"\brespool (up|api|worker|keys|prompts|check|ask|watch|get|cancel|doctor|requeue|drain|version)\b"
    )
    found = []
    for path in (path for room in ("api", "worker", "shared") for path in (ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text())
        remarks = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        commands = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.decorator_list and isinstance(node.body[0], ast.Expr)
        }  # docstrings of decorated functions may be a command's help
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and verbs.search(node.value)
            if id(node) not in remarks - commands
        ]
    assert [place for place in found if place.split(":")[0] not in OTHERS] == []
