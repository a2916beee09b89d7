"""./dev bench: what Respool costs, as one table. Each row stands beside the same upstream called directly.

A simulated upstream, an embedded Valkey (append-only file, everysec), one front end and one worker are started for it.
All responses are stored, and every streamed word is in the log. Nothing is asserted about time; an answer that is not
whole makes the exit code 1.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import uvloop
from scenarios import SCENARIOS, SIDES, Bench, Row
from stack import ROOT, Stack

HEADS = ("", "direct p50", "p99", "respool p50", "p99", "difference", "ratio", "CPU", "RSS MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter slices: less than 20 s")
    parser.add_argument("--rounds", type=int, help="requests of a row with one caller, per side (200; quick: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    args = parser.parse_args()
    rounds = max(1, args.rounds or (20 if args.quick else 200))
    about = describe(rounds)
    facts = uvloop.run(run(rounds, slice_s=0.25 if args.quick else 1.0, about=about))
    if args.json:
        args.json.write_text(json.dumps({"about": about} | facts, indent=1) + "\n")
    sys.exit(1 if facts["faults"] else 0)


async def run(rounds: int, *, slice_s: float, about: dict[str, str]) -> dict[str, Any]:
    """Measure everything and print it; the same as data."""
    say("starting ...")
    async with Stack() as stack:
        bench = Bench(stack, rounds, slice_s)
        await bench.measure_idle()
        rows: list[Row] = []
        for number, scenario in enumerate(SCENARIOS, 1):
            say(f"{number}/{len(SCENARIOS)} {scenario.__name__.replace('_', ' ')} ...")
            rows += await scenario(bench)
        memory = {name: round(size / 2**20, 1) for name, size in stack.memory_bytes().items()}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print()
    print(render([HEADS, *(cells(row) for row in rows)]))
    print()
    print(f"Memory at the end, MiB: {', '.join(f'{name} {size}' for name, size in memory.items())}.", end=" ")
    print(f"Idle: {bench.idle_cpu:.1%} of a core.")
    for fault in sorted(set(bench.faults)):
        print(f"WRONG, {bench.faults.count(fault)} times: {fault}")
    facts = {"memory_mib": memory, "idle_cpu": bench.idle_cpu, "faults": bench.faults}
    return facts | {"rows": [figures(row) for row in rows]}


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
    }


def figures(row: Row) -> dict[str, object]:
    middle = {side: row.percentile(side, 0.5) for side in SIDES}
    return {
        "name": row.name,
        "unit": row.unit,
        **{f"{side}_p50": middle[side] for side in SIDES},
        **{f"{side}_p99": row.percentile(side, 0.99) for side in SIDES},
        "difference": middle["ours"] - middle["direct"],
        "ratio": middle["ours"] / middle["direct"],
        "cpu_ms": row.cpu_ms,
        "memory_mib": round(row.memory_bytes / 2**20, 1),
        "samples": {side: len(row.samples[side]) for side in SIDES},
        "stdev": {side: statistics.pstdev(row.samples[side]) for side in SIDES},
    }


def cells(row: Row) -> tuple[str, ...]:
    found = figures(row)
    show = (lambda value: f"{value:,.0f}") if row.unit == "/s" else (lambda value: f"{value:.2f}")
    values = [show(found[name]) for name in ("direct_p50", "direct_p99", "ours_p50", "ours_p99", "difference")]
    memory = f"{row.memory_bytes / 2**20:.0f}" if row.memory_bytes else ""
    return (f"{row.name}, {row.unit}", *values, f"{found['ratio']:.2f}", row.cpu, memory)


def render(lines: list[tuple[str, ...]]) -> str:
    """A Markdown table that is also aligned for the eye; figures to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]

    def draw(line: tuple[str, ...]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        return f"| {line[0].ljust(widths[0])} | {' | '.join(others)} |" if first or others else ""

    rule = tuple("-" * width for width in widths)
    marks = f"| {rule[0]} | {' | '.join(dashes[:-1] + ':' for dashes in rule[1:])} |"
    return "\n".join([draw(lines[0]), marks, *map(draw, lines[1:])])


if __name__ == "__main__":
    main()
