"""Connections to backends, against servers that speak HTTP byte by byte, on both event loops."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fakes.upstream import DONE, chunk, frame
from shared.core.emitter import Emitter
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.settings import ModelRow
from shared.wire.items import Message
from shared.wire.requests import Request
from shared.wire.responses import Response
from support.answers import STATE
from support.asking import text_of
from support.certificates import self_signed
from support.garbage import none_left
from support.loops import on_both_loops
from worker.backends import connection, exchange, http
from worker.backends.base import Call, Wait
from worker.backends.http import HttpBackend

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\n"
EVENTS = frame(chunk("Hel")) + frame(chunk("lo")) + frame(chunk(finish="stop")) + DONE
BROKE = "The connection to the backend broke."


def sized(body: bytes = EVENTS, head: bytes = SSE) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes = EVENTS, size: int = 50) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return SSE + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces)


def padded(size: int) -> bytes:
    """An answer of so many bytes, head and all."""
    head_bytes = len(sized(b" " * size)) - size
    return sized(b":" + b" " * (size - head_bytes - len(EVENTS) - 3) + b"\n\n" + EVENTS)


LAST = b"0\r\n\r\n"


class Peer:
    """A server that answers the n-th request of all with the n-th of *answers*; ``None`` closes without a word."""

    def __init__(self, *answers: bytes | None, close: bool = False) -> None:
        self.answers = list(answers)
        self.close = close
        self.requests: list[tuple[int, bytes]] = []
        """(number of the connection, head and body)."""
        self.writers: list[asyncio.StreamWriter] = []
        self.gone = asyncio.Event()
        """A client has closed its connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.writers)
        self.writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append((number, head + await reader.readexactly(size)))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        writer.close()


@asynccontextmanager
async def serving(peer: Peer, tls: ssl.SSLContext | None = None) -> AsyncIterator[ModelRow]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield ModelRow(dialect="chat", base_url=f"http{'s' if tls else ''}://127.0.0.1:{port}/v1")
    finally:
        server.close()
        for writer in peer.writers:
            writer.transport.abort()


async def ask(
    backend: HttpBackend, row: ModelRow, flush: Callable[[], Wait | None] = lambda: None, said: str = "x"
) -> Response:
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="m")
    emit = Emitter(draft(request))
    async with asyncio.timeout(20):
        ending = await backend.run(Call(request, [Message("user", said)], row, "req", STATE), emit, flush)
    return emit.end(ending, at=2)


