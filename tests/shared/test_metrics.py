"""What is counted, how it is told and shown; and the docs, which list every name."""

import re
from pathlib import Path

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from shared import metrics
from shared.logs import EVENTS, configure

DOCS = (Path(__file__).parents[2] / "docs/metrics.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = re.split(r"^## ", DOCS.partition(f"## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| `.*$", section, re.MULTILINE)
    ]


def value(name: str, labels: dict[str, str]) -> float:
    return next((value for found, has, value in metrics.samples() if (found, has) == (name, labels)), 0.0)


def test_the_docs_list_what_processes_count_and_no_more() -> None:
    ours = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in metrics.REGISTRY.collect()
    }
    assert {name.strip("`"): kind for name, kind, *_ in rows("Counted by each process")} == ours


def test_the_docs_list_the_gauges_with_their_labels_and_no_more() -> None:
    found = {name.strip("`"): labels.strip("`") for name, labels, _ in rows("Of the whole")}
    assert found == {name: label for name, (label, _) in metrics.GAUGES.items()}


@pytest.mark.parametrize("event", re.findall(r"`([a-z]+\.[a-z]+)`", DOCS.replace("logs.md", "")))
def test_the_events_that_the_docs_name_exist(event: str) -> None:
    assert event in EVENTS


@pytest.mark.parametrize("level", ["debug", "warning", "critical"])
def test_events_are_counted_whatever_the_log_level(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(level, "json")
    before = value("respool_events_total", {"event": "response.refused"})
    by_reason = value("respool_refused_total", {"reason": "queue"})
    structlog.get_logger().info("response.refused", reason="queue")
    structlog.get_logger().info("no event of ours")
    assert value("respool_events_total", {"event": "response.refused"}) == before + 1
    assert value("respool_refused_total", {"reason": "queue"}) == by_reason + 1
    assert ("response.refused" in capsys.readouterr().out) == (level == "debug")
    assert {labels["event"] for name, labels, _ in metrics.samples() if name == "respool_events_total"} == set(EVENTS)


def test_what_processes_tell_is_shown_side_by_side() -> None:
    now = 100.0
    report = metrics.Report(lambda: now)
    metrics.count("lease.lost", {})
    metrics.RUN.observe(2)
    told = metrics.read_report(bytes(report.fields()["metrics"]))
    assert report.fields() == {}  # not with every heartbeat
    now += metrics.TELL_S
    assert report.fields()
    shown = metrics.render(
        {"w-1": told, "f-1": told}, {"respool_queue_depth": {"foreground": 3}, "respool_running": {"": 1}}
    )
    families = {family.name: family for family in text_string_to_metric_families(shown.decode())}
    lost = [one for one in families["respool_events"].samples if one.labels["event"] == "lease.lost"]
    assert [one.labels["process"] for one in lost] == ["w-1", "f-1"]
    assert {one.value for one in lost} == {value("respool_events_total", {"event": "lease.lost"})}
    assert families["respool_run_seconds"].type == "histogram"
    runs = [one.labels for one in families["respool_run_seconds"].samples if one.name.endswith("_bucket")]
    assert {"process": "w-1", "le": "2.5"} in runs
    assert families["respool_queue_depth"].samples[0].labels == {"lane": "foreground"}
    assert families["respool_running"].samples[0].value == 1


def test_what_another_version_tells_does_not_end_the_page() -> None:
    odd = [("respool_of_tomorrow_total", {"of": "x"}, 1.0)]
    assert b"tomorrow" not in metrics.render({"w-1": odd}, {})
    assert metrics.read_report(b"\xff") == metrics.read_report(b'{"a":1}') == []
