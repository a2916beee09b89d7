"""``prompt`` of a create call: a template of this server with its variables put in."""

from dataclasses import dataclass
from pathlib import Path

import structlog

from api.decoding import MAX_TEXT_CHARS, check_length
from shared.errors import ApiError, InvalidRequest
from shared.prompts import Prompt, PromptUnreadable, fill, read_prompt, versions
from shared.wire.requests import PromptBody
from shared.wire.responses import PromptEcho

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Filled:
    """A template ready for use; empty texts are not there."""

    echo: PromptEcho
    instructions: str
    input: str
    model: str


def fill_prompt(body: PromptBody, folder: str | None) -> Filled:
    if folder is None:
        message = "Unsupported parameter: 'prompt' is not offered by this server (it has no prompts_dir)."
        raise InvalidRequest(message, param="prompt", code="unsupported_parameter")
    prompt = _find(body, Path(folder))
    given = {name: value if isinstance(value, str) else value.text for name, value in (body.variables or {}).items()}
    for name in given:
        if name not in prompt.variables:
            path = f"prompt.variables.{name[:64]}"
            message = f"Unknown parameter: '{path}': the template '{prompt.name}' has no such variable."
            raise InvalidRequest(message, param=path, code="unknown_parameter")
    for name in prompt.variables:
        if name not in given:
            path = f"prompt.variables.{name}"
            raise InvalidRequest(
                f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
            )
    instructions, before = fill(prompt.instructions, given), fill(prompt.input, given)
    for text in (instructions, before):
        check_length(text, "prompt", MAX_TEXT_CHARS)
    return Filled(PromptEcho(prompt.name, prompt.version, given), instructions, before, prompt.model)


def _find(body: PromptBody, folder: Path) -> Prompt:
    try:
        known = versions(folder, body.id)
        if not known:
            message = f"Prompt with id '{body.id[:80]}' not found."
            raise InvalidRequest(message, param="prompt.id", code="prompt_not_found")
        version = next(reversed(known)) if body.version is None else body.version
        if version not in known:
            message = f"Prompt with id '{body.id[:80]}' and version '{str(version)[:80]}' not found."
            raise InvalidRequest(message, param="prompt.version", code="prompt_not_found")
        return read_prompt(body.id, version, known[version])
    except (OSError, PromptUnreadable) as error:
        log.error("prompt.failed", error=str(error))
        raise ApiError(f"The template '{body.id[:80]}' cannot be read.") from error
