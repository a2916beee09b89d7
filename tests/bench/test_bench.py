"""The benchmark runs from end to end, finds whole answers, and prints its table. Its figures are nobody's assertion."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


@pytest.mark.timeout(200)
def test_the_benchmark_prints_its_table(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(RUN), "--quick", "--rounds", "3", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {9}
    facts = json.loads(file.read_text())
    assert len(facts["rows"]) == len(lines) - 2
    assert all(math.isfinite(row["ours"]) for row in facts["rows"])
    assert all(row["met"] is not None for row in facts["rows"] if row["must"] is not None)
    must = {row["name"] for row in facts["rows"] if row["must"] is not None}
    assert len(must) >= 25
    lost = [row["ours"] for row in facts["rows"] if row["name"].endswith("lost words")]
    assert lost == [0]
    assert facts["about"].keys() == {"commit", "date", "Python", "cores", "rounds", "a round of a Python loop"}


def test_one_scenario_alone() -> None:
    command = [sys.executable, str(RUN), "--only", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "round_trip" in done.stderr
