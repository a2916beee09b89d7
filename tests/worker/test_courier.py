"""The courier on a real Valkey, with real receivers. It never looks by the clock here: what it takes, it takes for a reason."""

import base64
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from fakes.receiver import Receiver
from shared.metrics import REGISTRY
from shared.settings import Secret, Webhook
from shared.store.responses import Responses
from shared.store.webhooks import Deliveries, Wish
from support.valkey import PARTITION, TENANT, ended, key, rid
from worker import webhooks
from worker.posting import Sender
from worker.webhooks import AT_ONCE, Courier, lease_of

SECRET = Secret(f"whsec_{base64.b64encode(b'a' * 32).decode()}")


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def test_a_backlog_is_sent_without_pauses(
    responses: Responses, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt that ends makes room for the next one, and what was deleted meanwhile stands in nobody's way."""
    monkeypatch.setattr(webhooks, "LOOK_S", 3600.0)
    hook = Webhook(name="ci", url=receiver.url, secret_env="S", allow_private=True, secrets=(SECRET,))
    deliveries = Deliveries(responses._store, PARTITION)
    await deliveries.take([Wish("ci", "* completed", lease_of(hook), 0)])
    deleted, count = 2 * AT_ONCE + 1, 5 * AT_ONCE + 1
    for number in range(deleted + count):
        await ended(responses, number, lane="background", background=True)
    for number in range(deleted):
        await responses.delete(rid(number), TENANT)
    async with Sender() as sender, Courier(deliveries, sender, [hook]):
        await receiver.received(count)
    assert len(receiver.got) == len({got.event_id for got in receiver.got}) == count


async def test_what_is_too_late_is_counted_as_abandoned(responses: Responses, redis: Redis, receiver: Receiver) -> None:
    hook = Webhook(name="late", url=receiver.url, secret_env="S", allow_private=True, secrets=(SECRET,))
    deliveries = Deliveries(responses._store, PARTITION)
    await deliveries.take([Wish("late", "* completed", lease_of(hook), 0)])
    for number in (1, 2):
        await ended(responses, number, lane="background", background=True)
    await redis.hset(key("r", 1), "ended", 1)
    async with Sender() as sender, Courier(deliveries, sender, [hook]):
        await receiver.received()
    assert len(receiver.got) == 1
    labels = {"endpoint": "late", "outcome": "abandoned"}
    assert REGISTRY.get_sample_value("respool_webhooks_total", labels) == 1
