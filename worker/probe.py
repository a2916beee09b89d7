"""``python -m worker.probe MODEL``: a few tiny calls to a model's backend, and what they show, as JSON. For ``respool check``.

At most five calls of ``MAX_TOKENS`` tokens, each within ``LIMIT_S``; Redis is not needed and nothing is stored.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec
import structlog

from shared.config import load_settings, read_config
from shared.core.emitter import Emitter, Ending
from shared.core.responses import draft
from shared.errors import ConfigError, UpstreamError
from shared.examiner import Examiner
from shared.ids import HOME_PARTITION, RANDOM_BYTES, response_id
from shared.models import find_model
from shared.seal import Sealer
from shared.settings import ModelRow, Settings
from shared.wire.items import FunctionTool, JsonSchemaFormat, Message
from shared.wire.requests import Request
from shared.wire.responses import ResponseError
from worker.backends.base import DIALECTS, STATE_KIND, Call
from worker.backends.http import HttpBackend
from worker.enforcement import find_breach
from worker.translate.dialect import Answer, Ask, Dialect
from worker.translate.findings import (
    Finding,
    describe_profile,
    judge_call,
    judge_format,
    judge_limit,
    judge_logprobs,
    judge_state,
    judge_text,
)
from worker.translate.sightings import Heard, Seen, look

MAX_TOKENS = 256
FEW_TOKENS = 16
"""What the API allows at least, and an answer that counts to 200 exceeds."""
LIMIT_S = 120.0
QUESTION = "Reply with the word ok and nothing else."
TOOL = FunctionTool("ping", "Answers pong.", {"type": "object", "properties": {}})
SCHEMA = {
    "type": "object",
    "properties": {"wet": {"type": "boolean"}},
    "required": ["wet"],
    "additionalProperties": False,
}
FORMAT = JsonSchemaFormat("answer", SCHEMA, strict=True)


class Tap:
    """A dialect, or one of its answers, that remembers what it was fed with."""

    def __init__(self, tapped: Any, heard: Heard) -> None:
        self._tapped = tapped
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tapped, name)

    def answer(self, ask: Ask, emit: Emitter) -> Answer:
        return cast(Answer, Tap(self._tapped.answer(ask, emit), self._heard))

    def feed(self, data: bytes, event: str = "") -> None:
        self._heard.payloads.append((event, data))
        self._tapped.feed(data, event)

    def feed_whole(self, body: bytes) -> None:
        self._heard.whole = body
        self._tapped.feed_whole(body)

    def end(self) -> Ending:
        ending = self._tapped.end()
        self._heard.warnings = list(self._tapped.warnings)
        return cast(Ending, ending)


async def examine(name: str, row: ModelRow, settings: Settings) -> list[Finding]:
    """What the profile of one backend says, and what the calls showed. A first answer that fails ends it."""
    profile, dialect = row.quirks, row.dialect
    findings = [Finding("profile", "ok", describe_profile(row.profile, profile))]
    if dialect == "echo":
        return findings
    sealer = Sealer([key.reveal() for key in settings.seal_keys])
    seen = [await ask(name, row, sealer)]
    findings += judge_text(dialect, seen[0], profile)
    if seen[0].response.error is None:
        seen.append(await ask(name, row, sealer, "Call the tool ping.", tools=[TOOL], tool_choice="required"))
        findings += judge_call(seen[1], profile)
        cut = await ask(name, row, sealer, "Count from 1 to 200.", max_output_tokens=FEW_TOKENS)
        findings += judge_limit(cut, FEW_TOKENS, profile)
        if profile.response_format != "none":  # the question does not speak of JSON: nothing but the format does
            shaped = await ask(name, row, sealer, "Is water wet?", format=FORMAT)
            async with Examiner() as examiner:
                breach = await find_breach(_request(name, format=FORMAT), shaped.response.output, examiner)
            findings += judge_format(dialect, shaped, breach, profile)
        if profile.logprobs:
            seen.append(await ask(name, row, sealer, top_logprobs=1))
            findings += judge_logprobs(seen[2])
    findings += judge_state(dialect, seen, profile, sealed=bool(sealer))
    return findings


async def examine_all(name: str, row: ModelRow, settings: Settings) -> list[Finding]:
    """The same of each backend of a model; where it has several, its name stands in front."""
    found = await asyncio.gather(*(examine(name, target, settings) for target in row.targets))
    if len(found) == 1:
        return found[0]
    pairs = zip(row.targets, found, strict=True)
    return [replace(one, part=f"{one.part} ({target.backend})") for target, findings in pairs for one in findings]


async def ask(name: str, row: ModelRow, sealer: Sealer, question: str = QUESTION, **fields: Any) -> Seen:
    """One tiny call."""
    request = _request(name, **{"max_output_tokens": MAX_TOKENS, **fields})
    emit, heard = Emitter(draft(request), streaming=False), Heard()
    call = Call(request, [Message("user", question)], row, "check", sealer.bind("check", STATE_KIND))
    dialects = {dialect: cast(Dialect, Tap(tapped, heard)) for dialect, tapped in DIALECTS.items()}
    try:
        async with asyncio.timeout(LIMIT_S), HttpBackend(dialects) as backend:
            ending = await backend.run(call, emit, _nothing)
    except UpstreamError as error:
        ending = Ending("failed", error=ResponseError(error.code, error.message))
    except TimeoutError:
        ending = Ending("failed", error=ResponseError("server_error", f"No answer within {LIMIT_S:g} s."))
    return look(row.dialect, emit.end(ending, at=0), heard)


def _request(name: str, **fields: Any) -> Request:
    return Request(id=response_id(HOME_PARTITION, bytes(RANDOM_BYTES)), created_at=0, model=name, store=False, **fields)


def _nothing() -> None:
    """Nobody waits for events."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the findings about the model that is named in *arguments*."""
    # Standard output belongs to the findings.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    (name,) = arguments
    try:
        settings = load_settings(environ, read_config(environ))
        row = settings.models.get(name) or find_model(settings.models, name)
        if row is None:
            raise ConfigError([f"models: there is no {name}"])
    except ConfigError as error:
        findings: Iterable[Finding] = [Finding("configuration", "error", problem) for problem in error.problems]
    else:
        findings = asyncio.run(examine_all(name, row, settings))
    sys.stdout.buffer.write(msgspec.json.encode(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
