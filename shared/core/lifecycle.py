"""The one table of statuses. Redis scripts are loaded with it, so it holds on both sides."""

from collections.abc import Mapping

from shared.wire.responses import Status

NEXT: Mapping[Status, frozenset[Status]] = {
    "queued": frozenset({"in_progress", "failed", "cancelled"}),
    "in_progress": frozenset({"completed", "incomplete", "failed", "cancelled"}),
    "completed": frozenset(),
    "incomplete": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
MAX_CRASHES = 2
"""So many executions may lose their worker; then the response ends as failed."""
SCHEMA = 1
"""The version of the records that this code writes, and the highest that it understands."""
TERMINAL = frozenset(status for status, after in NEXT.items() if not after)


def lua_table() -> str:
    """``NEXT`` as a Lua table constructor: ``{queued={in_progress=true, ...}, ...}``."""
    rows = (f"{before}={{{','.join(f'{after}=true' for after in sorted(NEXT[before]))}}}" for before in NEXT)
    return "{" + ",".join(rows) + "}"
