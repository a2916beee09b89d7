"""Other builds of this checkout: copies with faults in them, which tests start instead of the real thing.

    broken = build(cluster.folder / "broken", Edit("shared/store/lua/renew.lua", "what stands there", "what shall"))
    await cluster.start_worker(**broken)

    late = build(cluster.folder / "late", prelude=clock(60))      # code that runs before the room does

A build is needed where no signal, proxy or setting can provoke a fault: clocks, blocked loops, a death between two
certain lines, or a mechanism that is switched off. The product itself knows nothing of them. Preludes say
``{"event": "fault.hit", "fault": ...}`` on the process' output, so ``process.logged("fault.hit")`` waits for it.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
ROOMS = ("api", "worker")


class Edit(NamedTuple):
    """*old* must be in the file exactly once, so that an edit cannot go stale in silence."""

    path: str
    old: str
    new: str


def build(folder: Path, *edits: Edit, prelude: str = "") -> dict[str, str]:
    """Copy the product to *folder*, changed. Returns the environment in which processes run that copy."""
    for name in ("shared", *ROOMS):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, old, new in edits:
        text = (folder / path).read_text()
        assert text.count(old) == 1, f"{path} holds {text.count(old)} times what is to be edited: {old!r}"
        (folder / path).write_text(text.replace(old, new))
    for room in ROOMS if prelude else ():
        main = folder / room / "__main__.py"
        main.write_text(f"{SAY}{prelude}\n{main.read_text()}")
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}  # and not the folder that the tests run in


SAY = """
import json

def hit(fault):
    print(json.dumps({"event": "fault.hit", "fault": fault}), flush=True)
"""

DIE_BEFORE_SETTLE = """
import asyncio
from worker.outbox import Line

async def settle(line, *args, **options):
    hit("before settle")
    await asyncio.Event().wait()  # until it is killed

Line.settle = settle
"""

DIE_AFTER_SETTLE = """
import asyncio
from worker.outbox import Line

inner = Line.settle

async def settle(line, *args, **options):
    await inner(line, *args, **options)
    hit("after settle")
    await asyncio.Event().wait()

Line.settle = settle
"""

POISON = """
import os
import msgspec
from worker.backends.base import Backends

inner = Backends.ask

async def ask(self, call, *args):
    if b"poison" in msgspec.json.encode(call.items):
        hit("poison")
        os._exit(1)
    return await inner(self, call, *args)

Backends.ask = ask
"""


def clock(shift_s: float) -> str:
    """The process believes that it is so much later; its monotonic clock is as it was."""
    return f"""
import time
inner = time.time
time.time = lambda: inner() + ({shift_s!r})
hit("clock {shift_s:+g}")
"""


def block(seconds: float) -> str:
    """Soon after the first renewal of any lease the whole event loop stands still for so long."""
    return f"""
import asyncio
import time
from worker.lease import Leases

inner = Leases._renew

def block():
    hit("blocked")
    time.sleep({seconds!r})
    hit("unblocked")

async def renew(self):
    if self.held and not hasattr(self, "blocks"):
        self.blocks = asyncio.get_running_loop().call_later(0.1, block)
    await inner(self)

Leases._renew = renew
"""