async def until(true: Callable[[], bool]) -> None:
    """A few turns of the loop: nobody signals what a connection notices while it is kept."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)


async def said(backend: HttpBackend, row: ModelRow) -> str:
    return text_of(await ask(backend, row))


async def failure(backend: HttpBackend, row: ModelRow) -> str:
    with pytest.raises(UpstreamError) as caught:
        await ask(backend, row)
    assert caught.value.retryable
    return caught.value.message


@on_both_loops
async def test_connections_are_kept() -> None:
    peer = Peer(
        sized(),
        chunked() + LAST,
        chunked(size=1000) + LAST,
        sized(b'{"error":{}}', OK.replace(b"200", b"503")),
        sized(),
    )
    async with serving(peer) as row, HttpBackend() as backend:
        assert [await said(backend, row) for _ in range(3)] == ["Hello"] * 3
        assert await failure(backend, row) == "The model backend answered 503."
        assert await said(backend, row) == "Hello"
    assert [number for number, _ in peer.requests] == [0] * 5


@on_both_loops
async def test_the_end_of_a_body_may_come_behind_that_of_its_stream() -> None:
    peer = Peer(chunked(), chunked() + LAST)
    async with serving(peer) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"
        peer.writers[0].write(LAST)
        await until(lambda: any(backend._pool._kept.values()))
        assert await said(backend, row) == "Hello"
    assert [number for number, _ in peer.requests] == [0, 0]


@pytest.mark.parametrize("rest", [b"", b"5\r\n: no\n\r\n" * 200_000], ids=["nothing", "too much"])
@on_both_loops
async def test_a_body_that_goes_on_behind_its_stream_is_left(monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    monkeypatch.setattr(connection, "DRAIN_S", 20.0 if rest else 0.1)
    peer = Peer(chunked() + rest, chunked() + LAST)
    async with serving(peer) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"
        async with asyncio.timeout(5):
            await peer.gone.wait()
        assert await said(backend, row) == "Hello"
    assert [number for number, _ in peer.requests] == [0, 1]


CLOSES = {
    "says so": sized(head=SSE + b"Connection: close\r\n"),
    "old": sized(head=SSE.replace(b"1.1", b"1.0")),
    "no length": SSE + b"\r\n" + EVENTS,
    "more than was asked for": sized() + sized(),
    "another protocol": sized(head=SSE) + b"\x00",
    "more, for a later turn": padded(connection.TURN_BYTES) + b"\x00" * 10,
}


@pytest.mark.parametrize("why", CLOSES)
@on_both_loops
async def test_connections_that_cannot_be_kept(why: str) -> None:
    peer = Peer(CLOSES[why], CLOSES[why], close=why == "no length")
    async with serving(peer) as row, HttpBackend() as backend:
        assert [await said(backend, row) for _ in range(2)] == ["Hello"] * 2
    assert [number for number, _ in peer.requests] == [0, 1]


ENDS = {
    "cut": sized()[:-20],
    "refused": sized(b"{}", OK.replace(b"200", b"503") + b"Connection: close\r\n"),
    "garbage": b"\0\r\n",
}


@pytest.mark.parametrize("what", [*CLOSES, *ENDS])
@on_both_loops
async def test_what_a_call_needed_is_freed_at_once(what: str) -> None:
    async with serving(Peer(*[(CLOSES | ENDS)[what]] * 3, close=True)) as row, HttpBackend() as backend:
        with none_left(connection.Connection, exchange.Exchange, Emitter):
            for _ in range(3):
                with contextlib.suppress(UpstreamError):
                    await ask(backend, row)
                await until(lambda: not backend._pool._all)
            for _ in range(5):  # the loop has its own last words
                await asyncio.sleep(0)


@on_both_loops
async def test_a_kept_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEP_S", 0.1)
    peer = Peer(sized())
    async with serving(peer) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"
        async with asyncio.timeout(5):
            await peer.gone.wait()
        assert backend._pool._all == set()


@on_both_loops
async def test_a_kept_connection_that_the_server_has_closed() -> None:
    peer = Peer(sized(), sized(), close=True)
    async with serving(peer) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"
        await until(lambda: not backend._pool._all)
        assert await said(backend, row) == "Hello"
    assert [number for number, _ in peer.requests] == [0, 1]


@pytest.mark.parametrize("how", ["plain", "tls"])
@on_both_loops
async def test_a_kept_connection_that_is_closed_as_it_is_used_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Whether the request was read nobody knows: it is sent once more, on a new connection, and nobody hears of it."""
    tls = self_signed(tmp_path, "127.0.0.1") if how == "tls" else None
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    peer = Peer(sized(), None, sized())
    async with serving(peer, tls) as row, HttpBackend() as backend:
        with capture_logs() as logged, none_left(exchange.Exchange, Emitter):
            assert [await said(backend, row) for _ in range(2)] == ["Hello"] * 2
    assert [number for number, _ in peer.requests] == [0, 0, 1]
    assert peer.requests[1][1] == peer.requests[2][1]
    assert {line["event"] for line in logged} == {"upstream.called"}


