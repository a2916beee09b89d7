"""The benchmark runs from end to end, finds whole answers, and prints its table. Its figures are nobody's assertion."""

import json
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run.py")
ROWS = {
    "stream, 1 caller: create to first text delta, ms",
    "stream, 32 callers: create to first text delta, ms",
    "no stream, 1 caller: round trip, ms",
    "no stream, 16 callers: requests, /s",
    "no stream, 16 callers: round trip, ms",
    "one fast stream of 1,000 words: words, /s",
    "200 streams of 20 words/s: lateness of a word, ms",
    "background, 16 callers: creates, /s",
    "poll, 16 callers: requests, /s",
    "resume in mid-stream, 1 caller: to first event, ms",
}


def test_the_benchmark_prints_its_table(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(RUN), "--quick", "--rounds", "3", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert {line[0].strip() for line in lines[2:]} == ROWS
    assert {len(line) for line in lines} == {9}
    facts = json.loads(file.read_text())
    assert {f"{row['name']}, {row['unit']}" for row in facts["rows"]} == ROWS
    assert all(count > 0 for row in facts["rows"] for count in row["samples"].values())
    assert facts["about"].keys() == {"commit", "date", "Python", "cores", "rounds"}
