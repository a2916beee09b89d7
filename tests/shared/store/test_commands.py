"""The command client on real Valkey, and on servers that play a script where Valkey would not misbehave."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoScriptError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import StoreUnavailable
from shared.store.commands import MAX_BYTES, MAX_CALLS, Commands, pack
from shared.store.redis import Store, connect
from support.faults import Watch

PING, PONG = pack("PING"), b"+PONG\r\n"
Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def lean(url: str, *, timeout_s: float = 30.0) -> AsyncIterator[Commands]:
    async with connect(url, socket_timeout_s=timeout_s) as client:
        yield client.commands


@contextlib.asynccontextmanager
async def playing(play: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that plays *play* to each connection."""
    ended: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.append(task)
        try:
            await play(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)


def url_of(port: int) -> str:
    return f"redis://127.0.0.1:{port}"


# in order, over one connection


async def test_callers_share_one_connection(valkey: str, redis: Redis) -> None:
    async with lean(valkey) as commands:
        before = len(await redis.client_list())
        assert await asyncio.gather(*(commands.send(pack("ECHO", str(n))) for n in range(500))) == [
            str(n).encode() for n in range(500)
        ]
        assert len(await redis.client_list()) == before + 1


async def test_replies_are_what_redis_said(valkey: str, redis: Redis) -> None:
    async with lean(valkey) as commands:
        script = "return {1, 'x', false, {ARGV[1], 0}}"
        assert await commands.send(pack("EVAL", script, 0, b"\xff\r\n")) == [1, b"x", None, [b"\xff\r\n", 0]]
        assert await commands.send(pack("SET", "n", 1.5)) == b"OK"
        assert await commands.send(pack("GET", "nothing")) is None


async def test_errors_are_those_of_redis_py(valkey: str, redis: Redis) -> None:
    async with lean(valkey) as commands:
        answers = await asyncio.gather(
            commands.send(pack("EVALSHA", "0" * 40, 0)), commands.send(pack("NONSENSE")), commands.send(PING),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(answer) for answer in answers] == [NoScriptError, ResponseError, bytes]
        await redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            await commands.send(pack("SET", "x", "y"))


async def test_a_caller_that_goes_away_disturbs_nobody(valkey: str, redis: Redis) -> None:
    async with lean(valkey) as commands:
        tasks = [asyncio.create_task(commands.send(pack("ECHO", str(n)))) for n in range(200)]
        await commands.send(PING)  # all are connected now; those behind it are in flight
        more = [asyncio.create_task(commands.send(pack("ECHO", f"m{n}"))) for n in range(200)]
        await asyncio.sleep(0)
        for task in more[::2]:
            task.cancel()
        assert await asyncio.gather(*tasks) == [str(n).encode() for n in range(200)]
        assert await asyncio.gather(*more[1::2]) == [f"m{n}".encode() for n in range(1, 200, 2)]
        assert all(task.cancelled() for task in more[::2])


async def test_a_cancelled_first_caller_leaves_the_connecting_to_the_next(valkey: str, redis: Redis) -> None:
    async with lean(valkey) as commands:
        first, second = (asyncio.create_task(commands.send(PING)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"PONG"
        assert first.cancelled()


async def test_huge_commands_and_replies(valkey: str, redis: Redis) -> None:
    blob = bytes(range(256)) * (24 << 12)  # 24 MiB
    async with lean(valkey) as commands:
        assert await commands.send(pack("SET", "big", blob)) == b"OK"
        answers = await asyncio.gather(*(commands.send(pack(*words)) for words in (["GET", "big"], ["PING"]) * 3))
    assert answers == [blob, b"PONG"] * 3


# bounds


async def test_a_call_that_takes_too_long_fails_and_leaves_its_place(valkey: str, redis: Redis) -> None:
    async with lean(valkey) as commands:
        assert await commands.send(PING) == b"PONG"
        slow = asyncio.create_task(commands.send(pack("BLPOP", "nothing", 1), 0.1))
        later = asyncio.create_task(commands.send(pack("ECHO", "later"), 30.0))
        with pytest.raises(RedisTimeoutError):
            await slow
        assert not later.done()
        assert await later == b"later"


async def test_calls_in_flight_are_bounded() -> None:
    more: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING) * MAX_CALLS)
        try:
            async with asyncio.timeout(0.05):
                more.append(await reader.readexactly(1))
        except TimeoutError:
            more.append(b"")
        writer.write(PONG * MAX_CALLS)
        await reader.readexactly(len(PING) * 100)
        writer.write(PONG * 100)
        await reader.read()

    async with playing(play) as port, lean(url_of(port)) as commands:
        calls = [commands.send(PING) for _ in range(MAX_CALLS + 100)]
        assert await asyncio.gather(*calls) == [b"PONG"] * len(calls)
    assert more == [b""]


