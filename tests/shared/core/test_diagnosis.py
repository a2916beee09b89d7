"""What the doctor says of a snapshot: a row for each kind of trouble, and nothing of what is as it should be."""

from typing import Any

import pytest

from shared.core.diagnosis import Backlog, Case, Limits, Process, Survey, Trouble, diagnose

LIMITS = Limits(max_queue=10, max_queue_s=100)
WORKER, FRONT_END = Process("w-1", alive=True, slots=4), Process("f-1", alive=True)
BOTH = (WORKER, FRONT_END)


def survey(**fields: Any) -> Survey:
    return Survey(**{"processes": BOTH, "tick_s": 0.5, **fields})


def case(**fields: Any) -> Case:
    """One that waits in its queue, as it should."""
    plain = Case("resp_1", 1, "queued", "", "foreground", 0, 0, False, False, 20.0, 1.0, queued=True, readable=True)
    return plain._replace(**fields)


def running(**fields: Any) -> Case:
    return case(**{"owner": "w-1", "status": "in_progress", "queued": False, "due_s": 4.0, **fields})


@pytest.mark.parametrize(
    "healthy",
    [
        survey(),
        survey(cases=[case(), running()], waiting=1, unsettled=2),
        survey(cases=[case(queued=False, waits_s=-3.0, due_s=3.0)]),  # it waits for its next try
        survey(cases=[running(cancel=True, shown=True, crashes=1)]),
        survey(waiting=9, oldest_s=4.0),
        survey(waiting=9, oldest_s=40.0, processes=(WORKER._replace(held=4), FRONT_END)),
        survey(used_bytes=10**12),
        survey(used_bytes=74, max_bytes=100),
        survey(tick_s=None),
        survey(webhooks=[Backlog("ci", 3, 0, 0)]),
    ],
)
def test_nothing_is_said_of_what_is_as_it_should_be(healthy: Survey) -> None:
    assert diagnose(healthy, LIMITS) == []


TROUBLES: list[tuple[Survey, str, str, list[str]]] = [
    (survey(processes=(FRONT_END,)), "no_workers", "", ["nothing is run"]),
    (survey(processes=(WORKER._replace(draining=True), FRONT_END)), "no_workers", "", ["draining"]),
    (survey(processes=(WORKER,)), "no_front_ends", "", ["nobody can create"]),
    (survey(processes=(*BOTH, Process("w-2", alive=False))), "silent_process", "w-2", ["leases are over"]),
    (survey(tick_s=9), "no_ticks", "", ["9 s"]),
    (survey(used_bytes=80, max_bytes=100), "memory", "", ["80%", "refused at 85%"]),
    (survey(used_bytes=90, max_bytes=100), "memory", "", ["90%", "new work is refused,"]),
    (survey(overdue_packs=7), "pack_backlog", "", ["7 ended"]),
    (survey(waiting=10), "queue_full", "", ["503"]),
    (survey(waiting=3, oldest_s=9), "idle_workers", "", ["3 responses", "9 s", "4 free slots"]),
    (survey(strays=[("resp_9", "background")]), "stray_entry", "resp_9", ["background", "drops it"]),
    (survey(webhooks=[Backlog("ci", 3, 2, 0)]), "webhook_backlog", "ci", ["3 events", "2 of them", "no worker"]),
    (survey(webhooks=[Backlog("ci", 3, 0, 1)]), "webhook_failing", "ci", ["1 of", "minutes away", "72 h"]),
    (survey(cases=[case(waits_s=61)]), "queued_long", "resp_1", ["61 s", "failed in 39 s"]),
    (survey(cases=[case(waits_s=101)]), "queued_too_long", "resp_1", ["101 s", "failed in 20 s"]),
    (survey(cases=[case(waits_s=101, due_s=-1)]), "queued_too_long", "resp_1", ["failed now"]),
    (survey(cases=[case(queued=False)]), "unqueued", "resp_1", ["put back in 20 s"]),
    (survey(cases=[case(readable=False)]), "no_request", "resp_1", ["failed when it is claimed"]),
    (survey(cases=[case(version=2)]), "newer_record", "resp_1", ["v 2"]),
    (survey(cases=[running(due_s=-0.5)]), "lease_over", "resp_1", ["0.5 s", "runs again", "now"]),
    (survey(cases=[running(due_s=-2, shown=True)]), "lease_over", "resp_1", ["partial output"]),
    (survey(cases=[running(due_s=-2, crashes=1)]), "lease_over", "resp_1", ["lost a worker before"]),
    (survey(cases=[running(due_s=-2, cancel=True, shown=True)]), "lease_over", "resp_1", ["ends as cancelled"]),
    (survey(cases=[running(due_s=-2)], grace_s=3), "lease_over", "resp_1", ["in 3 s (Redis was away"]),
    (survey(cases=[running(owner="w-9")]), "owner_gone", "resp_1", ["w-9", "over in 4.0 s"]),
]


@pytest.mark.parametrize(
    ("ill", "what", "about", "words"), TROUBLES, ids=[f"{place}-{row[1]}" for place, row in enumerate(TROUBLES)]
)
def test_trouble_is_told_with_what_comes_of_it(ill: Survey, what: str, about: str, words: list[str]) -> None:
    (trouble,) = diagnose(ill, LIMITS)
    assert (trouble.what, trouble.about) == (what, about)
    assert [word for word in words if word not in trouble.message] == []


def test_without_workers_nothing_happens_until_one_runs() -> None:
    nobody, lost = diagnose(survey(processes=(FRONT_END,), cases=[running(due_s=-2)]), LIMITS)
    assert nobody.what == "no_workers"
    assert lost == Trouble(
        "lease_over", "resp_1",
        "its lease (w-1) has been over for 2.0 s: it runs again, because nobody has seen output, as soon as a worker runs",
    )  # fmt: skip
