"""What the HTTP shell does not put up with: each limit is met by a backend that goes beyond it, over a real connection."""

import asyncio
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from fakes.upstream import DONE, FakeUpstream, Send, Step, chunk, completion, hang, pause, reply, send, start, status
from shared.core.emitter import Emitter, Ending
from shared.core.profiles import Profile
from shared.settings import ModelRow, Secret
from support.asking import answer, text_of
from support.certificates import self_signed
from worker.backends import exchange
from worker.backends.exchange import MAX_BODY_BYTES, MAX_ERROR_BYTES
from worker.backends.http import HttpBackend
from worker.translate.dialect import Ask

KEY = "sk-not-for-everybody"
MIB = b"x" * (1 << 20)
JSON = {"Content-Type": "application/json"}
SHORT_S = 0.3
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def row_of(upstream: FakeUpstream, **fields: float) -> ModelRow:
    return ModelRow(dialect="chat", base_url=upstream.base_url, key=Secret(KEY), **fields)  # type: ignore[arg-type]  # timers


async def test_a_line_without_end_is_given_up() -> None:
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(start(), send(chunk("Hel")), send(b"data: "), *[Send(MIB)] * 50)
        response, error = await answer(backend, row_of(upstream))
        call = await upstream.disconnected(0)
    assert error is not None
    assert (error.message, error.retryable) == ("The backend sent a line that is too long.", False)
    assert text_of(response) == "Hel"
    assert call.sent_bytes < 50 * len(MIB)


async def test_a_body_without_end_is_given_up() -> None:
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(start(200, Content_Type="application/json"), *[Send(MIB)] * 50)
        _, error = await answer(backend, row_of(upstream))
        call = await upstream.disconnected(0)
    assert error is not None
    assert (error.message, error.retryable) == ("The backend sent an answer that is too large.", False)
    assert MAX_BODY_BYTES <= call.sent_bytes < 50 * len(MIB)


async def test_no_more_of_an_error_is_read_than_can_be_said() -> None:
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(start(503, Content_Type="application/json"), send(b"x" * MAX_ERROR_BYTES), hang())
        async with asyncio.timeout(20):
            _, error = await answer(backend, row_of(upstream))
        await upstream.disconnected(0)
    assert error is not None
    assert error.retryable


async def test_an_error_that_trickles_is_given_up() -> None:
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(start(503), *[send(b"x"), pause(SHORT_S / 3)] * 1000)
        async with asyncio.timeout(20):
            _, error = await answer(backend, row_of(upstream, idle_timeout_s=SHORT_S))
        await upstream.disconnected(0)
    assert error is not None
    assert error.message == "The backend did not answer in time."


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, GZIP"])
async def test_what_is_compressed_is_refused_unread(coding: str) -> None:
    bomb = gzip.compress(b"\x00" * (50 << 20))
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(status(200, bomb, {"Content-Type": "text/event-stream", "Content-Encoding": coding}))
        response, error = await answer(backend, row_of(upstream))
        assert upstream.calls[0].headers["accept-encoding"] == "identity"
    assert error is not None
    assert error.message == "The backend compressed its answer, which it was asked not to do."
    assert (error.retryable, response.output) == (False, [])


async def test_a_compressed_error_is_known_by_its_status() -> None:
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(status(503, gzip.compress(b'{"error":"x"}'), {**JSON, "Content-Encoding": "gzip"}))
        _, error = await answer(backend, row_of(upstream))
    assert error is not None
    assert (error.message, error.retryable) == ("The model backend answered 503.", True)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(code: int) -> None:
    async with FakeUpstream() as upstream, FakeUpstream() as elsewhere, HttpBackend() as backend:
        upstream.queue(status(code, b"", {"Location": f"{elsewhere.base_url}/chat/completions"}))
        _, error = await answer(backend, row_of(upstream))
        assert len(upstream.calls) == 1
        assert elsewhere.calls == []
    assert error is not None
    assert (error.message, error.retryable) == (f"The model backend answered {code}.", False)


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with FakeUpstream() as upstream, FakeUpstream() as proxy:
        for name in PROXIES:
            monkeypatch.setenv(name, proxy.origin)
        async with HttpBackend() as backend:
            upstream.queue(reply("Hi"))
            response, error = await answer(backend, row_of(upstream))
        assert proxy.calls == []
        assert upstream.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert (response.status, error, text_of(response)) == ("completed", None, "Hi")


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=self_signed(tmp_path, "127.0.0.1"))
    async with server, HttpBackend() as backend:
        port = server.sockets[0].getsockname()[1]
        row = ModelRow(dialect="chat", base_url=f"https://127.0.0.1:{port}/v1", key=Secret(KEY))
        _, error = await answer(backend, row)
    assert error is not None
    assert error.message == "The certificate of the backend is not trusted."
    assert heard == b""


