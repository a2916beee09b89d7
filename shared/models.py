"""The model table by the names that clients use."""

from collections.abc import Mapping

from shared.settings import ModelRow

MAX_MODEL_NAME = 256  # characters; no longer name is looked up


def find_model(models: Mapping[str, ModelRow], name: str, channel: str = "") -> ModelRow | None:
    """The row for a public model name: the exact one, else that of the longest pattern that fits. Only rows of
    *channel* count; the empty one has those without."""
    row = models.get(name)
    if row is not None and row.channel == channel and not row.name:
        return row
    offered = models_of(models, channel)
    if name in offered:
        return offered[name]
    fitting = [pattern for pattern in offered if fits(pattern, name)]
    return offered[max(fitting, key=len)] if fitting else None


def models_of(models: Mapping[str, ModelRow], channel: str = "") -> dict[str, ModelRow]:
    """The rows of *channel* under their public names."""
    return {row.name or name: row for name, row in models.items() if row.channel == channel}


def channels_of(models: Mapping[str, ModelRow]) -> set[str]:
    return {row.channel for row in models.values()} - {""}


def fits(pattern: str, name: str) -> bool:
    """Whether *name* is *pattern* with any text for each ``*``. Linear in both."""
    first, *middle = pattern.split("*")
    if not middle or len(name) > MAX_MODEL_NAME or not name.startswith(first):
        return False
    *middle, last = middle
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return at <= end and name.endswith(last)
