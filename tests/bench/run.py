"""./dev bench: what Respool costs, as one table. Each figure stands beside the same upstream called directly, and beside
what it must be and what it should be on a machine with 2 cores.

A simulated upstream, an embedded Valkey (append-only file, everysec), one front end and one worker are started for it.
All responses are stored, and every streamed word is in the log. Nothing is asserted about time; an answer that is not
whole makes the exit code 1.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import scale
import scenarios
import uvloop
from lines import HEADS, Line, render
from scenarios import Bench
from stack import ROOT, Stack

SCENARIOS = (
    scenarios.round_trip, scenarios.first_delta, scenarios.fast_stream, scenarios.many_streams, scenarios.background,
    scenarios.polls, scenarios.subscribers, scenarios.resume, scale.stored_bytes, scale.words_flat, scale.stored_flat,
    scale.chains_flat, scale.queue_flat, scale.rooms_flat,
)  # fmt: skip

Scenario = Callable[[Bench], Awaitable[Sequence[Line]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a rough table in 25 s: fewer rounds, shorter slices, smaller crowds"
    )
    parser.add_argument(
        "--only", default="", metavar="NAME,...", help="only scenarios whose names hold one of these: fast_stream"
    )
    parser.add_argument("--rounds", type=int, help="requests of a row with one caller, per side (200; quick: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    args = parser.parse_args()
    rounds = max(1, args.rounds or (20 if args.quick else 200))
    about = describe(rounds)
    chosen = [scenario for scenario in SCENARIOS if any(part in scenario.__name__ for part in args.only.split(","))]
    if not chosen:
        parser.error(f"no such scenario; there are: {', '.join(scenario.__name__ for scenario in SCENARIOS)}")
    facts = uvloop.run(run(chosen, rounds, slice_s=0.1 if args.quick else 1.0, about=about))
    if args.json:
        args.json.write_text(json.dumps({"about": about} | facts, indent=1) + "\n")
    sys.exit(1 if facts["faults"] else 0)


async def run(chosen: Sequence[Scenario], rounds: int, *, slice_s: float, about: dict[str, str]) -> dict[str, Any]:
    """Measure everything and print it; the same as data."""
    say("starting ...")
    async with Stack() as stack:
        bench = Bench(stack, rounds, slice_s)
        await bench.measure_idle()
        lines: list[Line] = []
        for number, scenario in enumerate(chosen, 1):
            say(f"{number}/{len(chosen)} {scenario.__name__.replace('_', ' ')} ...")
            lines += await scenario(bench)
        memory = {name: round(size / 2**20, 1) for name, size in stack.memory_bytes().items()}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print()
    print(render([HEADS, *(line.cells() for line in lines)]))
    print()
    print(f"Memory at the end, MiB: {', '.join(f'{name} {size}' for name, size in memory.items())}.", end=" ")
    print(f"Idle: {bench.idle_cpu:.1%} of a core.")
    for fault in sorted(set(bench.faults)):
        print(f"WRONG, {bench.faults.count(fault)} times: {fault}")
    facts = {"memory_mib": memory, "idle_cpu": bench.idle_cpu, "faults": bench.faults}
    return facts | {"rows": [line.facts() for line in lines]}


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def describe(rounds: int) -> dict[str, str]:
    """What a reader needs to place the figures."""
    commit = "unknown"
    try:
        git = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return {
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "Python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "rounds": str(rounds),
        "a round of a Python loop": f"{loop_round_ns():.0f} ns",
    }


def loop_round_ns() -> float:
    """How fast this machine and this Python are now, told by a loop that only adds: the best of five."""
    count, best = 200_000, float("inf")
    for _ in range(5):
        began, total = time.process_time_ns(), 0
        for number in range(count):
            total += number
        best = min(best, (time.process_time_ns() - began) / count)
    return best


if __name__ == "__main__":
    main()
