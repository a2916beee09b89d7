"""Outcomes that endpoints are still to hear of: noted by the script that settles, taken and done with by workers."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from shared.core.webhooks import Delivery
from shared.store.redis import Store
from shared.store.rows import status_of

Done = Literal["ok", "again", "over", "lost"]


class Wish(NamedTuple):
    """What a worker asks for: deliveries to *endpoint*, at most *room*, each for *lease_s*. *rule*: see ``rule_of``."""

    endpoint: str
    rule: str
    lease_s: float
    room: int


class Taken(NamedTuple):
    """What is to be sent now, and what never will be: its time was over before anybody could say that it failed."""

    deliveries: Sequence[Delivery] = ()
    given_up: Sequence[Delivery] = ()


class Deliveries:
    """The deliveries of one partition. Both verbs raise ``StoreUnavailable``; repeated, they lose nothing."""

    def __init__(self, store: Store, partition: str) -> None:
        self._store = store
        self._partition = partition

    async def take(self, wishes: Sequence[Wish]) -> Taken:
        """What is due. From now on, for a day, outcomes are noted for these endpoints by whoever settles."""
        words = [word for each in wishes for word in (each.endpoint, each.rule, int(each.lease_s * 1000), each.room)]
        rows = await self._store.call("hook_take", self._partition, *words)
        found = [
            Delivery(endpoint.decode(), response_id.decode(), status_of(status), int(ended_ms), tries)
            for endpoint, response_id, status, ended_ms, tries in rows
        ]
        return Taken([each for each in found if each.tries], [each for each in found if not each.tries])

    async def done(self, delivery: Delivery, *, again_s: float | None) -> Done:
        """It was acknowledged, or is to be tried again in *again_s*: see ``hook_done.lua``."""
        wait = "" if again_s is None else int(again_s * 1000)
        args = delivery.endpoint, delivery.response_id, delivery.tries, wait
        return cast(Done, (await self._store.call("hook_done", self._partition, *args)).decode())