@pytest.mark.parametrize("steps", [[hang()], [start(), hang()]], ids=["nothing", "headers only"])
async def test_no_first_byte_in_time(steps: list[Step]) -> None:
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(*steps)
        async with asyncio.timeout(20):
            response, error = await answer(backend, row_of(upstream, first_byte_timeout_s=2.0))  # time enough to arrive
        await upstream.disconnected(0)
    assert error is not None
    assert error.message == "The backend did not answer in time."
    assert (error.retryable, error.max_tries, response.output) == (True, 2, [])


async def test_silence_in_mid_answer() -> None:
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(start(), send(chunk("Hel")), hang())
        async with asyncio.timeout(20):
            response, error = await answer(backend, row_of(upstream, idle_timeout_s=SHORT_S))
        await upstream.disconnected(0)
    assert error is not None
    assert error.message == "The backend did not answer in time."
    assert text_of(response) == "Hel"


LIFE: Mapping[str, tuple[dict[str, str], bytes, Send]] = {
    "comments": ({}, b": keep-alive\n\n", reply("Hi")),
    "blank lines before a whole answer": (JSON, b"\n", send(json.dumps(completion("Hi")).encode())),
}


@pytest.mark.parametrize("kind", LIFE)
async def test_comments_are_signs_of_life(kind: str) -> None:
    headers, sign, last = LIFE[kind]
    limits = {"first_byte_timeout_s": 5.0, "idle_timeout_s": 5 * SHORT_S}
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(start(200, **headers), *[send(sign), pause(SHORT_S)] * 8, last)  # longer than the limit
        response, error = await answer(backend, row_of(upstream, **limits))
    assert (response.status, error, text_of(response)) == ("completed", None, "Hi")


async def test_an_answer_that_has_ended_does_not_wait_for_its_usage_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "USAGE_WAIT_S", SHORT_S)
    async with FakeUpstream() as upstream, HttpBackend() as backend:
        upstream.queue(
            start(), send(chunk("Hi"), chunk(finish="stop")), *[send(b": still here\n\n"), pause(0.05)] * 500
        )
        async with asyncio.timeout(20):
            response, error = await answer(backend, row_of(upstream))
        await upstream.disconnected(0)
    assert (response.status, error, response.usage, text_of(response)) == ("completed", None, None, "Hi")


class Turns:
    """A dialect whose provider pauses its turn twice."""

    path = "/turns"

    def headers(self, key: str | None, profile: Profile) -> Mapping[str, str]:
        return {}

    def encode(self, ask: Ask) -> bytes:
        return b'"first"'

    def answer(self, ask: Ask, emit: Emitter) -> "Turn":
        return Turn(emit)


class Turn:
    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._bodies = [b'"second"', b'"third"']
        self.ended = False
        self.warnings: list[str] = []

    def feed(self, data: bytes, event: str = "") -> None:
        self._emit.text(data.decode())

    def skim(self, _block: bytes, at: int, /) -> int:
        return at

    def feed_whole(self, body: bytes) -> None:
        self.feed(body)

    def follow_up(self) -> bytes | None:
        return self._bodies.pop(0) if self._bodies else None

    def end(self) -> Ending:
        return Ending("completed")


async def test_a_paused_turn_goes_on_in_one_answer() -> None:
    async with FakeUpstream() as upstream, HttpBackend({"chat": Turns()}) as backend:
        upstream.queue(send(b"data: a\n\n", DONE))
        upstream.queue(send(b"data: b\n\n"))
        upstream.queue(status(200, b"c", JSON))
        response, error = await answer(backend, row_of(upstream))
        assert [call.body for call in upstream.calls] == ["first", "second", "third"]
    assert (response.status, error, text_of(response)) == ("completed", None, "abc")
