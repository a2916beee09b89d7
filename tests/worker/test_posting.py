"""One attempt over a real connection: what counts as acknowledged, how it is signed, and where nothing is ever sent."""

import asyncio
import base64
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from fakes.receiver import Answer, Receiver
from shared.settings import Secret, Webhook
from support.certificates import self_signed
from worker import posting
from worker.posting import FORBIDDEN, Sender, sign

MIB = 1 << 20


def new_secret() -> Secret:
    return Secret(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")


def hook(url: str, **fields: object) -> Webhook:
    return Webhook(name="ci", url=url, secret_env="S", **{"allow_private": True, "timeout_s": 5.0, **fields})  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def sender() -> AsyncIterator[Sender]:
    async with Sender() as sender:
        yield sender


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_2xx_acknowledges(sender: Sender, receiver: Receiver, status: int) -> None:
    receiver.plan(Answer(status))
    assert await sender.post(hook(receiver.url), {"webhook-id": "evt_1"}, b"{}") == ""
    (got,) = receiver.got
    assert (got.body, got.headers["content-type"], got.event_id) == (b"{}", "application/json", "evt_1")
    assert got.headers["user-agent"] == "respool"


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
async def test_nothing_else_does_and_no_redirect_is_followed(sender: Sender, receiver: Receiver, status: int) -> None:
    receiver.plan(Answer(status, {"Location": receiver.url}))
    assert await sender.post(hook(receiver.url), {}, b"{}") == f"status {status}"
    assert len(receiver.got) == 1


@pytest.mark.parametrize(("status", "error"), [(200, ""), (500, "status 500")])
async def test_a_large_reply_is_not_read(sender: Sender, receiver: Receiver, status: int, error: str) -> None:
    receiver.plan(Answer(status, size_bytes=100 * MIB))
    assert await sender.post(hook(receiver.url), {}, b"{}") == error
    got = await receiver.received()
    await asyncio.wait_for(got.over.wait(), 10)
    assert got.sent_bytes < 100 * MIB


async def test_a_silent_receiver_is_given_up(sender: Sender, receiver: Receiver) -> None:
    receiver.plan(Answer(gate=asyncio.Event()))
    assert await sender.post(hook(receiver.url, timeout_s=0.2), {}, b"{}") == "no acknowledgement within 0.2 s"
    await asyncio.wait_for(receiver.got[0].over.wait(), 10)  # and let go


async def test_a_lost_reply_is_no_acknowledgement(sender: Sender, receiver: Receiver) -> None:
    receiver.plan(Answer(lost=True))
    assert (await sender.post(hook(receiver.url), {}, b"{}")).startswith("no answer: ")


async def test_nobody_is_there(sender: Sender) -> None:
    async with Receiver() as receiver:
        url = receiver.url
    assert (await sender.post(hook(url), {}, b"{}")).startswith("no connection: ")
    assert (await sender.post(hook("http://no-such-host.invalid/"), {}, b"{}")).startswith("no connection: ")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_private_addresses_are_refused_where_the_connection_is_made(
    sender: Sender, receiver: Receiver, host: str
) -> None:
    url = receiver.url.replace("127.0.0.1", host)
    error = await sender.post(hook(url, allow_private=False), {}, b"{}")
    assert error.startswith("no connection: ")
    assert FORBIDDEN in error
    assert receiver.got == []
    assert await sender.post(hook(url), {}, b"{}") == ""


async def test_names_that_nobody_answers_for_hold_up_no_other_lookup(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of other receivers nor those that everybody else makes by the loop, with its few threads."""
    loop, asked, answered, look_up = asyncio.get_running_loop(), asyncio.Queue(), threading.Event(), socket.getaddrinfo

    def name_server(host: str, *args: object, **options: object) -> object:
        if host.endswith(".invalid"):
            loop.call_soon_threadsafe(asked.put_nowait, host)
            answered.wait(20)
        return look_up(host, *args, **options)  # type: ignore[arg-type]

    loop.set_default_executor(ThreadPoolExecutor(2))
    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    hooks = [hook(f"http://dead{number}.invalid/", timeout_s=20) for number in range(4) for _ in range(3)]
    posts = [asyncio.create_task(sender.post(each, {}, b"{}")) for each in hooks]
    try:
        async with asyncio.timeout(10):
            assert {await asked.get() for _ in range(4)} == {f"dead{number}.invalid" for number in range(4)}
            assert await loop.getaddrinfo("localhost", 80)
            assert await sender.post(hook(receiver.url.replace("127.0.0.1", "localhost")), {}, b"{}") == ""
        assert asked.empty()  # one thread for each name, however many want to know
    finally:
        answered.set()
        errors = await asyncio.gather(*posts)
    assert {error.partition(":")[0] for error in errors} == {"no connection"}


async def test_no_text_of_a_failure_shows_path_or_query(sender: Sender, receiver: Receiver) -> None:
    receiver.plan(Answer(500), Answer(lost=True), Answer(302, {"Location": receiver.url}))
    errors = [await sender.post(hook(receiver.url), {}, b"{}") for _ in range(3)]
    assert [error for error in errors if not error or "token" in error or "hooks" in error] == []


async def test_public_addresses_are_not_refused(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "is_public", lambda address: address == "127.0.0.1")
    assert await sender.post(hook(receiver.url, allow_private=False), {}, b"{}") == ""


async def test_certificates_are_verified(sender: Sender, tmp_path: Path) -> None:
    async with Receiver(self_signed(tmp_path, "127.0.0.1")) as receiver:
        error = await sender.post(hook(receiver.url), {}, b"{}")
    assert error == "the certificate does not vouch for the host"
    assert receiver.got == []


def test_each_attempt_is_signed_afresh_and_by_every_secret() -> None:
    old, new, body, now = new_secret(), new_secret(), b'{"type":"response.completed"}', datetime.now(UTC)
    client = openai.OpenAI(api_key="unused")
    headers = sign([old, new], "evt_1", body, now)
    assert headers["webhook-timestamp"] == str(int(now.timestamp()))
    for secret in (old, new):
        assert client.webhooks.unwrap(body, headers, secret=secret.reveal()).type == "response.completed"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, sign([old], "evt_1", body, now), secret=new.reveal())
    with pytest.raises(openai.InvalidWebhookSignatureError, match="too old"):
        client.webhooks.unwrap(body, sign([old], "evt_1", body, now - timedelta(minutes=6)), secret=old.reveal())
    client.close()
