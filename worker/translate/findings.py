"""What tiny answers show of a backend, beside what its profile says: for ``respool check --model``."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import msgspec

from shared.core.profiles import PROFILES, Profile
from shared.wire.items import CustomToolCall, FunctionCall, Message, OutputText
from worker.translate.anthropic_stream import STOPS
from worker.translate.chat_stream import FINISHES
from worker.translate.sightings import Seen

REASONING = {
    "chat": ("reasoning_content", "reasoning", "thinking", "reasoning_details"),
    "anthropic": ("thinking", "redacted_thinking"),
    "responses": ("reasoning_text", "reasoning", "reasoning_summary_text", "reasoning_summary"),
}
"""What carries thoughts, by dialect."""
STATE = {
    "chat": ("reasoning_details", "encrypted_content", "extra_content"),
    "anthropic": ("signature", "redacted_thinking"),
    "responses": ("encrypted_content",),
}
"""What a provider may want back."""
ENDS: Mapping[str, tuple[str, Set[str]]] = {
    "chat": ("finish reason", FINISHES.keys()),
    "anthropic": ("stop reason", STOPS.keys()),
    "responses": ("status", {"completed", "max_output_tokens", "content_filter"}),
}
"""What an answer's end is called, and the ends that are known."""
MARKUP = ("<tool_call>", "<function=", "[TOOL_CALLS]", "<|tool_call")


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    state: Literal["ok", "warning", "error"]
    message: str


def describe_profile(name: str, profile: Profile) -> str:
    """Its name, and where it differs from ``generic``."""
    other = [
        f"{field} = {_shown(value)}"
        for field, value in msgspec.structs.asdict(profile).items()
        if value != getattr(PROFILES["generic"], field)
    ]
    return f"{name}: {', '.join(other)}" if other else name


def judge_text(dialect: str, seen: Seen, profile: Profile) -> Iterator[Finding]:
    """The answer to a plain question."""
    response = seen.response
    texts = [part.text for part in _parts(seen)]
    if response.error is not None:
        yield Finding("answer", "error", response.error.message)
        return
    if any(texts):
        yield Finding("answer", "ok", f"{response.status}: {''.join(texts)[:60]!r}")
    else:
        yield Finding("answer", "warning", f"{response.status}, without a text")
    yield from _judge_stream(seen)
    used = response.usage
    if used is None:
        yield Finding("usage", "warning", "none was told: tokens of this model are not counted")
    elif not (used.input_tokens and used.output_tokens):
        yield Finding("usage", "warning", f"{used.input_tokens} tokens in, {used.output_tokens} out were told")
    else:
        yield Finding("usage", "ok", f"{used.input_tokens} tokens in, {used.output_tokens} out")
    if seen.finish:
        part, known_ends = ENDS[dialect]
        known = seen.finish.strip().lower() in known_ends
        text = seen.finish if known else f"{seen.finish}: is not known, and taken for an ordinary end"
        yield Finding(part, "ok" if known else "warning", text)
    yield from _judge_carriers(dialect, seen, profile)


def _judge_stream(seen: Seen) -> Iterator[Finding]:
    """Whether the answer came piece by piece, and what of it was strange."""
    if seen.heard.payloads:
        lacks = f", without {', '.join(sorted(seen.lacks))}" if seen.lacks else ""
        yield Finding("stream", "ok", f"{len(seen.heard.payloads)} events{lacks}")
    elif seen.heard.whole.lstrip().startswith(b"{"):
        yield Finding("stream", "warning", "the answer came whole, although a stream was asked for")
    else:
        yield Finding("stream", "warning", "came without the type text/event-stream, and so is read when it is whole")
    for warning in seen.heard.warnings:
        if not warning.startswith("stopped for"):  # which is told as the end
            yield Finding("stream", "warning", warning)


def _judge_carriers(dialect: str, seen: Seen, profile: Profile) -> Iterator[Finding]:
    """Where the thoughts are."""
    found = [name for name in REASONING[dialect] if name in seen.carriers]
    if dialect == "chat" and found and not set(found) & set(profile.reasoning_in):
        text = f"came in {', '.join(found)}, which is not read: set reasoning_in = {json.dumps(found)}"
        yield Finding("reasoning", "warning", text)
    elif found == ["thinking"] and "signature" not in seen.carriers and profile.reasoning_out == "drop":
        text = "in thinking without a signature, and not given back: if the server takes it, set reasoning_out"
        yield Finding("reasoning", "warning", f'{text} = "reasoning_content"')
    elif found:
        yield Finding("reasoning", "ok", f"in {', '.join(found)}")
    else:
        yield _judge_marks(dialect, seen.content.lstrip(), profile)


def _judge_marks(dialect: str, start: str, profile: Profile) -> Finding:
    """Thoughts in the text itself, which only Chat Completions are searched for."""
    opening, closing = profile.think_tags or ("<think>", "</think>")
    opened = start.startswith(opening)
    if not opened and closing not in start:
        return Finding("reasoning", "ok", "none was shown")
    if dialect != "chat":
        return Finding("reasoning", "warning", f"came as text, between {opening} and {closing}: prefer dialect chat")
    if opened and profile.think_tags is None:
        return Finding("reasoning", "warning", 'came as text: set think_tags = ["<think>", "</think>"]')
    if not opened and not profile.starts_in_think:
        text = "came as text without an opening mark: set think_tags and starts_in_think = true"
        return Finding("reasoning", "warning", text)
    return Finding("reasoning", "ok", "in the content, between marks")


