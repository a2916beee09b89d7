"""What a room sets about garbage collection, seen from a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOOK = """
import gc
from shared.garbage import collect_rarely
collect_rarely()
print(gc.isenabled(), gc.get_freeze_count() > 1000, gc.get_threshold()[0] >= 10_000)
cycle = []
cycle.append(cycle)
del cycle
print(gc.collect() > 0)
"""


def test_cycles_are_still_collected() -> None:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["True", "True", "True", "True"]
