"""``respool check --model``: what a few tiny calls show, beside the profile."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes.upstream import DONE, Call, FakeUpstream, Step, call_delta, chunk, completion, frame, reply, send, status
from shared.checkup import examine, exit_code
from shared.cli import run
from shared.reachability import Row
from support.llamacpp import LlamaCpp
from support.wires import Dialect, wire

SEAL = {"RESPOOL_SEAL_KEY": "k" * 32}
LOGPROB = {"content": [{"token": "ok", "logprob": -0.1, "bytes": [111, 107], "top_logprobs": []}]}


FITTING = '{"wet": true}'


def kind_of(body: dict[str, Any]) -> str:
    """Which of the calls this is, in any dialect."""
    tools = [tool["name"] for tool in body.get("tools", ()) if "name" in tool]
    if "response_format" in body or "text" in body or "answer" in tools:
        return "format"
    if "tools" in body:
        return "call"
    if 16 in (body.get("max_tokens"), body.get("max_output_tokens")):
        return "limit"
    return "logprobs" if "logprobs" in body or "top_logprobs" in body else "text"


def answers(**special: Sequence[Step]) -> Any:
    """What a good server says; *special* scripts for text, call or logprobs stand instead."""

    def respond(call: Call) -> Sequence[Step]:
        kind = kind_of(call.body)
        if kind in special:
            return special[kind]
        if kind == "limit":
            return [reply("1 2", finish="length", tokens=(9, 16))]
        if kind == "call":
            return [reply(calls=[call_delta(0, call_id="c", name="ping", arguments="{}")])]
        if kind == "format":
            return [reply(FITTING)]
        plain = chunk("ok")
        plain["choices"][0]["logprobs"] = LOGPROB if kind == "logprobs" else None
        return [send(plain, chunk(finish="stop"), chunk(usage={"prompt_tokens": 9, "completion_tokens": 1}), DONE)]

    return respond


async def look(respond: Any, tmp_path: Path, more: str = "", environ: dict[str, str] = SEAL) -> list[Row]:
    async with FakeUpstream(respond) as upstream:
        config = tmp_path / "c.toml"
        config.write_text(f'[models.tiny]\ndialect = "chat"\nbase_url = "{upstream.base_url}"\n{more}')
        rows = await examine({"RESPOOL_CONFIG": str(config), **environ}, "tiny")
        assert sorted(call.body["max_tokens"] for call in upstream.calls)[1:] == [256] * (len(upstream.calls) - 1)
        assert len(upstream.calls) <= 5
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
    assert said["stream"] == "3 events"
    assert said["calls"] == "ping({})"
    assert said["ids"] == "c"
    assert said["limit"] == "length after 16 tokens"
    assert said["logprobs"] == "came"
    assert said["format"] == "the answer fits its schema"


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
    ({"call": [reply(calls=[call_delta(0, name="ping", arguments="{}")])]}, "", "ids", "made up"),
    ({"call": [reply(calls=[call_delta(0, call_id="c", name="ping", arguments="{")])]}, "", "calls", "no JSON object"),
    ({"limit": [reply("1 2", tokens=(9, 16))]}, "", "limit", "looks like a whole one"),
    ({"text": [status(200, completion("ok"))]}, "", "stream", "came whole"),
    ({"format": [reply("Yes.")]}, "", "format", 'not JSON. The server may ignore it: set response_format = "object"'),
    ({"format": [reply("Yes.")]}, 'profile = "deepseek"', "format", 'may ignore it: set response_format = "none"'),
    ({"format": [reply('{"wet": 1}')]}, "", "format", "does not fit text.format.schema"),
    ({"format": [reply("Yes, it", finish="length")]}, "", "format", "may ignore it"),
    ({"format": [reply('{"wet"', finish="length")]}, "", "format", "incomplete: whether text.format holds was not seen"),
    ({"format": [status(400)]}, "", "format", 'set response_format = "object"'),
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


LIMIT_TOKENS = 16


def speaks(dialect: Dialect, **special: Sequence[bytes]) -> Any:
    """What a good server of *dialect* says."""

    def respond(call: Call) -> Sequence[Step]:
        kind = kind_of(call.body)
        if kind in special:
            return [send(*special[kind])]
        if kind == "call":
            return [send(*wire(dialect, calls=[("ping", "{}")], end="calls"))]
        if kind == "format":
            fitting = {"calls": [("answer", FITTING)]} if dialect == "anthropic" else {"text": [FITTING]}
            return [send(*wire(dialect, **fitting, end="calls" if dialect == "anthropic" else "stop"))]
        end = "length" if kind == "limit" else "stop"
        return [send(*wire(dialect, reasoning=["Hm"], text=["ok"], end=end))]

    return respond


async def seen(dialect: Dialect, respond: Any, tmp_path: Path, more: str = "") -> dict[str, tuple[str, str]]:
    async with FakeUpstream(respond) as upstream:
        config = tmp_path / "c.toml"
        config.write_text(f'[models.tiny]\ndialect = "{dialect}"\nbase_url = "{upstream.base_url}"\n{more}')
        rows = await examine({"RESPOOL_CONFIG": str(config), **SEAL}, "tiny")
    return {row.part: (row.state, row.message) for row in rows}


ENDS: dict[Dialect, tuple[str, str, str]] = {
    "anthropic": ("stop reason", "end_turn", "max_tokens"),
    "responses": ("status", "completed", "max_output_tokens"),
}


@pytest.mark.parametrize("dialect", ENDS)
async def test_the_other_dialects(dialect: Dialect, tmp_path: Path) -> None:
    said = await seen(
        dialect, speaks(dialect), tmp_path, 'profile_overrides = {logprobs = false, reasoning_out = "reasoning"}'
    )
    part, stop, cut = ENDS[dialect]
    assert {state for state, _ in said.values()} == {"ok"}
    assert said[part][1] == stop
    assert said["limit"][1].startswith(cut)
    assert said["reasoning"][1] == ("in thinking" if dialect == "anthropic" else "in reasoning_text")
    assert said["usage"][1] == "9 tokens in, 2 out"
    assert (said["calls"][1], said["ids"][1]) == ("ping({})", "c0")
    assert said["stream"][1].endswith(" events")


def thought(signature: str) -> list[bytes]:
    """An answer of the Messages API that thought."""
    events = wire("anthropic", reasoning=["Hm"], text=["ok"])
    sign = {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": signature}}
    return [*events[:3], frame(sign), *events[3:]]


def whole_response(**fields: Any) -> bytes:
    """The last event of a response, with the tokens of a cut answer."""
    usage = {"input_tokens": 9, "output_tokens": LIMIT_TOKENS, "total_tokens": 25}
    return frame(
        {
            "type": "response.completed",
            "response": {"object": "response", "status": "completed", "usage": usage, **fields},
        }
    )


MISSING: list[tuple[Dialect, dict[str, Sequence[bytes]], str, str, str, str]] = [
    ("anthropic", {"text": wire("anthropic", text=["ok"])[1:-2]}, "", "answer", "error", "without saying why"),
    ("anthropic", {"text": thought("")}, "", "reasoning", "warning", 'set reasoning_out = "reasoning_content"'),
    ("anthropic", {"text": thought("c2ln")}, "", "state", "ok", "signature is kept"),
    ("anthropic", {"text": wire("anthropic", text=["<think>Hm</think>ok"])}, "", "reasoning", "warning", "prefer dialect chat"),
    ("anthropic", {"text": [one.replace(b'"end_turn"', b'"bored"') for one in wire("anthropic", text=["ok"])]}, "",
     "stop reason", "warning", "bored: is not known"),
    ("anthropic", {"text": [one.replace(b'{"input_tokens":9}', b"{}") for one in wire("anthropic", text=["ok"])]}, "",
     "usage", "warning", "0 tokens in, 2 out"),
    ("anthropic", {"limit": [one.replace(b'"output_tokens":2', b'"output_tokens":16') for one in wire("anthropic", text=["1"])]},
     "", "limit", "warning", "end_turn after 16 tokens"),
    ("anthropic", {"call": [one.replace(b'"id":"c0",', b"") for one in wire("anthropic", calls=[("ping", "{}")], end="calls")]},
     "", "ids", "warning", "made up"),
    ("responses", {"text": [*wire("responses", text=["ok"])[:-1], frame({"type": "response.odd_thing"}), whole_response()]}, "",
     "stream", "warning", "left out an event response.odd_thing"),
    ("responses", {"text": [frame({"type": "response.output_text.delta", "delta": "ok"}), whole_response()]}, "", "stream", "ok",
     "without item_id of deltas, output_index of deltas"),
    ("responses", {"format": wire("responses", text=["Yes."])}, "", "format", "warning", "set responses_chat_format = true"),
    ("responses", {"format": wire("responses", text=["Yes."])}, 'profile = "llamacpp"', "format", "warning",
     'set response_format = "object"'),
    ("anthropic", {"format": wire("anthropic", text=["Yes."])}, "", "format", "warning", 'set response_format = "none"'),
    ("anthropic", {"format": wire("anthropic", text=["Yes."])}, 'profile = "anthropic"', "format", "warning",
     'set schema_output = "tool"'),
    ("responses", {"text": wire("responses", text=["ok"])}, "", "logprobs", "warning", "set logprobs = false"),
    ("responses", {"limit": [*wire("responses", text=["1"])[:-1], whole_response()]}, "", "limit", "ok", "the count tells"),
    ("responses", {"limit": [*wire("responses", text=["1"])[:-1], whole_response()]}, 'profile = "openai"', "limit", "warning",
     "set responses_trusted = false"),
    ("responses", {}, 'profile = "openai"', "state", "warning", "without its encrypted_content"),
    ("responses", {"text": [frame({"error": {"message": "no", "code": "429"}})]}, "", "answer", "error", "no"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "special", "more", "part", "state", "text"), MISSING, ids=range(len(MISSING)))
async def test_what_does_not_fit_elsewhere(
    dialect: Dialect, special: dict[str, Sequence[bytes]], more: str, part: str, state: str, text: str, tmp_path: Path
) -> None:
    found = (await seen(dialect, speaks(dialect, **special), tmp_path, more))[part]
    assert found[0] == state
    assert text in found[1]


async def test_each_backend_of_a_model(tmp_path: Path) -> None:
    async with FakeUpstream(speaks("anthropic")) as one, FakeUpstream(answers()) as other:
        config = tmp_path / "c.toml"
        config.write_text(
            f"""[models.tiny]
