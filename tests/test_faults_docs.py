"""docs/faults.md names tests that exist, and every test of a mechanism that is switched off."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent / "integration"
DOCS = (Path(__file__).parents[1] / "docs/faults.md").read_text()
NAMED = re.findall(r"`([\w./]+\.py)::(test_\w+)`", DOCS)


def names_in(name: str) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)", (FOLDER / name).read_text(), re.MULTILINE)


def test_every_test_exists() -> None:
    assert NAMED
    assert [pair for pair in NAMED if pair[1] not in names_in(pair[0])] == []


def test_every_test_of_these_files_is_in_the_table() -> None:
    for name in ("test_inputs.py", "test_moments.py", "test_negative.py", "test_network.py"):
        assert {test for file, test in NAMED if file == name} == set(names_in(name))


def test_every_row_is_there_in_order() -> None:
    rows = [int(row) for row in re.findall(r"^\| (\d+) \|", DOCS, re.MULTILINE)]
    assert rows == list(range(1, 91))
