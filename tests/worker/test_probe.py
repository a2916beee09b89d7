"""``respool check --model``: what a few tiny calls show, beside the profile."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes.upstream import DONE, Call, FakeUpstream, Step, call_delta, chunk, reply, send, status
from shared.checkup import Row, examine, exit_code
from shared.cli import run
from support.llamacpp import LlamaCpp

SEAL = {"RESPOOL_SEAL_KEY": "k" * 32}
LOGPROB = {"content": [{"token": "ok", "logprob": -0.1, "bytes": [111, 107], "top_logprobs": []}]}


def answers(**special: Sequence[Step]) -> Any:
    """What a good server says; *special* scripts for text, call or logprobs stand instead."""

    def respond(call: Call) -> Sequence[Step]:
        kind = "call" if "tools" in call.body else "logprobs" if "logprobs" in call.body else "text"
        if kind in special:
            return special[kind]
        if kind == "call":
            return [reply(calls=[call_delta(0, call_id="c", name="ping", arguments="{}")])]
        plain = chunk("ok")
        plain["choices"][0]["logprobs"] = LOGPROB if kind == "logprobs" else None
        return [send(plain, chunk(finish="stop"), chunk(usage={"prompt_tokens": 9, "completion_tokens": 1}), DONE)]

    return respond


async def look(respond: Any, tmp_path: Path, more: str = "", environ: dict[str, str] = SEAL) -> list[Row]:
    async with FakeUpstream(respond) as upstream:
        config = tmp_path / "c.toml"
        config.write_text(f'[models.tiny]\ndialect = "chat"\nbase_url = "{upstream.base_url}"\n{more}')
        rows = await examine({"RESPOOL_CONFIG": str(config), **environ}, "tiny")
        assert all(call.body["max_tokens"] == 256 for call in upstream.calls)
        assert len(upstream.calls) <= 3
    return rows


async def found(respond: Any, tmp_path: Path, more: str = "", **options: Any) -> dict[str, tuple[str, str]]:
    return {row.part: (row.state, row.message) for row in await look(respond, tmp_path, more, **options)}


async def test_a_backend_that_fits_its_profile(tmp_path: Path) -> None:
    rows = await look(answers(), tmp_path, 'profile = "vllm"\nprofile_overrides = {vision = false}')
    assert {row.state for row in rows} == {"ok"}
    assert exit_code(rows) == 0
    said = {row.part: row.message for row in rows}
    assert said["profile"].startswith("vllm: ")
    assert 'reasoning_in = ["reasoning", "reasoning_content"]' in said["profile"]
    assert "vision = false" in said["profile"]
    assert said["usage"] == "9 tokens in, 1 out"
    assert said["finish reason"] == "stop"
    assert said["calls"] == "ping({})"
    assert said["logprobs"] == "came"


ODD: list[tuple[dict[str, Sequence[Step]], str, str, str]] = [
    ({"text": [reply("ok", finish="pondered")]}, "", "finish reason", "pondered: is not known"),
    ({"text": [send(chunk("ok"), chunk(finish="stop"), DONE)]}, "", "usage", "none was told"),
    (
        {"text": [reply("ok", reasoning=["Hm"])]},
        'profile_overrides = {reasoning_in = ["reasoning"]}',
        "reasoning",
        'set reasoning_in = ["reasoning_content"]',
    ),
    ({"text": [reply("<think>Hm</think>ok")]}, "", "reasoning", "set think_tags"),
    ({"text": [reply("Hm</think>ok")]}, "", "reasoning", "starts_in_think = true"),
    ({"call": [reply("<tool_call>{}</tool_call>")]}, "", "calls", "does not parse"),
    ({"call": [reply("pong")]}, "", "calls", "may ignore tool_choice"),
    ({"call": [status(400)]}, "", "calls", "leave 'required' out of tool_choices"),
    ({"logprobs": [reply("ok")]}, "", "logprobs", "set logprobs = false"),
    ({"logprobs": [status(400)]}, "", "logprobs", "set logprobs = false"),
    (
        {"call": [send(chunk(calls=[call_delta(0, name="ping", arguments="{}") | {"extra_content": {"a": 1}}], finish="stop"))]},
        'profile = "vllm"',
        "state",
        "set family to a name of its own",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("special", "more", "part", "text"), ODD, ids=range(len(ODD)))
async def test_what_does_not_fit(
    special: dict[str, Sequence[Step]], more: str, part: str, text: str, tmp_path: Path
) -> None:
    state, message = (await found(answers(**special), tmp_path, more))[part]
    assert state == "warning"
    assert text in message


async def test_state_that_would_be_lost(tmp_path: Path) -> None:
    extra = {"google": {"thought_signature": "AA=="}}
    signed = [send(chunk(calls=[call_delta(0, name="ping", arguments="{}") | {"extra_content": extra}], finish="stop"))]
    respond, more = answers(call=signed), 'profile = "gemini"'
    assert (await found(respond, tmp_path, more))["state"] == ("ok", "extra_content is kept and given back")
    state, message = (await found(respond, tmp_path, more, environ={}))["state"]
    assert state == "warning"
    assert "RESPOOL_SEAL_KEY" in message


async def test_nothing_is_asked_that_the_profile_does_not_have(tmp_path: Path) -> None:
    assert "logprobs" not in await found(answers(), tmp_path, 'profile = "groq"')


async def test_a_backend_that_fails(tmp_path: Path) -> None:
    rows = await look(answers(text=[status(401)]), tmp_path)
    assert [(row.part, row.state) for row in rows][-1] == ("answer", "error")
    assert exit_code(rows) == 1
    assert [row for row in rows if row.part == "calls"] == []


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        '[models.echo]\ndialect = "echo"\n[models.gone]\ndialect = "chat"\nbase_url = "http://127.0.0.1:1"\n'
    )

    def check(model: str) -> tuple[int, list[Any]]:
        code = run(["check", "--config", str(config), "--model", model, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, rows = check("echo")
    assert (code, [row["part"] for row in rows]) == (0, ["configuration", "models.echo", "profile"])
    assert check("gone")[0] == 69
    code, rows = check("other")
    assert (code, rows[-1]["message"]) == (78, "models: there is no other")


async def test_a_real_server(llamacpp: LlamaCpp, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[models.tiny]\ndialect = "chat"\nbase_url = "{llamacpp.base_url}"\nprofile = "llamacpp"\n')
    rows = await examine({"RESPOOL_CONFIG": str(config), **SEAL}, "tiny")
    said = {row.part: (row.state, row.message) for row in rows}
    assert exit_code(rows) == 0
    assert said["answer"][0] == said["usage"][0] == said["finish reason"][0] == said["logprobs"][0] == "ok"