dialect = "anthropic"
[[models.tiny.backends]]
base_url = "{one.base_url}"
backend = "one"
[[models.tiny.backends]]
dialect = "chat"
base_url = "{other.base_url}"
backend = "other"
"""
        )
        rows = {row.part: row.message for row in await examine({"RESPOOL_CONFIG": str(config), **SEAL}, "tiny")}
    assert (rows["stop reason (one)"], rows["finish reason (other)"]) == ("end_turn", "stop")


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
    assert "format" not in await found(answers(), tmp_path, 'profile = "minimax"')


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


@pytest.mark.parametrize(
    ("dialect", "end"), [("chat", "finish reason"), ("anthropic", "stop reason"), ("responses", "status")]
)
async def test_a_real_server(dialect: str, end: str, llamacpp: LlamaCpp, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        f'[models.tiny]\ndialect = "{dialect}"\nbase_url = "{llamacpp.base_url}"\nprofile = "llamacpp"\n'
        "profile_overrides = {extra_body = {temperature = 0}}\n"
    )
    rows = await examine({"RESPOOL_CONFIG": str(config), **SEAL}, "tiny")
    said = {row.part: (row.state, row.message) for row in rows}
    assert exit_code(rows) == 0
    assert said["answer"][0] == said["usage"][0] == said[end][0] == said["limit"][0] == "ok"
    assert ("logprobs" in said) == (dialect == "chat")
    if dialect != "anthropic":  # there it takes a call, which so small a model need not make
        assert said["format"][0] == "ok"


async def test_a_real_server_that_ignores_the_format(llamacpp: LlamaCpp, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    cold = "profile_overrides = {responses_chat_format = false, extra_body = {temperature = 0}}"
    config.write_text(
        f'[models.tiny]\ndialect = "responses"\nbase_url = "{llamacpp.base_url}"\nprofile = "llamacpp"\n{cold}\n'
    )
    rows = await examine({"RESPOOL_CONFIG": str(config), **SEAL}, "tiny")
    (shown,) = (row for row in rows if row.part == "format")
    assert shown.state == "warning"
    assert "set responses_chat_format = true" in shown.message
