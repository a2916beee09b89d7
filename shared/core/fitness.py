"""What a backend cannot do of a request, judged by its profile: refused by name, or left out and named.

Both lists follow from the profile alone, so a front end knows them before anything is queued.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from shared.core.profiles import OptionalParam, Profile
from shared.core.tools import offers
from shared.wire.items import (
    CustomChoice,
    CustomToolCallOutput,
    FunctionCallOutput,
    FunctionChoice,
    InputAudio,
    InputFile,
    InputImage,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    MessagePart,
    StoredItem,
)
from shared.wire.requests import Request

PATHS: dict[OptionalParam, str] = {"verbosity": "text.verbosity"}
"""Where a parameter stands in the request, if not at the top."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a request is refused: the API's code, and the path of what is to blame."""

    code: Literal["unsupported_parameter", "unsupported_value", "unsupported_content"]
    param: str
    what: str


def misfits(
    request: Request, history: Sequence[StoredItem], items: Sequence[StoredItem], profile: Profile
) -> Iterator[Misfit]:
    """What the backend would refuse. *history* is what comes before the request's own *items*."""
    for name in sorted(profile.refuse_params):
        if _is_given(request, name):
            path = PATHS.get(name, name)
            yield Misfit("unsupported_parameter", path, f"'{path}'")
    if not profile.logprobs:
        for path, asked in (
            ("top_logprobs", bool(request.top_logprobs)),
            ("include", "message.output_text.logprobs" in request.include),
        ):
            if asked:
                yield Misfit("unsupported_parameter", path, "log probabilities ('top_logprobs', 'include')")
    effort = request.reasoning.effort if request.reasoning else None
    if effort is not None and profile.efforts is not None and effort not in profile.efforts:
        yield Misfit("unsupported_value", "reasoning.effort", f"the effort '{effort}'")
    forced = isinstance(request.tool_choice, FunctionChoice | CustomChoice)
    if (
        profile.response_format == "none"
        and not forced
        and isinstance(request.format, JsonObjectFormat | JsonSchemaFormat)
    ):
        yield Misfit("unsupported_value", "text.format", "answers in a format")
    for place, item in enumerate(history):
        for misfit in _unreadable(item, f"history[{place}]", profile):
            path = "conversation" if request.conversation else "previous_response_id"
            yield Misfit(misfit.code, path, misfit.what)
    for place, item in enumerate(items):
        yield from _unreadable(item, f"input[{place}]", profile)


def left_out(request: Request, profile: Profile) -> list[str]:
    """Paths of what is accepted but does not reach the backend as it was said."""
    # The tier has its effect all the same: it orders our own queue.
    names = [name for name in sorted(profile.drop_params) if name != "service_tier" and _is_given(request, name)]
    found = [PATHS.get(name, name) for name in names]
    for name, (least, most) in sorted(profile.clamp.items()):
        value = getattr(request, name)
        if value is not None and name not in names and not least <= value <= most:
            found.append(f"{name} (set to {min(max(value, least), most):g})")
    effort = request.reasoning.effort if request.reasoning else None
    if effort not in (None, "none"):
        found += [name for name in sorted(profile.thinking_drops - profile.drop_params) if _is_given(request, name)]
    if effort is not None and not profile.effort_path and effort not in profile.effort_bodies:
        found.append("reasoning.effort")
    if profile.response_format == "object" and isinstance(request.format, JsonSchemaFormat):
        found.append("text.format.schema (said in words)")
    if not profile.strict_tools:
        found += [f"{one.path}.strict" for one in offers(request.tools) if getattr(one.tool, "strict", None)]
    return found


def _is_given(request: Request, name: OptionalParam) -> bool:
    if name == "service_tier":
        return request.service_tier != "default"
    if name == "parallel_tool_calls":
        return request.parallel_tool_calls is False
    return getattr(request, name) is not None


def _unreadable(item: StoredItem, path: str, profile: Profile) -> Iterator[Misfit]:
    parts: str | Sequence[MessagePart]
    if isinstance(item, Message):
        parts, place = item.content, f"{path}.content"
    elif isinstance(item, FunctionCallOutput | CustomToolCallOutput):
        parts, place = item.output, f"{path}.output"
    else:
        return
    if isinstance(parts, str):
        return
    for k, part in enumerate(parts):
        for kind, able, what in (
            (InputImage, profile.vision, "images"),
            (InputFile, profile.file, "files"),
            (InputAudio, profile.audio, "audio"),
        ):
            if isinstance(part, kind) and not able:
                yield Misfit("unsupported_content", f"{place}[{k}]", what)
        yield from _unfetched(part, f"{place}[{k}]", profile)


def _unfetched(part: MessagePart, path: str, profile: Profile) -> Iterator[Misfit]:
    """What is given by an address that the backend does not fetch."""
    if isinstance(part, InputFile):
        if part.file_url is not None and profile.file and "files" not in profile.fetches:
            yield Misfit("unsupported_value", f"{path}.file_url", "files by their address (send 'file_data')")
    elif isinstance(part, InputImage) and profile.vision and "images" not in profile.fetches:
        url = part.image_url
        if url is not None and not url.startswith("data:"):
            yield Misfit("unsupported_value", f"{path}.image_url", "images by their address (send a data URL)")
