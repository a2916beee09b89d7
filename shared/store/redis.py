"""Redis: connections, the scripts, and every key name.

Keys (prefix ``rs:{pp}:``, so that all keys of a response are in one slot):

=================  ======  ==========================================================  =====================
r:<id>             hash    the record: status, attempt, owner, seq, shown, cancel ...   keep_s after the end
q:<id>             string  the validated request, JSON                                  until the end
b:<id>             hash    the block, all that is large: parent, refs, deleted, input   keep_s, or longer
                           and output items (JSON arrays), the Response without them
                           (its status is overruled by the record's) and where they
                           were cut out, what was read of a conversation (its id, two
                           numbers); packed (``shared/core/packing.py``): the log,
                           instead of output and Response, and the output's size
e:<id>             stream  event batches, entry id <last number + 1>-0                  until it is packed
c:<conversation>   hash    record: metadata, next item number, size, refs, lock ...    retention_s, not while
                                                                                       a response holds it
ci:<conversation>  list    its items: batches (JSON arrays) in order, only ever added  as its record
cd:<conversation>  zset    ids of deleted items -> order of deletion                   as its record
cm:<call>          string  items were added by this call (it may be repeated)          10 s
live               zset    unsettled responses -> Redis ms at which to look             -
pack               zset    ended responses -> Redis ms at which to pack them            -
tick, grace        string  Redis ms once a second; set while leases get extra time      1 day; a lease
aged               zset    with max_stored_bytes: ended responses -> Redis ms of     keep_s of the last
                           their end
purging            string  ended responses are listed in aged                          a minute, renewed
hooks              hash    with webhooks: endpoint -> until when it counts, and what    1 day, renewed
                           it wants to hear of
hooks:<endpoint>   zset    ended responses -> Redis ms at which to tell it; how often   72 h
                           that was tried is in the record (hook:<endpoint>)
bell               list    at most one wake token                                       -
slots:<backend>    zset    who holds a place at a backend with a limit -> Redis ms of   a lease
                           its end
t:<tenant>         hash    numbers of its unsettled responses: active, running          until there are none
turn:<tenant>:     string  its last place in the lane                                   1 day
<lane>[:urgent]
ends               hash    how many have ended, by status                                1 day, renewed
ratios             hash    model -> bytes and tokens of inputs, as backends counted     30 days
claimed:<worker>   hash    the last claim's answer                                      10 s
idem:<tenant>:<h>  string  Idempotency-Key (hashed) -> id, hash of the body             1 day
keys               hash    name of an API key -> its sha256                             -
k:<sha256>         hash    an API key: name, tenant, created, used                      -
=================  ======  ==========================================================  =====================

Besides: ``arq:queue:{pp}:<lane>`` and ``arq:job:{pp}:<id>`` in arq's layout, ``rs:w:<worker>`` and ``rs:f:<front end>``
(heartbeats, 10 s), ``rs:u`` (the same of `respool up`, which sees so whether Redis takes them), and the channels
``rs:in:<process>``.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, Literal, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import (
    ClusterDownError,
    DataError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.core.lifecycle import SCHEMA, lua_table
from shared.errors import NewerRecord, StoreUnavailable
from shared.store.commands import Commands, Word, pack

SOCKET_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 1.0
POOL_WAIT_S = 2.0
HEARTBEAT_S = 10
FIRST_RETRY_S = 0.05
LOST = (RedisConnectionError, RedisTimeoutError, OSError, TypeError, RuntimeError)
"""What is raised when the connection is lost. A write on one that is gone raises a bare TypeError on Python 3.12+
(cpython#136234), and a RuntimeError ("the handler is closed") on uvloop."""

Script = Literal[
    "block", "cancel", "chain", "claim", "delete", "flush", "leave", "pack", "read", "reap", "release", "renew", "requeue", "submit", "takeover",
    "slot_free", "slot_keep", "slot_take", "survey", "tick", "watch", "conversation_add", "conversation_create", "conversation_delete", "conversation_drop",
    "conversation_read", "conversation_update", "attend", "recall", "key_create", "key_find", "key_list", "key_revoke", "learn", "purge", "age",
    "hook_take", "hook_done",
]  # fmt: skip
Result = TypeVar("Result")


def prefix(partition: str) -> str:
    """The prefix of a partition's keys; also the one key that every script is given."""
    return f"rs:{{{partition}}}:"


def job_id(response_id: str, partition: str) -> str:
    """A response's member in arq's queue."""
    return f"{{{partition}}}:{response_id}"


def bell_key(partition: str) -> str:
    return f"{prefix(partition)}bell"


def inbox_channel(process: str) -> str:
    return f"rs:in:{process}"


class Client(Redis):
    """redis-py's client, and beside its pool one connection for scripts, which opens when it is first used."""

    commands: Commands

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self.commands.aclose()
        await super().aclose(close_connection_pool)


def connect(url: str, *, connections: int = 64, socket_timeout_s: float = SOCKET_TIMEOUT_S) -> Client:
    """A client with a pool of its own. Waiting for a connection is bounded; a silent server is noticed.

    The caller closes it with ``aclose()``, which closes the pool too.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=POOL_WAIT_S,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=0,
        **({} if url.startswith("unix") else {"socket_keepalive": True}),
    )
    client = Client(connection_pool=pool)
    client.auto_close_connection_pool = True
    client.commands = Commands(pool)
    return client


def _load(name: Script) -> bytes:
    """A script: its first line, what every script needs, the parts that its line ``-- with`` names, and itself."""
    folder = resources.files("shared.store") / "lua"
    shebang, _, body = folder.joinpath(f"{name}.lua").read_text().partition("\n")
    named = re.match(r"-- with (.+)\n", body)
    parts = [f"parts/{part}" for part in named[1].split(", ")] if named else []
    texts = [folder.joinpath(f"{part}.lua").read_text() for part in ("common", *parts)]
    return "\n".join([shebang, f"local NEXT, SCHEMA = {lua_table()}, {SCHEMA}", *texts, body]).encode()


class Store:
    """The scripts of one Redis. Every call is safe to repeat, and is repeated within its budget.

    Raises ``StoreUnavailable`` when Redis does not answer in time or refuses to write, ``NewerRecord`` for what a newer
    version has written.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._scripts: dict[str, tuple[str, bytes]] = {}

    async def call(self, name: Script, partition: str, *args: Word, budget_s: float = 3.0) -> Any:
        """Run script *name* on *partition*. Returns its answer, texts as bytes."""
        if name not in self._scripts:
            source = _load(name)
            self._scripts[name] = hashlib.sha1(source, usedforsecurity=False).hexdigest(), source
        sha, source = self._scripts[name]
        key, commands = prefix(partition), self.client.commands
        command = pack("EVALSHA", sha, 1, key, *args)

        async def attempt(left_s: float) -> Any:
            try:
                return await commands.send(command, left_s)
            except NoScriptError:
                return await commands.send(pack("EVAL", source, 1, key, *args), left_s)

        return await repeat(attempt, budget_s)

    async def command(self, *words: Word, budget_s: float) -> Any:
        """Run a command that may be repeated."""
        command = pack(*words)
        return await repeat(lambda left_s: self.client.commands.send(command, left_s), budget_s)


async def within(attempt: Callable[[], Awaitable[Result]], budget_s: float) -> Result:
    """`repeat` for what does not look at the time itself."""

    async def timed(left_s: float) -> Result:
        async with asyncio.timeout(left_s):
            return await attempt()

    return await repeat(timed, budget_s)


async def repeat(attempt: Callable[[float], Awaitable[Result]], budget_s: float) -> Result:
    """Repeat *attempt*, which is told how many seconds it has, while Redis is away, at most for *budget_s* seconds; foreign
    errors become ours here."""
    deadline, left_s, wait_s = time.monotonic() + budget_s, budget_s, FIRST_RETRY_S
    while True:
        try:
            return await attempt(left_s)
        except DataError:
            raise  # a fault of ours, in what was to be sent
        except ResponseError as refused:
            unavailable = _refusal(refused)
            if unavailable is None:
                raise
            raise unavailable from refused
        except LOST as lost:
            error: Exception = lost
        except RedisError as other:
            raise StoreUnavailable(f"Redis failed: {type(other).__name__}") from other
        if time.monotonic() + wait_s >= deadline:
            raise StoreUnavailable("Redis does not answer") from error
        await asyncio.sleep(wait_s)
        left_s, wait_s = max(0.0, deadline - time.monotonic()), min(wait_s * 2, 1.0)


def _refusal(error: ResponseError) -> StoreUnavailable | NewerRecord | None:
    """What a server's refusal means; ``None`` for a fault in our own scripts."""
    # The client library takes the first word off an error that it has a class for.
    if isinstance(error, OutOfMemoryError):
        return StoreUnavailable("Redis has reached its maxmemory", full=True)
    if isinstance(error, ReadOnlyError | ClusterDownError | MasterDownError | TryAgainError):
        return StoreUnavailable(f"Redis refuses to write: {type(error).__name__}")
    text = str(error)
    if text.startswith("NEWER"):
        return NewerRecord()
    if text.startswith(("MISCONF", "BUSY", "NOREPLICAS")):
        return StoreUnavailable(f"Redis refuses to write: {text.split(' ', 1)[0]}")
    return None
