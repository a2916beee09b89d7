"""What tiny answers show of a backend, beside what its profile says: for ``respool check --model``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from shared.core.profiles import PROFILES, Profile
from shared.wire.items import CustomToolCall, FunctionCall, Message, OutputText
from shared.wire.responses import Response
from worker.translate.chat_stream import FINISHES

REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details")
STATE_FIELDS = ("reasoning_details", "encrypted_content", "extra_content")
MARKUP = ("<tool_call>", "<function=", "[TOOL_CALLS]", "<|tool_call")


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    state: Literal["ok", "warning", "error"]
    message: str


@dataclass(slots=True)
class Seen:
    """One answer: the Response that was made of it, and what its payloads held, read plainly (Chat Completions)."""

    response: Response
    fields: set[str] = field(default_factory=set)
    """Members of deltas and calls that were not empty."""
    finish: str = ""
    content: str = ""


def look(response: Response, payloads: Sequence[bytes]) -> Seen:
    seen = Seen(response)
    for payload in payloads:
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError):
            continue
        for choice in _dicts(chunk.get("choices") if isinstance(chunk, dict) else None):
            delta = choice.get("delta") or choice.get("message")
            for one in [delta, *_dicts(delta.get("tool_calls"))] if isinstance(delta, dict) else []:
                seen.fields |= {name for name, value in one.items() if value}
            content = delta.get("content") if isinstance(delta, dict) else None
            seen.content += content if isinstance(content, str) else ""
            seen.finish = seen.finish or str(choice.get("finish_reason") or "")
            seen.fields |= {"logprobs"} if choice.get("logprobs") else set()
    return seen


def describe_profile(name: str, profile: Profile) -> str:
    """Its name, and where it differs from ``generic``."""
    other = [
        f"{field} = {_shown(value)}"
        for field, value in msgspec.structs.asdict(profile).items()
        if value != getattr(PROFILES["generic"], field)
    ]
    return f"{name}: {', '.join(other)}" if other else name


def judge_text(seen: Seen, profile: Profile) -> Iterator[Finding]:
    """The answer to a plain question."""
    response = seen.response
    texts = [part.text for item in response.output if isinstance(item, Message) for part in item.content
             if isinstance(part, OutputText)]  # fmt: skip
    if response.error is not None:
        yield Finding("answer", "error", response.error.message)
        return
    if any(texts):
        yield Finding("answer", "ok", f"{response.status}: {''.join(texts)[:60]!r}")
    else:
        yield Finding("answer", "warning", f"{response.status}, without a text")
    if response.usage is None:
        yield Finding("usage", "warning", "none was told: tokens of this model are not counted")
    else:
        used = response.usage
        yield Finding("usage", "ok", f"{used.input_tokens} tokens in, {used.output_tokens} out")
    if seen.finish:
        known = seen.finish.strip().lower() in FINISHES
        text = seen.finish if known else f"{seen.finish}: is not known, and taken for an ordinary end"
        yield Finding("finish reason", "ok" if known else "warning", text)
    yield from _judge_reasoning(seen, profile)


def _judge_reasoning(seen: Seen, profile: Profile) -> Iterator[Finding]:
    fields = [name for name in REASONING_FIELDS if name in seen.fields]
    start, tags = seen.content.lstrip(), profile.think_tags
    if fields and not set(fields) & set(profile.reasoning_in):
        wanted = json.dumps(fields)
        yield Finding(
            "reasoning", "warning", f"came in {', '.join(fields)}, which is not read: set reasoning_in = {wanted}"
        )
    elif fields:
        yield Finding("reasoning", "ok", f"in {', '.join(fields)}")
    elif tags is None and start.startswith("<think>"):
        yield Finding("reasoning", "warning", 'came as text: set think_tags = ["<think>", "</think>"]')
    elif not start.startswith((tags or ("<think>",))[0]) and (tags or ("", "</think>"))[1] in start:
        if not profile.starts_in_think:
            yield Finding(
                "reasoning",
                "warning",
                "came as text without an opening mark: set think_tags and starts_in_think = true",
            )
        else:
            yield Finding("reasoning", "ok", "in the content, between marks")
    elif tags is not None and start.startswith(tags[0]):
        yield Finding("reasoning", "ok", "in the content, between marks")
    else:
        yield Finding("reasoning", "ok", "none was shown")


def judge_call(seen: Seen, profile: Profile) -> Iterator[Finding]:
    """The answer to a request for a call; ``tool_choice`` was required."""
    response = seen.response
    calls = [item for item in response.output if isinstance(item, FunctionCall | CustomToolCall)]
    if response.error is not None:
        remedy = ": leave 'required' out of tool_choices" if "required" in profile.tool_choices else ""
        yield Finding("calls", "warning", f"{response.error.message}{remedy}")
    elif calls:
        yield Finding(
            "calls", "ok", f"{calls[0].name}({calls[0].arguments if isinstance(calls[0], FunctionCall) else ''})"
        )
    elif any(mark in seen.content for mark in MARKUP):
        yield Finding("calls", "warning", "came as text: the server does not parse this model's calls")
    elif "required" in profile.tool_choices:
        yield Finding("calls", "warning", "none was made, although it was required: the server may ignore tool_choice")
    else:
        yield Finding("calls", "ok", "none was made, and none could be required")


def judge_logprobs(seen: Seen) -> Iterator[Finding]:
    """The answer to a request with log probabilities, which is only made where the profile has them."""
    if seen.response.error is not None:
        yield Finding("logprobs", "warning", f"{seen.response.error.message}: set logprobs = false")
    elif "logprobs" in seen.fields:
        yield Finding("logprobs", "ok", "came")
    else:
        yield Finding("logprobs", "warning", "were asked for and did not come: set logprobs = false")


def judge_state(answers: Sequence[Seen], profile: Profile, *, sealed: bool) -> Iterator[Finding]:
    """What the provider may want back on the next turn."""
    found = sorted({name for seen in answers for name in seen.fields} & set(STATE_FIELDS))
    hidden = profile.reasoning_kind == "hidden" and profile.reasoning_out != "drop"
    if (found or hidden) and not sealed:
        yield Finding(
            "state", "warning", f"{', '.join(found) or 'hidden reasoning'} is lost between turns: set RESPOOL_SEAL_KEY"
        )
    elif found and profile.family == "text":
        yield Finding("state", "warning", f"{', '.join(found)} came and is not kept: set family to a name of its own")
    elif found:
        yield Finding("state", "ok", f"{', '.join(found)} is kept and given back")


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _shown(value: Any) -> str:
    return json.dumps(sorted(value) if isinstance(value, frozenset) else value)
