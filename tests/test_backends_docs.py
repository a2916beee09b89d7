"""The provider table in docs/backends.md is true of the profiles. `python tests/test_backends_docs.py` prints it."""

import re
from pathlib import Path

from shared.core.fitness import PATHS
from shared.core.profiles import PROFILES, Profile

DOCS = Path(__file__).parents[1] / "docs/backends.md"
HEAD = [
    "| profile | takes | left out, and named | refused (400) | given back on the next turn |",
    "| --- | --- | --- | --- | --- |",
]


def table() -> list[str]:
    return [*HEAD, *(row(name, profile) for name, profile in PROFILES.items())]


def row(name: str, profile: Profile) -> str:
    media = {"images": profile.vision, "files": profile.file, "audio": profile.audio}
    by_address = {"images": (" as data", ""), "files": ("", " also by address"), "audio": ("", "")}
    choices = [choice for choice in ("none", "required", "function") if choice in profile.tool_choices]
    formats = {"none": [], "object": ["`json_object`"], "schema": ["`json_schema`"]}[profile.response_format]
    takes = [f"{kind}{by_address[kind][kind in profile.fetches]}" for kind, able in media.items() if able]
    takes += formats
    takes.append(f"`tool_choice` {', '.join(choices)}" if choices else "no `tool_choice`")
    takes += ["logprobs"] if profile.logprobs else []
    takes.append(effort(profile))
    left = sorted(PATHS.get(one, one) for one in profile.drop_params if one != "service_tier")
    left += [f"{one} beyond {least:g} to {most:g}" for one, (least, most) in profile.clamp.items()]
    left += [] if profile.strict_tools else ["strict"]
    left += ["reasoning.effort"] if not profile.effort_path and not profile.effort_bodies else []
    refused = [kind for kind, able in media.items() if not able]
    refused += [] if profile.logprobs else ["logprobs"]
    refused += ["text.format"] if profile.response_format == "none" else []
    back = [] if profile.reasoning_out == "drop" else [f"`{profile.reasoning_out}`"]
    back += ["`extra_content` of calls"] if profile.unsigned_call else []
    cells = [f"`{name}`", ", ".join(one for one in takes if one), codes(left), ", ".join(refused), ", ".join(back)]
    return f"| {' | '.join(cell or '-' for cell in cells)} |"


def effort(profile: Profile) -> str:
    if profile.effort_path:
        return f"effort in `{'.'.join(profile.effort_path)}`"
    return "effort as thinking on or off" if profile.effort_bodies else ""


def codes(names: list[str]) -> str:
    """All of OpenAI's own parameters are one word here, and those of local servers are another."""
    openai = {
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "text.verbosity",
        "user",
    }
    local = {"top_k", "repetition_penalty"}
    words = [word for word, group in (("OpenAI's own", openai), ("local ones", local)) if group <= set(names)]
    known = {one for group in (openai, local) if group <= set(names) for one in group}
    return ", ".join([*words, *(f"`{one}`" for one in names if one not in known)])


def test_the_provider_table() -> None:
    section = DOCS.read_text().partition("## Providers\n")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| ")][: len(table())] == table()


def test_every_preset_that_needs_a_word_is_a_preset() -> None:
    section = DOCS.read_text().partition("## Providers\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\* `([\w-]+)`", section, re.MULTILINE)
    assert "azure" in named
    assert [name for name in named if name not in PROFILES and name != "unsigned_call"] == []


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201  # for the docs
