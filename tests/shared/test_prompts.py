"""Template files: names, versions, contents."""

from pathlib import Path

import pytest

from shared.cli import run
from shared.prompts import MAX_BYTES, Prompt, PromptUnreadable, fill, list_prompts, read_prompt, versions


def test_variables_are_found_and_filled_once() -> None:
    prompt = Prompt("p", None, "{{ a }} and {{b}} and {{a}}", "{{c}} {{not this}} {d}")
    assert prompt.variables == ["a", "b", "c"]
    assert fill(prompt.instructions, {"a": "{{b}}", "b": "\\1"}) == "{{b}} and \\1 and {{b}}"


def test_the_best_version_is_the_last(tmp_path: Path) -> None:
    for name in ("p@9.txt", "p@10.txt", "p@beta.txt", "q.txt", "p@.txt", "p@..txt", "p.json"):
        (tmp_path / name).write_text("x")
    assert list(versions(tmp_path, "p")) == ["beta", "9", "10"]
    (tmp_path / "p.md").write_text("x")
    assert list(versions(tmp_path, "p"))[-1] is None
    assert versions(tmp_path, "nobody") == {}


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("p.toml", b"instructions = ", "p.toml"),
        ("p.toml", b"tone = 'x'", "tone"),
        ("p.toml", b"input = ['x']", "input"),
        ("p.txt", b"\xff", "p.txt"),
        ("p.txt", b"x" * (MAX_BYTES + 1), "larger"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PromptUnreadable, match=why):
        read_prompt("p", None, tmp_path / name)
    ((file, found),) = list_prompts(tmp_path)
    assert file == name
    assert isinstance(found, PromptUnreadable)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RESPOOL_CONFIG", raising=False)
    monkeypatch.setenv("RESPOOL_PROMPTS_DIR", str(tmp_path))
    (tmp_path / "greet@2.txt").write_text("Hi {{name}}, {{tone}}")
    (tmp_path / "greet.toml").write_text("model = 'tiny'")
    assert run(["prompts"]) == 0
    assert capsys.readouterr().out == "greet model tiny (greet.toml)\ngreet version 2 (greet@2.txt) name tone\n"
    (tmp_path / "bad.toml").write_text("x = ")
    assert run(["prompts"]) == 1
    assert "bad.toml" in capsys.readouterr().err
    monkeypatch.setenv("RESPOOL_PROMPTS_DIR", str(tmp_path / "nowhere"))
    assert run(["prompts"]) == 78
    monkeypatch.delenv("RESPOOL_PROMPTS_DIR")
    assert run(["prompts"]) == 78
