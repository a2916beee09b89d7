import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from shared.banner import banner, base_url, doubts, farewell, offers
from shared.reachability import Row
from shared.settings import ModelRow, Settings

ROOT = Path(__file__).parents[2]
LIMIT_S = 30
STAR = ModelRow(dialect="chat", base_url="http://h/v1")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("a.b", "http://a.b:1"),
    ],
)
def test_base_url(host: str, url: str) -> None:
    assert base_url(host, 1) == url


def test_banner() -> None:
    star = ModelRow(dialect="chat", base_url="https://api.openai.com/v1")
    models = {"echo": ModelRow(dialect="echo"), "*": star, "gpt": ModelRow(dialect="chat")}
    text = banner(
        Settings(models=models, redis_url="redis://:secret@h/1"), 8080, notices=["one is not used", "nor two"]
    )
    assert "echo, * (to https://api.openai.com/v1), gpt\n" in text
    assert "gpt\n  Notice  one is not used\n  Notice  nor two\n" in text
    assert '"model": "gpt"' in text
    assert 'api_key="none"' in text
    assert "secret" not in text
    keyed = banner(Settings(models={"echo": models["echo"]}), 8080, keyed=True)
    assert "Bearer $RESPOOL_API_KEY" in keyed
    assert 'os.environ["RESPOOL_API_KEY"]' in keyed
    assert '"model": "echo"' in keyed
    assert "Notice" not in keyed


@pytest.mark.parametrize(
    ("models", "model", "hint"),
    [
        ({"echo": ModelRow(dialect="echo")}, "echo", ""),
        ({"parrot": ModelRow(dialect="echo")}, "parrot", ""),
        (
            {"echo": ModelRow(dialect="echo"), "*": STAR},
            "MODEL",
            "  MODEL   stands for a name that http://h/v1 knows\n",
        ),
        ({"gpt-*": STAR}, "MODEL", "  MODEL   stands for a name that http://h/v1 knows and that fits gpt-*\n"),
        ({"echo": ModelRow(dialect="echo"), "*": STAR, "mine": STAR}, "mine", ""),
    ],
)
def test_the_example_is_a_model_of_the_person(models: dict[str, ModelRow], model: str, hint: str) -> None:
    """Who has set an address must not believe that it was not taken."""
    text = banner(Settings(models=models), 8080)
    assert text.count(f'"{model}"') == 2
    assert hint in text
    assert ("MODEL " in text) == bool(hint)


def test_offers() -> None:
    rows = [Row("models.echo", "ok", "embedded"), Row("models.*", "ok", "http://h/v1", ("qwen 3",))]
    assert offers(rows[:1], "http://127.0.0.1:8080") == ""
    assert offers(rows, "http://127.0.0.1:8080") == (
        "  Models  qwen 3 (listed by http://h/v1)\n          Ask one: respool ask Hello --model 'qwen 3'\n"
    )
    many = Row("models.*", "ok", "http://h/v1", tuple(f"m{number}" for number in range(10)))
    assert offers([many], "http://127.0.0.1:1") == (
        "  Models  m0, m1, m2, m3, m4, m5, m6, m7, and 2 more (listed by http://h/v1)\n"
        "          Ask one: respool ask Hello --model NAME --url http://127.0.0.1:1\n"
    )


def test_doubts() -> None:
    rows = [
        Row("models.echo", "ok", "embedded"),
        Row("models.a", "unreachable", "http://h/v1 does not answer: timeout"),
        Row("models.b", "error", "http://g is not the whole address: base_url must be http://g/v1"),
        Row("models.c", "unreachable", "http://h/v1 does not answer: timeout"),
    ]
    assert doubts(rows[:1], "") == ""
    assert doubts(rows, "./dev check") == (
        "  Notice  models.a, models.c: http://h/v1 does not answer: timeout."
        " Start it (this server need not be started again), or correct its base_url\n"
        "  Notice  models.b: http://g is not the whole address: base_url must be http://g/v1\n"
        "          Until that is mended, responses of these models may fail. Look again: ./dev check\n"
    )


def test_farewell() -> None:
    assert farewell(signal.SIGTERM, 0.5) == (
        "Stopping: running responses get up to 0.5 s to end. A second signal stops at once."
    )


async def line_with(stream: asyncio.StreamReader, text: bytes) -> bytes:
    async for line in stream:
        if text in line:
            return line
    raise AssertionError(f"it ended without saying {text!r}")


async def test_what_up_says_stands_beside_its_logs(tmp_path: Path) -> None:
    """From the banner to the end, with Ctrl-C twice."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.cli", "up", "--port", "0",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RESPOOL_DATA_DIR": str(tmp_path), "LOG_FORMAT": "console", "RESPOOL_DRAIN_NOTICE_S": "60"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            await line_with(process.stderr, b"print(client.responses.create")
            process.send_signal(signal.SIGINT)
            line = await line_with(process.stderr, b"Stopping")
            process.send_signal(signal.SIGINT)
            logs, rest = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert line == b"Stopping: running responses get up to 30 s to end. Press Ctrl-C again to stop at once.\n"
    assert (process.returncode, rest) == (130, b"")
    assert b"process.draining" in logs
    assert b"Stopping" not in logs
