"""./dev soak: two front ends, three workers and a Redis of their own under load, and a nemesis that breaks all of them.

What each client does and which fault comes when follows from the seed. Every response is judged by the checker
(tests/support/checker.py) when its client has finished, and again at the end, together with what no client knows of.
Exits with 1 when a promise was broken, when a client waited in vain, or when a kind of fault was planned and never hit.
"""

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import uvloop

from soak.figures import FIGURES, figure
from soak.nemesis import Nemesis
from soak.plan import plan_faults, plan_stories
from soak.stories import tell
from soak.world import World

RATE_PER_S = 8.0
MAX_AT_ONCE = 400
LINE_S = 5.0
SHOWN = 20
STATUSES = ("completed", "incomplete", "failed", "cancelled", "deleted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long new work comes (60)")
    parser.add_argument("--seed", type=int, default=None, help="of all plans; printed when it is drawn")
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help=f"new clients per second ({RATE_PER_S:g})")
    parser.add_argument("--responses", type=int, default=None, help="no new work after so many accepted responses")
    parser.add_argument("--calm", action="store_true", help="without the nemesis")
    parser.add_argument("--figure", choices=FIGURES, help="instead: measure one row of the table in docs/faults.md")
    args = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the fake backend's callers go away in mid-answer
    if args.figure:
        sys.exit(uvloop.run(figure(args.figure)))
    seed = int(time.time()) if args.seed is None else args.seed
    sys.exit(uvloop.run(soak(args.seconds, seed, args.rate, args.responses, calm=args.calm)))


async def soak(seconds: float, seed: int, rate: float, responses: int | None, *, calm: bool) -> int:
    """The exit code."""
    say(f"seed {seed}, {seconds:g} s, {rate:g} clients/s")
    plan = [] if calm else plan_faults(seed, seconds)
    async with World() as world:
        started = asyncio.get_running_loop().time()
        line = asyncio.create_task(live_line(world, started))
        nemesis = asyncio.create_task(Nemesis(world).run(plan, started))
        await load(world, seed, rate, seconds, responses)
        if responses is not None:
            nemesis.cancel()
        await asyncio.wait([nemesis])
        quiet = await world.all_ended()
        line.cancel()
        await world.judge_rest()
        if not nemesis.cancelled():
            nemesis.result()
        say(counts(world))
        return report(world, {fault.kind for fault in plan}, quiet=quiet)


async def load(world: World, seed: int, rate: float, seconds: float, responses: int | None) -> None:
    """New clients for so long, then until the last one has finished."""
    loop, going = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    started = at = loop.time()
    for gap_s, story in plan_stories(seed, rate):
        at += gap_s
        if at - started > seconds or (responses is not None and world.counts["accepted"] >= responses):
            break
        await asyncio.sleep(max(0.0, at - loop.time()))
        if len(going) >= MAX_AT_ONCE:
            await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(tell(world, story), name=str(story))
        going.add(task)
        task.add_done_callback(going.discard)
        task.add_done_callback(world.crashed)
        world.counts["clients"] += 1
    if going:
        await asyncio.wait(going)


async def live_line(world: World, started: float) -> None:
    while True:
        await asyncio.sleep(LINE_S)
        say(f"{asyncio.get_running_loop().time() - started:.0f} s: {counts(world)}")


def counts(world: World) -> str:
    ended = sum(world.counts[status] for status in STATUSES)
    parts = [f"accepted {world.counts['accepted']}", f"running {max(0, world.counts['accepted'] - ended)}"]
    parts += [
        f"{name} {world.counts[name]}" for name in (*STATUSES, "resumed", "refused", "nobody's") if world.counts[name]
    ]
    parts += [f"faults {world.faults.total()}", f"violations {len(world.violations)}"]
    return ", ".join(parts)


def report(world: World, planned: set[str], *, quiet: bool) -> int:
    """Print the verdict; the exit code."""
    if world.violations:
        print("\nfaults, from their beginning to when they were mended:", *world.struck, sep="\n  ")
    say("other counts: " + ", ".join(f"{name} {count}" for name, count in sorted(world.counts.items())))
    say("faults that hit: " + ", ".join(f"{kind} {world.faults[kind]}" for kind in sorted(planned)))
    say("logged: " + ", ".join(f"{event} {count}" for event, count in sorted(world.logged().items())))
    missing = sorted(kind for kind in planned if not world.faults[kind])
    faults = [f"client without an end: {line}" for line in world.gave_up]
    faults += [f"fault of ours: {line}" for line in world.faults_of_ours()]
    faults += [f"never hit: {kind}" for kind in missing] + ([] if quiet else ["responses are unsettled at the end"])
    for line in faults[:SHOWN]:
        say(line)
    bad = {violation.response_id for violation in world.violations}
    judged = len(world.judged) + len(world.deleted) + world.counts["nobody's"]
    say(f"verdict: {len(world.violations)} violations, by promise {world.broken()}")
    print(f"{judged - len(bad)} passed, {len(bad) + len(faults)} failed", flush=True)
    return 1 if world.violations or faults else 0


def say(text: str) -> None:
    print(f"soak: {text}", flush=True)


if __name__ == "__main__":
    main()
