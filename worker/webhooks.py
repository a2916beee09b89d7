"""Delivers webhooks: each worker takes what is due, beside its runs, and sends it until it is acknowledged or too late.

noted (by the script that settles) --> due --take--> leased --acknowledged--> gone
                                        ^              |------too late------> gone
                                        '-- failed, or its worker died --'
"""

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

import structlog

from shared.core.webhooks import Delivery, plan_wait, rule_of
from shared.errors import StoreUnavailable
from shared.logs import bound
from shared.metrics import WEBHOOKS, labelled
from shared.settings import Webhook
from shared.store.webhooks import Deliveries, Wish
from shared.tasks import die_starved, end
from worker.posting import Sender, sign

LOOK_S = 0.5
AT_ONCE = 16
"""Attempts that one worker makes at once for each endpoint, so a slow one holds up nobody but itself."""
LAST_S = 3.0
"""How long attempts may take when the worker stops; what is cut comes again when its lease is over."""
TOO_LATE = "it was too late before an attempt could be made, or one had come to an end"

log = structlog.get_logger()


def lease_of(hook: Webhook) -> float:
    """Seconds: more than an attempt and its bookkeeping take, so that nobody sends what somebody is sending."""
    return 2 * hook.timeout_s + 1


class Courier:
    """One worker's part in delivering. When it is open, outcomes are noted; to be opened before the first claim."""

    def __init__(self, deliveries: Deliveries, sender: Sender, hooks: Sequence[Webhook]) -> None:
        self._deliveries = deliveries
        self._sender = sender
        self._hooks = {hook.name: hook for hook in hooks}
        self._rules = {hook.name: rule_of(hook.tenant, hook.events) for hook in hooks}
        self._going: dict[str, set[asyncio.Task[None]]] = {hook.name: set() for hook in hooks}
        self._full: set[str] = set()
        """Endpoints that had no room left behind the last look, so that more may be due for them."""
        self._freed = asyncio.Event()
        """There is room again for one of those."""
        self._looks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Raises ``StoreUnavailable``."""
        if self._hooks:
            await self._look()
            self._looks.append(asyncio.create_task(self._keep(), name="courier"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(*self._looks)
        going = [task for tasks in self._going.values() for task in tasks]
        if going:
            await asyncio.wait(going, timeout=LAST_S)
        await end(*going)

    async def _keep(self) -> None:
        """Look for what is due, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._freed.wait()
            self._freed.clear()
            try:
                await self._look()
            except StoreUnavailable as error:
                log.warning("redis.unavailable", error=str(error))
            except MemoryError:
                die_starved()
            except Exception:  # whatever Redis answered: the next look may fare better
                log.exception("courier.failed")

    async def _look(self) -> None:
        wishes = [
            Wish(name, self._rules[name], lease_of(hook), AT_ONCE - len(self._going[name]))
            for name, hook in self._hooks.items()
        ]
        taken = await self._deliveries.take(wishes)
        counts = Counter(delivery.endpoint for delivery in taken.deliveries)
        self._full = {wish.endpoint for wish in wishes if counts[wish.endpoint] >= wish.room}
        for delivery in taken.given_up:
            labelled(WEBHOOKS, delivery.endpoint, "abandoned").inc()
            log.error("webhook.abandoned", error=TOO_LATE, response_id=delivery.response_id, endpoint=delivery.endpoint)
        for delivery in taken.deliveries:
            going = self._going[delivery.endpoint]
            task = asyncio.create_task(self._deliver(delivery), name=delivery.event_id)
            going.add(task)
            task.add_done_callback(functools.partial(self._ended, delivery.endpoint))

    def _ended(self, endpoint: str, task: "asyncio.Task[None]") -> None:
        self._going[endpoint].discard(task)
        if endpoint in self._full:
            self._freed.set()

    async def _deliver(self, delivery: Delivery) -> None:
        hook = self._hooks[delivery.endpoint]
        with bound(response_id=delivery.response_id, endpoint=hook.name, tries=delivery.tries):
            try:
                body = delivery.body
                headers = sign(hook.secrets, delivery.event_id, body, datetime.now(UTC))
                error = await self._sender.post(hook, headers, body)
                await self._note(delivery, hook, error)
            except StoreUnavailable as unknown:  # it comes again when its lease is over, acknowledged or not
                log.warning("redis.unavailable", error=str(unknown))
            except MemoryError:
                die_starved()
            except Exception:  # one that cannot be sent must not stop the others; it comes again
                log.exception("courier.failed")

    async def _note(self, delivery: Delivery, hook: Webhook, error: str) -> None:
        if not error:
            await self._deliveries.done(delivery, again_s=None)
            labelled(WEBHOOKS, hook.name, "delivered").inc()
            log.info("webhook.delivered")
            return
        wait_s = plan_wait(delivery.tries, hook.retry_s, random.random())  # noqa: S311  # jitter
        done = await self._deliveries.done(delivery, again_s=wait_s)
        if done == "over":
            labelled(WEBHOOKS, hook.name, "abandoned").inc()
            log.error("webhook.abandoned", error=error)
        else:
            labelled(WEBHOOKS, hook.name, "failed").inc()
            log.warning("webhook.failed", error=error, wait_s=round(wait_s, 1))
