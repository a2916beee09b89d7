"""What a soak plays on: the processes, the backend, and what is counted."""

import asyncio
import contextlib
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from redis.exceptions import RedisError

from fakes.upstream import Call, Close, Script, full_text, status
from support.checker import Rules, Violation, describe, judge
from support.cluster import Cluster, Process, chat_model
from support.contract import TERMINAL
from support.faults import NamedUpstream
from support.history import histories
from support.proxy import Proxy
from support.recorder import Recorder
from support.stored import Stored, StoredResponse, read_store

FRONT_ENDS, WORKERS = 2, 3
BACKEND_TIMEOUT_S = 4
DEADLINE_S = 120.0
"""By Redis' clock, from the acceptance of a response to its end, whatever is done to it meanwhile."""
LOOK_S = 0.2
START_TRIES = 10
SHOWN = 20
"""Responses that are described in full."""
ENV = {
    "RESPOOL_DRAIN_S": "3", "RESPOOL_SSE_PING_S": "2", "RESPOOL_SSE_WRITE_TIMEOUT_S": "5", "RESPOOL_RETENTION_S": "86400",
    "LOG_LEVEL": "info",
}  # fmt: skip


class SoakUpstream(NamedUpstream):
    """Fails every call while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: random.Random | None = None
        self.failed = 0

    def _respond(self, call: Call) -> Script:
        script = super()._respond(call)
        if self.failing is None:
            return script
        self.failed += 1
        return self.failing.choice(([Close()], [status(500)], [status(503, headers={"Retry-After": "1"})]))


@dataclass(frozen=True, slots=True)
class Ended:
    """What was stored of a response when it was judged: it must be the same at the end of all."""

    status: str
    body: int
    log: int


@dataclass
class World:
    """``async with`` starts everything; replaced processes are started by whoever ended the old ones."""

    workers: int = WORKERS
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Kinds of faults that hit."""
    struck: list[str] = field(default_factory=list)
    """Every fault with its times, in the order of their ends."""
    violations: list[Violation] = field(default_factory=list)
    described: int = 0
    judged: set[str] = field(default_factory=set)
    ended: dict[str, Ended] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    gave_up: list[str] = field(default_factory=list)
    """Clients that waited in vain, or met an answer that they did not expect."""
    env: dict[str, str] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.upstream = await stack.enter_async_context(SoakUpstream())
            timeouts = {"idle_timeout_s": BACKEND_TIMEOUT_S, "first_byte_timeout_s": BACKEND_TIMEOUT_S}
            config = chat_model(self.upstream.base_url, **timeouts)
            self.cluster = await stack.enter_async_context(Cluster(ENV | self.env, config))
            self.proxy = await stack.enter_async_context(Proxy(str(self.cluster.socket)))
            await asyncio.gather(*(self.start_front_end(proxied=number == 0) for number in range(FRONT_ENDS)))
            await asyncio.gather(*(self.start_worker(proxied=number == 0) for number in range(self.workers)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    # processes

    async def start_front_end(self, *, proxied: bool) -> None:
        await self._start(self.cluster.start_front_end, proxied)

    async def start_worker(self, *, proxied: bool) -> None:
        await self._start(self.cluster.start_worker, proxied)

    async def _start(self, start: Callable[..., Awaitable[Process]], proxied: bool) -> None:
        """As a supervisor does: again, when a fault was in the way of the start."""
        env = {"REDIS_URL": self.proxy.redis_url} if proxied else {}
        for tries_left in reversed(range(START_TRIES)):
            try:
                process = await start(**env)
            except AssertionError:  # it has ended, or is not ready in time; the cluster kills it at the end
                self.counts["failed starts"] += 1
                if not tries_left:
                    raise
            else:
                process.proxied = proxied
                return

    def origins(self) -> list[str]:
        return [each.origin for each in self.cluster.front_ends if each.child.returncode is None]

    # judging

    async def judge(self, recorder: Recorder) -> None:
        """Everything that one client saw, when its responses have ended."""
        seen = histories(recorder.exchanges)
        stored = await self._settled(list(seen))
        found = judge(recorder.exchanges, stored, self.rules)
        for response_id, history in seen.items():
            kept = stored.responses.get(response_id)
            if kept is not None:
                self.counts[kept.status] += 1
                if kept.record.get("store") == "1":  # the others may be gone before the end of all
                    self.ended[response_id] = _ended(kept)
                self.judged.add(response_id)
            elif history.deletes:
                self.counts["deleted"] += 1
                self.deleted.add(response_id)
        self._note(found, recorder, stored)

    async def judge_rest(self) -> Stored:
        """Everything that is stored, when all has ended: also what no client knows of."""
        stored = await read_store(self.cluster.redis)
        unknown = {key: kept for key, kept in stored.responses.items() if key not in self.judged}
        found = judge([], Stored(unknown, stored.left), self.rules)
        for kept in unknown.values():
            self.counts[kept.status] += 1
            self.counts["nobody's"] += 1
        for response_id, before in self.ended.items():
            now = stored.responses.get(response_id)
            if now is None:
                found.append(Violation("lost", "was stored when it had ended, and is not any more", response_id))
            elif _ended(now) != before:
                found.append(Violation("flipped", f"was {before} when it had ended, is {_ended(now)}", response_id))
        found += [Violation("left", "was deleted, and is there", each) for each in self.deleted & set(stored.responses)]
        self._note(found, Recorder(), stored)
        return stored

    @property
    def rules(self) -> Rules:
        return Rules(deadline_s=DEADLINE_S, calls=self.upstream.calls_of, text=full_text)

    async def _settled(self, ids: list[str]) -> Stored:
        """What is stored of them, once all have ended; after their deadline, as it is."""
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while True:
            late = asyncio.get_running_loop().time() > deadline
            try:
                stored = await read_store(self.cluster.redis, ids)
                if late or all(kept.status in TERMINAL for kept in stored.responses.values()):
                    return stored
            except (RedisError, OSError):
                if late:
                    raise
            await asyncio.sleep(LOOK_S)

    def _note(self, found: list[Violation], recorder: Recorder, stored: Stored) -> None:
        seen = histories(recorder.exchanges)
        self.violations += found
        for response_id in {violation.response_id for violation in found}:
            lines = [str(violation) for violation in found if violation.response_id == response_id]
            if response_id in seen:
                name = str(seen[response_id].sent.get("input", "")).partition(" ")[0]
                calls = [
                    f"{call.index} {call.outcome} at {call.at:.3f}, {call.sent_bytes} bytes"
                    for call in self.upstream.calls_of(name)
                ]
                lines.append(describe(seen[response_id], stored.responses.get(response_id), calls))
            lines += [f"  {line}" for line in self._logged(response_id)]
            if self.described < SHOWN:
                print("", *lines, sep="\n", flush=True)
            self.described += 1

    def _logged(self, response_id: str) -> list[str]:
        return [
            f"{process.name} {line}"
            for process in self.cluster.processes
            for line in process.lines
            if response_id and line.get("response_id") == response_id
        ]

    def logged(self) -> Counter[str]:
        """How often each event was logged, by all processes together."""
        lines = (line for process in self.cluster.processes for line in process.lines)
        return Counter(f"{line.get('event')}" for line in lines)

    def faults_of_ours(self) -> list[str]:
        """What a process logged as an error of its own, and what it said that is no log line."""
        ours = [each for each in self.cluster.processes if each.find("process.started")]  # not a start that a fault met
        found = [f"{each.name} {line}" for each in ours for line in each.lines if line.get("level") == "error"]
        return found + [f"{each.name}: {line}" for each in ours for line in each.text]

    def broken(self) -> dict[str, int]:
        """How often each promise was broken."""
        return dict(Counter(violation.promise for violation in self.violations))

    def crashed(self, client: "asyncio.Task[None]") -> None:
        """To be called when a client's task has ended."""
        if not client.cancelled() and (error := client.exception()):
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.gave_up.append(
                f"{client.get_name()}: {type(error).__name__}: {error} in {where.name}, line {where.lineno}"
            )

    async def all_ended(self) -> bool:
        """Wait until no response is unsettled, at most until the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    with contextlib.suppress(RedisError, OSError):
                        if not await self.cluster.redis.exists("rs:{00}:live"):
                            return True
                    await asyncio.sleep(LOOK_S)
        return False


def _ended(kept: StoredResponse) -> Ended:
    return Ended(kept.status, hash(repr(kept.object)), hash(kept.log))