def judge_call(seen: Seen, profile: Profile) -> Iterator[Finding]:
    """The answer to a request for a call; ``tool_choice`` was required."""
    response = seen.response
    calls = [item for item in response.output if isinstance(item, FunctionCall | CustomToolCall)]
    if response.error is not None:
        remedy = ": leave 'required' out of tool_choices" if "required" in profile.tool_choices else ""
        yield Finding("calls", "warning", f"{response.error.message}{remedy}")
    elif calls:
        yield from _judge_calls(seen, [call for call in calls if isinstance(call, FunctionCall)])
    elif any(mark in seen.content for mark in MARKUP):
        yield Finding("calls", "warning", "came as text: the server does not parse this model's calls")
    elif "required" in profile.tool_choices:
        yield Finding("calls", "warning", "none was made, although it was required: the server may ignore tool_choice")
    else:
        yield Finding("calls", "ok", "none was made, and none could be required")


def _judge_calls(seen: Seen, calls: Sequence[FunctionCall]) -> Iterator[Finding]:
    shown = ", ".join(f"{call.name}({call.arguments})" for call in calls)
    if all(_is_object(call.arguments) for call in calls):
        yield Finding("calls", "ok", shown)
    else:
        yield Finding("calls", "warning", f"{shown}: the arguments are no JSON object")
    ids = seen.call_ids
    if ids and all(ids) and len(set(ids)) == len(ids):
        yield Finding("ids", "ok", ", ".join(ids))
    else:
        yield Finding("ids", "warning", "calls came without an id of their own: they are made up")


def judge_limit(seen: Seen, limit: int, profile: Profile) -> Iterator[Finding]:
    """The answer to a request for more than *limit* tokens."""
    response, told = seen.response, seen.finish or "nothing"
    made = response.usage.output_tokens if response.usage else 0
    if response.error is not None:
        yield Finding("limit", "warning", response.error.message)
    elif response.status == "incomplete" and told != "completed":
        yield Finding("limit", "ok", f"{told} after {made} tokens")
    elif made < limit:
        yield Finding("limit", "ok", f"{told} after {made} tokens: the limit was not reached")
    elif response.status == "incomplete":
        yield Finding("limit", "ok", f"{told} after {made} tokens: the count tells that it was cut")
    elif profile.responses_trusted and told == "completed":
        text = "set responses_trusted = false, and the count decides"
        yield Finding("limit", "warning", f"{told} after {made} tokens, where {limit} were allowed: {text}")
    else:
        text = "an answer that was cut looks like a whole one"
        yield Finding("limit", "warning", f"{told} after {made} tokens, where {limit} were allowed: {text}")


def judge_format(dialect: str, seen: Seen, breach: str | None, profile: Profile) -> Iterator[Finding]:
    """The answer to a request for JSON of a schema, which is only made where the profile has formats; *breach* is what of
    that it does not meet."""
    response = seen.response
    other = 'response_format = "none" (then text.format is refused)'
    if dialect == "anthropic":
        other = 'schema_output = "tool"' if profile.schema_output == "native" else other
    elif profile.response_format == "schema":
        other = f'response_format = "object" (then the schema is said in words), or {other}'
        if dialect == "responses" and not profile.responses_chat_format:
            other = f"responses_chat_format = true, or {other}"
    if response.error is not None:
        yield Finding("format", "warning", f"{response.error.message}: set {other}")
    elif response.status != "completed" and "".join(part.text for part in _parts(seen)).lstrip()[:1] in ("", "{"):
        yield Finding("format", "warning", f"the answer was {response.status}: whether text.format holds was not seen")
    elif breach is not None:
        yield Finding("format", "warning", f"{breach} The server may ignore it: set {other}")
    else:
        yield Finding("format", "ok", "the answer fits its schema")


def judge_logprobs(seen: Seen) -> Iterator[Finding]:
    """The answer to a request with log probabilities, which is only made where the profile has them."""
    if seen.response.error is not None:
        yield Finding("logprobs", "warning", f"{seen.response.error.message}: set logprobs = false")
    elif any(part.logprobs for part in _parts(seen)):
        yield Finding("logprobs", "ok", "came")
    else:
        yield Finding("logprobs", "warning", "were asked for and did not come: set logprobs = false")


def judge_state(dialect: str, answers: Sequence[Seen], profile: Profile, *, sealed: bool) -> Iterator[Finding]:
    """What the provider may want back on the next turn."""
    carriers = {name for seen in answers for name in seen.carriers}
    found = sorted(carriers & set(STATE[dialect]))
    hidden = profile.reasoning_kind == "hidden" and profile.reasoning_out != "drop"
    if (found or hidden) and not sealed:
        yield Finding(
            "state", "warning", f"{', '.join(found) or 'hidden reasoning'} is lost between turns: set RESPOOL_SEAL_KEY"
        )
    elif found and dialect == "chat" and profile.family == "text":
        yield Finding("state", "warning", f"{', '.join(found)} came and is not kept: set family to a name of its own")
    elif found:
        yield Finding("state", "ok", f"{', '.join(found)} is kept and given back")
    elif dialect == "responses" and profile.responses_trusted and carriers & set(REASONING[dialect]):
        text = "reasoning came without its encrypted_content, which was asked for: set responses_trusted = false"
        yield Finding("state", "warning", text)


def _parts(seen: Seen) -> list[OutputText]:
    messages = [item for item in seen.response.output if isinstance(item, Message)]
    return [part for message in messages for part in message.content if isinstance(part, OutputText)]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _shown(value: object) -> str:
    return json.dumps(sorted(value) if isinstance(value, frozenset) else value)