async def test_bytes_in_flight_are_bounded() -> None:
    command = pack("ECHO", b"x" * (MAX_BYTES // 4))
    most = MAX_BYTES // len(command)
    sent: list[int] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            for _ in range(most):
                await reader.readexactly(len(command))
            try:
                async with asyncio.timeout(0.05):
                    sent.append(len(await reader.readexactly(1)))
            except TimeoutError:
                sent.append(0)
            writer.write(PONG * most)

    async with playing(play) as port, lean(url_of(port)) as commands:
        assert await asyncio.gather(*(commands.send(command) for _ in range(2 * most))) == [b"PONG"] * 2 * most
    assert sent[0] == 0


# lost and silent connections


async def test_a_cut_connection_fails_what_is_in_flight_and_is_made_again() -> None:
    connections = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readexactly(len(PING))
        writer.write(PONG)
        while connections > 1:
            await reader.readexactly(len(PING))
            writer.write(PONG)
        await reader.readexactly(2 * len(PING))

    async with playing(play) as port, lean(url_of(port)) as commands:
        assert await commands.send(PING) == b"PONG"
        failed = await asyncio.gather(commands.send(PING), commands.send(PING), return_exceptions=True)
        assert [type(error) for error in failed] == [RedisConnectionError] * 2
        assert await commands.send(PING) == b"PONG"
    assert connections == 2


async def test_scripts_go_on_over_cut_connections(valkey: str, redis: Redis) -> None:
    """All callers' calls are repeated within their budget, each to its own answer."""
    async with connect(valkey) as client:
        store = Store(client)
        killed = 0
        for turn in range(20):
            calls = [asyncio.create_task(store.call("learn", "00", 99, 60, 1000, f"m{turn}", 7, 3)) for _ in range(20)]
            await asyncio.sleep(0)
            for each in await redis.client_list():
                if each["cmd"] == "evalsha":
                    killed += await redis.client_kill_filter(_id=each["id"])
            assert await asyncio.gather(*calls) == [1] * 20
    assert killed > 0


@pytest.mark.parametrize("others_keep_sending", [False, True])
async def test_a_silent_server_is_noticed(others_keep_sending: bool) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(PONG)
        while await reader.read(1 << 16):
            pass

    async with playing(play) as port, lean(url_of(port), timeout_s=0.4) as commands:
        assert await commands.send(PING) == b"PONG"
        watch, others = Watch(), []
        first = asyncio.create_task(commands.send(PING))
        while others_keep_sending and not first.done():
            others.append(asyncio.create_task(commands.send(PING)))
            await asyncio.wait([first], timeout=0.02)
        with pytest.raises(RedisTimeoutError):
            await first
        assert 0.35 < watch.seconds < 5
        failed = await asyncio.gather(*others, return_exceptions=True)
        # The last one may have been sent when the connection was already given up: on the next one, which answers.
        assert all(isinstance(error, RedisTimeoutError) for error in failed[:-1])
        assert len(failed) > 3 or not others_keep_sending


async def test_a_slow_server_is_not_taken_for_a_silent_one() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        for byte in PONG:  # together longer than the timeout, which is one without progress
            await asyncio.sleep(0.15)
            writer.write(bytes([byte]))
        await reader.read()

    async with playing(play) as port, lean(url_of(port), timeout_s=0.6) as commands:
        watch = Watch()
        assert await commands.send(PING) == b"PONG"
        assert watch.seconds > 0.8


async def test_a_silent_server_costs_a_script_no_more_than_its_budget() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass

    async with playing(play) as port, connect(url_of(port)) as client:
        watch = Watch()
        with pytest.raises(StoreUnavailable):
            await Store(client).call("tick", "00", 1000, budget_s=0.5)
        assert watch.seconds < 5


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", PONG * 2])
async def test_what_is_no_reply_ends_the_connection(said: bytes) -> None:
    connections = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readexactly(len(PING))
        writer.write(said if connections == 1 else PONG)
        await reader.read()

    async with playing(play) as port, lean(url_of(port)) as commands:
        with contextlib.suppress(RedisConnectionError):
            await commands.send(PING)
        assert await commands.send(PING) == b"PONG"
    assert connections == 2


async def test_nobody_listens() -> None:
    async with lean("unix:///nowhere/valkey.sock") as commands:
        with pytest.raises(FileNotFoundError):
            await commands.send(PING)


# what a URL means


async def test_user_database_and_name(valkey: str, redis: Redis) -> None:
    await redis.execute_command("ACL", "SETUSER", "lean", "on", ">pass", "~*", "&*", "+@all")
    try:
        url = valkey.replace("unix://", "unix://lean:pass@")
        async with lean(f"{url}{'&' if '?' in url else '?'}db=3&client_name=bench") as commands:
            about = dict(pair.split("=", 1) for pair in (await commands.send(pack("CLIENT", "INFO"))).decode().split())
            assert (about["user"], about["db"], about["name"]) == ("lean", "3", "bench")
        async with lean(url.replace(":pass@", ":wrong@")) as commands:
            with pytest.raises(AuthenticationError):
                await commands.send(PING)
    finally:
        await redis.execute_command("ACL", "DELUSER", "lean")


async def test_tls(tmp_path: Path) -> None:
    certificate = tmp_path / "server.pem"
    certificate.write_bytes(_self_signed())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(PONG)
        await reader.read()

    async with playing(play, tls) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with lean(f"{url}?ssl_ca_certs={certificate}") as commands:
            assert await commands.send(PING) == b"PONG"
        async with lean(url) as commands:
            with pytest.raises(ssl.SSLCertVerificationError):
                await commands.send(PING)


def _self_signed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
