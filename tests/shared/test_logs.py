import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from shared.logs import EVENTS, bound, configure

ROOT = Path(__file__).parents[2]
METHODS = {"debug", "info", "warning", "error", "critical", "exception"}


def parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SystemError:
        # Seen once on Python 3.11.2: "AST constructor recursion depth mismatch", which looks like cpython#106905.
        return ast.parse(source)


def log_calls() -> Iterator[tuple[str, ast.expr]]:
    """Where our code logs, and the first argument: every ``<something ending in log>.<level>(...)``."""
    for path in sorted(path for room in ("api", "worker", "shared") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(parsed(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
                continue
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name.endswith("log"):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0] if node.args else node


def used() -> dict[str, str]:
    return {
        argument.value: place
        for place, argument in log_calls()
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def test_event_names_are_constants() -> None:
    assert [place for place, argument in log_calls() if not isinstance(argument, ast.Constant)] == []


def test_every_event_in_the_code_is_listed() -> None:
    assert {name: place for name, place in used().items() if name not in EVENTS} == {}


def test_every_listed_event_is_in_the_code() -> None:
    assert sorted(set(EVENTS) - set(used())) == []


def test_the_docs_list_the_same_events() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", (ROOT / "docs/logs.md").read_text(), re.MULTILINE)
    assert dict(rows) == dict(EVENTS)


def test_names_are_noun_and_past_verb() -> None:
    assert [name for name in EVENTS if not re.fullmatch(r"[a-z]+\.[a-z]+", name)] == []


Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines(capsys: Output) -> None:
    configure("info", "json", room="api")
    log = structlog.get_logger()
    log.debug("request.served")
    with bound(request_id="r1"):
        log.info("request.served", status=200)
    line = json.loads(capsys.readouterr().out)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {"level": "info", "event": "request.served", "request_id": "r1", "status": 200, "room": "api"}


def test_libraries_come_out_in_the_same_form(capsys: Output) -> None:
    configure("info", "json", room="worker")
    logging.getLogger("asyncio").error("Task %s was never awaited", "t1")
    logging.getLogger("aiohttp.access").info("too much")
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["event"], line["room"]) == ("error", "Task t1 was never awaited", "worker")


@pytest.mark.parametrize("value", [b"\xff", object(), "lone \ud800", {1: {2}}, ValueError("x"), 2**80])
def test_any_value_can_be_logged(capsys: Output, value: object) -> None:
    configure("info", "json")
    structlog.get_logger().info("request.served", value=value)
    assert json.loads(capsys.readouterr().out)["event"] == "request.served"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_show_no_local_variables(capsys: Output, log_format: str) -> None:
    configure("info", log_format)  # type: ignore[arg-type]
    try:
        key = "sk-very" + "-secret"
        raise ValueError(len(key))
    except ValueError:
        structlog.get_logger().exception("request.failed")
    output = capsys.readouterr().out
    assert "Traceback" in output
    assert "sk-very-secret" not in output


def test_auto_is_json_without_a_terminal(capsys: Output) -> None:
    configure("info", "auto")
    structlog.get_logger().info("process.started")
    assert json.loads(capsys.readouterr().out)["event"] == "process.started"
