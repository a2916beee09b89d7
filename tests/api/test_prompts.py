"""`prompt`: templates of a folder, with every way to get them wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.validate import Accepted, accept
from shared.core.compaction import KIND
from shared.errors import ApiError, InvalidRequest
from shared.seal import Sealer
from shared.settings import ModelRow, Settings
from shared.wire.items import InputText, Message
from shared.wire.responses import PromptEcho

TOML = 'model = "echo"\ninstructions = "You are {{ tone }}."\ninput = "About {{topic}}, {{topic}}"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain.txt").write_text("Be brief.\n")
    (tmp_path / "greet@2.md").write_text("Hi {{name}}")
    (tmp_path / "greet@10.md").write_text("Hello {{name}}")
    (tmp_path / "both.toml").write_text(TOML)
    (tmp_path / "broken.toml").write_text("instructions = 5")
    (tmp_path / "not a template.txt").write_text("x")
    return tmp_path


def take(folder: Path | None, prompt: Any, **more: Any) -> Accepted:
    settings = Settings(models={"echo": ModelRow(dialect="echo")}, prompts_dir=str(folder) if folder else None)
    return accept(
        json.dumps({"model": "echo", "input": "hi", "prompt": prompt, **more}).encode(),
        settings,
        "",
        Sealer([]).bind("us", KIND).open,
    )


def test_text_is_the_instructions(folder: Path) -> None:
    request = take(folder, {"id": "plain"}).request
    assert request.instructions == "Be brief."
    assert request.prompt == PromptEcho("plain", None, {})


def test_the_requests_own_instructions_win(folder: Path) -> None:
    assert take(folder, {"id": "plain"}, instructions="Mine.").request.instructions == "Mine."


@pytest.mark.parametrize(("asked", "used", "text"), [(None, "10", "Hello Ada"), ("2", "2", "Hi Ada")])
def test_versions(folder: Path, asked: str | None, used: str, text: str) -> None:
    request = take(folder, {"id": "greet", "version": asked, "variables": {"name": "Ada"}}).request
    assert request.instructions == text
    assert request.prompt == PromptEcho("greet", used, {"name": "Ada"})


def test_model_and_input_may_come_from_the_template(folder: Path) -> None:
    variables = {"tone": {"type": "input_text", "text": "kind"}, "topic": "{{tone}}"}
    accepted = take(folder, {"id": "both", "variables": variables}, model=None, input=None)
    assert accepted.request.model == "echo"
    assert accepted.request.instructions == "You are kind."
    assert accepted.items == [Message("user", [InputText("About {{tone}}, {{tone}}")])]
    assert accepted.request.items == 1
    reference = {"type": "item_reference", "id": "msg_1"}
    accepted = take(folder, {"id": "both", "variables": variables}, input=[reference, {"role": "user", "content": "x"}])
    assert (len(accepted.items), accepted.references, accepted.request.items) == (2, {1: "msg_1"}, 3)


@pytest.mark.parametrize(
    ("prompt", "code", "param"),
    [
        ({"id": "nobody"}, "prompt_not_found", "prompt.id"),
        ({"id": "../plain"}, "prompt_not_found", "prompt.id"),
        ({"id": "not a template"}, "prompt_not_found", "prompt.id"),
        ({"id": ""}, "prompt_not_found", "prompt.id"),
        ({"id": "greet", "version": "3"}, "prompt_not_found", "prompt.version"),
        ({"id": "plain", "version": "1"}, "prompt_not_found", "prompt.version"),
        ({"id": "greet"}, "missing_required_parameter", "prompt.variables.name"),
        ({"id": "plain", "variables": {"x": "y"}}, "unknown_parameter", "prompt.variables.x"),
        ({"id": "greet", "variables": {"name": {"type": "input_image"}}}, "invalid_value", "prompt.variables.type"),
    ],
    ids=str,
)
def test_what_is_refused(folder: Path, prompt: Any, code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(folder, prompt)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_without_a_folder_there_are_no_prompts() -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(None, {"id": "plain"})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "prompt")


def test_a_damaged_template_is_the_servers_fault(folder: Path) -> None:
    with pytest.raises(ApiError, match="cannot be read") as caught:
        take(folder, {"id": "broken"})
    assert caught.value.status == 500
    with pytest.raises(ApiError, match="cannot be read"):
        take(folder / "nowhere", {"id": "plain"})
