"""The snapshot that `respool doctor` judges: one script, and the heartbeats of the processes."""

from shared.core.diagnosis import Backlog, Case, Process, Survey
from shared.store.processes import living
from shared.store.redis import Store
from shared.store.responses import Responses

MOST = 2000
"""Responses, and entries of each lane, that are looked at: 10 ms of Redis' time."""
BUDGET_S = 5.0


async def survey(store: Store, partition: str) -> Survey:
    """Raises ``StoreUnavailable``."""
    answer = await store.call("survey", partition, MOST, budget_s=BUDGET_S)
    unsettled, waiting, oldest_ms, overdue, tick_ms, grace_ms, rows, strays, hooks = answer
    used_bytes, max_bytes = await Responses(store).memory()
    heartbeats = await living(store.client)
    processes = [
        Process(name, bool(row), int(row.get("held", 0)), int(row.get("slots", 0)), row.get("draining") == b"1")
        for name, row in heartbeats.items()
    ]
    return Survey(
        cases=[_case(row) for row in rows], strays=[(response_id.decode(), lane.decode()) for response_id, lane in strays],
        unsettled=unsettled, waiting=waiting, oldest_s=int(oldest_ms) / 1000, overdue_packs=overdue,
        tick_s=int(tick_ms) / 1000 if tick_ms else None, grace_s=grace_ms / 1000, processes=processes,
        used_bytes=used_bytes, max_bytes=max_bytes,
        webhooks=[Backlog(endpoint.decode(), *counts) for endpoint, *counts in hooks],
    )  # fmt: skip


def _case(row: list[bytes | int]) -> Case:
    words = [cell.decode() if isinstance(cell, bytes) else str(cell) for cell in row]
    response_id, version, status, owner, lane, attempt, crashes, shown, cancel, due_ms, waits_ms, queued, readable = (
        words
    )
    return Case(
        response_id, int(version), status, owner, lane, int(attempt), int(crashes), shown == "1", cancel == "1",
        int(due_ms) / 1000, int(waits_ms) / 1000, queued == "1", readable == "1",
    )  # fmt: skip
