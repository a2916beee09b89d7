"""The tools of a request as a model sees them: flat, each under one name; and which of them it may call.

A member ``look_up`` of the namespace ``crm`` is offered as ``crm__look_up``; its call is shown as ``look_up`` with
``namespace: crm`` again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from shared.wire.items import (
    AllowedTool,
    AllowedTools,
    CustomChoice,
    CustomTool,
    FunctionChoice,
    FunctionTool,
    NamespaceTool,
    Tool,
    ToolChoice,
)

MAX_NAME_CHARS = 64
"""What servers of Chat Completions take as the name of a function."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool. ``name`` is what the model calls, ``path`` where the request has it."""

    name: str
    tool: FunctionTool | CustomTool
    namespace: str | None
    path: str


def offers(tools: Sequence[Tool]) -> Iterator[Offer]:
    for i, tool in enumerate(tools):
        if isinstance(tool, NamespaceTool):
            for k, member in enumerate(tool.tools):
                yield Offer(joined_name(member.name, tool.name), member, tool.name, f"tools[{i}].tools[{k}]")
        else:
            yield Offer(tool.name, tool, None, f"tools[{i}]")


def joined_name(name: str, namespace: str | None) -> str:
    """*name* in *namespace* as one name; one that grows too long ends in a hash of the whole."""
    if namespace is None:
        return name
    joined = f"{namespace}__{name}"
    if len(joined) <= MAX_NAME_CHARS:
        return joined
    return f"{joined[: MAX_NAME_CHARS - 9]}_{sha256(joined.encode()).hexdigest()[:8]}"


def fits(wanted: FunctionChoice | CustomChoice | AllowedTool, offer: Offer) -> bool:
    """Whether a choice means this tool."""
    if isinstance(wanted, AllowedTool):
        if wanted.type == "namespace":
            return offer.namespace is not None and offer.namespace == wanted.name
        if wanted.namespace is not None and wanted.namespace != offer.namespace:
            return False
        kind = wanted.type
    else:
        kind = "function" if isinstance(wanted, FunctionChoice) else "custom"
    return offer.tool.name == wanted.name and isinstance(offer.tool, CustomTool) == (kind == "custom")


def limit(choice: ToolChoice, offered: Sequence[Offer]) -> frozenset[str] | None:
    """The names that may be called; ``None`` where *choice* sets no limit."""
    if choice == "none":
        return frozenset()
    if isinstance(choice, FunctionChoice | CustomChoice):
        return frozenset(offer.name for offer in offered if fits(choice, offer))
    if isinstance(choice, AllowedTools):
        return frozenset(offer.name for offer in offered if any(fits(one, offer) for one in choice.tools))
    return None