@pytest.mark.parametrize("how", ["closed", "reset"])
@on_both_loops
async def test_a_kept_connection_that_is_closed_behind_an_answer(how: str) -> None:
    """As llama.cpp does behind each stream: what is sent then is not even read."""
    closed = threading.Event()

    def serve() -> None:
        for number in range(2):
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(20)
                asked = b""
                while not asked.endswith(b"}"):
                    asked += peer.recv(1 << 16)
                peer.sendall(sized())
                if number == 0 and how == "reset":
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    assert heard.wait(20)  # a reset throws away what was not read yet
            closed.set()

    heard = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        server = asyncio.create_task(asyncio.to_thread(serve))
        row = ModelRow(dialect="chat", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        async with HttpBackend() as backend:
            assert await said(backend, row) == "Hello"
            heard.set()
            assert closed.wait(20)  # the loop stands still, and does not notice
            (kept,) = backend._pool._all
            assert kept.open
            assert await said(backend, row) == "Hello"
            assert not kept.open
        await server


@on_both_loops
async def test_the_other_connection_is_a_new_one() -> None:
    """Who closes one kept connection may be closing all of them. A new one that is closed tells of the backend."""
    peer = Peer(sized(), sized(), None, None, sized())
    async with serving(peer) as row, HttpBackend() as backend:
        assert await asyncio.gather(said(backend, row), said(backend, row)) == ["Hello"] * 2
        assert await failure(backend, row) == BROKE
        assert await said(backend, row) == "Hello"
    numbers = [number for number, _ in peer.requests]
    assert sorted(numbers[:2]) == [0, 1]
    assert numbers[3] == 2
    assert {numbers[2], numbers[4]} == {0, 1}


@on_both_loops
async def test_a_new_connection_that_is_closed_instead_of_an_answer() -> None:
    peer = Peer(None, sized(), None, None, sized())
    async with serving(peer) as row, HttpBackend() as backend:
        assert await failure(backend, row) == BROKE
        assert await said(backend, row) == "Hello"
        assert await failure(backend, row) == BROKE
        assert await said(backend, row) == "Hello"
    assert [number for number, _ in peer.requests] == [0, 1, 1, 2, 3]


BEGUN = {
    "a byte": b"H",
    "a head": SSE + b"Content-Length: 9\r\n\r\n",
    "an interim answer": b"HTTP/1.1 102 Processing\r\n\r\n",
}


@pytest.mark.parametrize("what", BEGUN)
@on_both_loops
async def test_a_kept_connection_whose_answer_had_begun(what: str) -> None:
    """The backend was at work on it."""
    peer = Peer(sized(), BEGUN[what])
    async with serving(peer) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"
        peer.close = True
        assert await failure(backend, row) == BROKE
    assert [number for number, _ in peer.requests] == [0, 0]


@on_both_loops
async def test_a_kept_connection_that_ends_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a balancer cuts it after a minute of silence: the backend was at work, and another call is another try."""
    monkeypatch.setattr(http, "STALE_S", -1.0)
    peer = Peer(sized(), None, sized())
    async with serving(peer) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"
        assert await failure(backend, row) == BROKE
    assert [number for number, _ in peer.requests] == [0, 0]


CUT = {
    "head": SSE,
    "content-length": sized()[:-40],
    "chunked": chunked()[:-90],
    "chunk size": chunked()[:-90] + b"\r\nzz\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "both lengths": sized(head=SSE + b"Transfer-Encoding: chunked\r\n"),
    "interim only": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
}


@pytest.mark.parametrize("what", CUT)
@on_both_loops
async def test_answers_that_are_cut_or_garbage(what: str) -> None:
    peer = Peer(CUT[what], close=True)
    async with serving(peer) as row, HttpBackend() as backend:
        assert await failure(backend, row) == BROKE
    assert len(peer.requests) == 1


WITHOUT_END = {
    "headers": [OK, b"X-More: and more\r\n"],
    "a header": [OK + b"X-More: ", b"and more"],
    "interim answers": [b"", b"HTTP/1.1 102 Processing\r\n\r\n"],
    "trailers": [chunked(b": hm\n\n") + b"0\r\n", b"X-More: and more\r\n"],
}


@pytest.mark.parametrize("what", WITHOUT_END)
@on_both_loops
async def test_heads_without_end_are_given_up(what: str) -> None:
    start, more = WITHOUT_END[what]
    peer = Peer(start + more * (1 << 20))
    async with serving(peer) as row, HttpBackend() as backend:
        assert await failure(backend, row) == BROKE
        async with asyncio.timeout(5):
            await peer.gone.wait()


@on_both_loops
async def test_interim_answers_are_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n"
    peer = Peer(interim + chunked() + LAST, interim + sized())
    async with serving(peer) as row, HttpBackend() as backend:
        assert [await said(backend, row) for _ in range(2)] == ["Hello"] * 2
    assert [number for number, _ in peer.requests] == [0, 0]


@on_both_loops
async def test_no_more_is_read_than_there_is_room_for() -> None:
    filler = b": " + b"x" * 1000 + b"\n\n"
    peer = Peer(sized(filler * 20_000 + EVENTS))
    flushed: list[int] = []

    async def room() -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(flushed) == 1
        buffered.append(peer.writers[0].transport.get_write_buffer_size())

    def flush() -> Wait | None:
        flushed.append(1)
        return room if len(flushed) == 1 else None

    buffered: list[int] = []
    async with serving(peer) as row, HttpBackend() as backend:
        assert text_of(await ask(backend, row, flush)) == "Hello"
    assert buffered[0] > 0


@pytest.mark.parametrize("how", ["plain", "tls", "room at once"])
@on_both_loops
async def test_a_flood_leaves_turns_to_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    context = self_signed(tmp_path, "127.0.0.1") if how == "tls" else None
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    turns = 0
    flushed: list[int] = []

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def room() -> None:
        pass

    def flush() -> Wait | None:
        flushed.append(turns)
        return room if how == "room at once" and len(flushed) % 3 == 1 else None

    flood = frame(chunk("x")) * 60_000
    peer = Peer(sized(flood + EVENTS))
    async with serving(peer, context) as row, HttpBackend() as backend:
        others = asyncio.create_task(count())
        await ask(backend, row, flush)
        others.cancel()
    assert len(flushed) >= len(flood) // connection.TURN_BYTES
    assert len(set(flushed)) > len(flushed) * 3 / 4  # what is read next comes in the turn of the rest before it


FLOOD = frame(chunk("x")) * 300
"""Some pieces, and yet one read: it is sent at once to who reads in the same thread."""


@on_both_loops
async def test_a_fault_of_the_backend_in_a_later_piece_of_a_read() -> None:
    assert 2 * connection.TURN_BYTES < len(chunked(FLOOD)) < 60_000
    peer = Peer(chunked(FLOOD) + b"zz\r\n" + FLOOD, sized())
    async with serving(peer) as row, HttpBackend() as backend:
        assert await failure(backend, row) == BROKE
        assert await said(backend, row) == "Hello"
    assert [number for number, _ in peer.requests] == [0, 1]


@on_both_loops
async def test_a_fault_of_our_own_in_a_later_piece_of_a_read() -> None:
    flushed: list[int] = []

    def flush() -> None:
        flushed.append(1)
        if len(flushed) == 2:
            raise RuntimeError("ours")

    peer = Peer(sized(FLOOD + EVENTS), sized())
    async with serving(peer) as row, HttpBackend() as backend:
        with pytest.raises(RuntimeError, match="ours"):
            await ask(backend, row, flush)
        assert len(flushed) == 2
        assert await said(backend, row) == "Hello"
    assert [number for number, _ in peer.requests] == [0, 1]


class Hasty(Peer):
    """Answers before it has read what is asked; closes when it is told to."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer
        self.closing = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        await self.closing.wait()
        writer.transport.abort()


@pytest.mark.parametrize("cut_bytes", [0, 10], ids=["whole", "cut"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@on_both_loops
async def test_what_was_read_counts_when_the_connection_breaks_while_we_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls: bool, cut_bytes: int
) -> None:
    context = self_signed(tmp_path, "127.0.0.1") if tls else None
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    answer = sized(FLOOD + EVENTS.removesuffix(DONE))
    peer = Hasty(answer[: len(answer) - cut_bytes])
    flushed: list[int] = []

    async def room() -> None:
        assert len(flushed) == 1
        (asked,) = backend._pool._all
        assert asked._rest
        assert tls or asked._transport.get_write_buffer_size()
        peer.closing.set()
        await until(lambda: not backend._pool._all)

    def flush() -> Wait | None:
        flushed.append(1)
        return room if len(flushed) == 1 else None

    async with serving(peer, context) as row, HttpBackend() as backend:
        asking = ask(backend, row, flush, said="x" * (20 << 20))
        if cut_bytes:
            with pytest.raises(UpstreamError, match=BROKE):
                await asking
        else:
            assert text_of(await asking) == "x" * 300 + "Hello"
    assert len(flushed) > 1


@on_both_loops
async def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = self_signed(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    peer = Peer(chunked(b": x\n\n" * 50_000 + EVENTS) + LAST, padded(1_000_000))
    async with serving(peer, context) as row, HttpBackend() as backend:
        assert [await said(backend, row) for _ in range(2)] == ["Hello"] * 2
    assert [number for number, _ in peer.requests] == [0, 0]


@on_both_loops
async def test_tls_whose_end_is_that_of_the_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = self_signed(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    peer = Peer(SSE + b"\r\n" + b": x\n\n" * 50_000 + EVENTS, close=True)
    async with serving(peer, context) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"


@asynccontextmanager
async def abrupt(
    monkeypatch: pytest.MonkeyPatch, folder: Path, answer: bytes, rest: bytes = b""
) -> AsyncIterator[tuple[ModelRow, Callable[[], Awaitable[None]]]]:
    """A TLS server that says the end and closes, without waiting for ours. With the row comes what makes it go on with
    *rest*, and waits until it has closed."""
    context = self_signed(folder, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "server.pem"))
    going_on = threading.Event()

    def serve() -> None:
        peer, _ = listener.accept()
        with context.wrap_socket(peer, server_side=True) as tls:
            tls.settimeout(20)
            asked = b""
            while not asked.endswith(b"}"):
                asked += tls.recv(1 << 16)
            tls.sendall(answer)
            if rest:
                assert going_on.wait(20)
                tls.sendall(rest)
            tls.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.unwrap()

    async def go_on() -> None:
        going_on.set()
        await server

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        server = asyncio.create_task(asyncio.to_thread(serve))
        try:
            yield ModelRow(dialect="chat", base_url=f"https://127.0.0.1:{listener.getsockname()[1]}/v1"), go_on
        finally:
            await go_on()


@on_both_loops
async def test_tls_that_ends_at_once_with_a_large_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with abrupt(monkeypatch, tmp_path, padded(400_000)) as (row, _), HttpBackend() as backend:
        assert await said(backend, row) == "Hello"


@pytest.mark.parametrize("read_bytes", [1000, 2 * connection.TURN_BYTES], ids=["small", "pieces"])
@on_both_loops
async def test_tls_that_ends_while_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read_bytes: int
) -> None:
    answer = padded(100_000)
    flushed: list[int] = []

    async def room() -> None:
        await go_on()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(flushed) == 1

    def flush() -> Wait | None:
        flushed.append(1)
        return room if len(flushed) == 1 else None

    async with (
        abrupt(monkeypatch, tmp_path, answer[:read_bytes], answer[read_bytes:]) as (row, go_on),
        HttpBackend() as backend,
    ):
        assert text_of(await ask(backend, row, flush)) == "Hello"


@on_both_loops
async def test_a_certificate_of_another_host_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = self_signed(tmp_path, "127.0.0.2")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    peer = Peer()
    async with serving(peer, context) as row, HttpBackend() as backend:
        assert await failure(backend, row) == "The certificate of the backend is not trusted."
    assert peer.requests == []


@on_both_loops
async def test_a_host_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that answers is taken, and so many requests at once look it up once."""
    peer = Peer(*[sized()] * 5)
    looked_up: Sequence[str] = []
    async with serving(peer) as row, HttpBackend() as backend:
        loop = asyncio.get_running_loop()
        port = int(row.base_url.rpartition(":")[2].partition("/")[0])
        found = await loop.getaddrinfo("127.0.0.1", port, type=1)
        dead = await loop.getaddrinfo("127.0.0.1", 1, type=1)

        async def addresses(host: str, port: int) -> Any:
            looked_up.append(host)
            return dead + found

        monkeypatch.setattr("worker.backends.pool._addresses", addresses)
        row = ModelRow(dialect="chat", base_url=f"http://model.internal:{port}/v1")
        assert await asyncio.gather(*[said(backend, row) for _ in range(5)]) == ["Hello"] * 5
    assert looked_up == ["model.internal"]
    assert b"\r\nHost: model.internal:%d\r\n" % port in peer.requests[0][1]


@on_both_loops
async def test_usage_is_not_awaited_for_longer_because_there_was_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "USAGE_WAIT_S", 0.3)
    body = chunked(EVENTS.removesuffix(DONE), size=1000)
    peer = Peer(body)  # and then silence
    flushed: list[int] = []

    async def room() -> None:
        pass

    def flush() -> Wait | None:
        flushed.append(1)
        if len(flushed) == 1:
            peer.writers[0].write(b"8\r\n: alive\n\r\n")
        return room if len(flushed) == 2 else None

    async with serving(peer) as row, HttpBackend() as backend:
        assert text_of(await ask(backend, row, flush)) == "Hello"
    assert len(flushed) == 2


@on_both_loops
async def test_trailers_are_no_headers() -> None:
    head = chunked(size=1000).replace(b"Content-Type: text/event-stream", b"X-A: b")
    peer = Peer(head + b"0\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n")
    async with serving(peer) as row, HttpBackend() as backend:
        assert await said(backend, row) == "Hello"
