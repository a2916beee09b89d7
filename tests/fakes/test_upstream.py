"""The scriptable upstream: its steps, its record of requests, its hang-up detection, and its form as a program."""

import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from fakes import upstream as module
from fakes.upstream import (
    DONE,
    FakeUpstream,
    call_delta,
    chunk,
    close,
    end,
    hang,
    pause,
    play,
    recut,
    send,
    start,
    status,
    usage,
    wait,
)

STREAMS = Path(__file__).parent.parent / "streams"
TIMEOUT_S = 5.0


def chat(text: str, *, stream: bool = True) -> dict[str, object]:
    return {"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": text}]}


async def test_a_script_is_played_step_by_step_and_the_request_is_recorded() -> None:
    gate = asyncio.Event()
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        upstream.queue(send(chunk("Hel")), wait(gate), pause(0), send(chunk("lo", finish="stop"), DONE), end())
        url = f"{upstream.base_url}/chat/completions"
        async with session.post(url, json=chat("hi"), headers={"Authorization": "Bearer k"}) as reply:
            assert reply.content_type == "text/event-stream"
            assert b'"content":"Hel"' in await reply.content.readline()
            call = await upstream.called()
            assert call.outcome == "running"
            gate.set()
            assert (await reply.read()).endswith(DONE)
        await upstream.over()
    assert call.outcome == "ended"
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == "Bearer k"
    assert call.body == chat("hi")
    assert call.last_user_text == "hi"
    assert call.is_stream
    assert len(upstream.calls) == 1


async def test_it_notices_that_a_client_went_away() -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(start(x_seen="1"), hang())
        async with aiohttp.ClientSession() as session:
            reply = await session.post(f"{upstream.base_url}/chat/completions", json=chat("hi"))
            assert reply.headers["x-seen"] == "1"
            reply.close()
            call = await upstream.disconnected()
    assert call.outcome == "disconnected"


async def test_a_client_that_gives_up_before_the_first_byte_is_noticed_too() -> None:
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        upstream.queue(hang())
        request = asyncio.create_task(
            session.post(f"{upstream.base_url}/chat/completions", json=chat("hi")).__aenter__()
        )
        await upstream.called()
        request.cancel()
        await upstream.disconnected()


async def test_waiting_for_a_hang_up_that_does_not_happen_is_an_error() -> None:
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        async with session.post(f"{upstream.base_url}/chat/completions", json=chat("hi")) as reply:
            await reply.read()
        with pytest.raises(AssertionError, match="it ended"):
            await upstream.disconnected()
        with pytest.raises(TimeoutError):
            await upstream.called(1, timeout_s=0.01)


async def test_it_drops_connections_and_answers_with_errors() -> None:
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        url = f"{upstream.base_url}/chat/completions"
        upstream.queue(send(chunk("x")), close())
        async with session.post(url, json=chat("hi")) as reply:
            with pytest.raises(aiohttp.ClientPayloadError):
                await reply.read()
        upstream.queue(close())
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(url, json=chat("hi"))
        upstream.queue(status(429, headers={"Retry-After": "2"}))
        async with session.post(url, json=chat("hi")) as reply:
            assert (reply.status, reply.headers["Retry-After"], (await reply.json())["error"]["code"]) == (
                429,
                "2",
                429,
            )
        async with session.get(f"{upstream.base_url}/models") as reply:
            assert [model["id"] for model in (await reply.json())["data"]] == list(module.MODELS)
    assert [call.outcome for call in upstream.calls] == ["closed", "closed", "ended"]


async def test_a_function_of_the_request_may_choose_the_script() -> None:
    def answer(call: module.Call) -> module.Script:
        return [status(200, {"echo": call.last_user_text})]

    async with FakeUpstream(answer) as upstream, aiohttp.ClientSession() as session:
        parts = [{"type": "text", "text": "in"}, {"type": "text", "text": "parts"}]
        body = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]}
        async with session.post(f"{upstream.base_url}/chat/completions", json=body) as reply:
            assert await reply.json() == {"echo": "in parts"}


def read_recording(path: Path) -> tuple[module.Json, bytes]:
    meta_path = path.with_suffix(".meta.json")
    meta = json.loads(meta_path.read_bytes()) if meta_path.exists() else {"status": 200}
    return meta, path.read_bytes()


RECORDED = sorted(STREAMS.glob("*/*.body"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_every_recorded_body_can_be_played_however_it_is_cut(path: Path) -> None:
    meta, recorded = read_recording(path)
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        for cut in (None, 1000, (1, 2, 3)):
            upstream.queue(*play(path, cut))
            async with session.post(f"{upstream.base_url}/chat/completions", json=chat("hi")) as reply:
                assert reply.status == meta["status"]
                got = bytearray()
                try:
                    async for part in reply.content.iter_any():
                        got += part
                except aiohttp.ClientPayloadError:
                    assert meta["read_error"]
                else:
                    assert not meta.get("read_error")
            assert bytes(got) == recorded


def test_recutting_loses_nothing() -> None:
    assert recut(b"abcdefg", 3) == [b"abc", b"def", b"g"]
    assert recut(b"abcdefg", (1, 2)) == [b"a", b"bc", b"defg"]
    assert recut(b"", 3) == []
    assert recut(b"ab", (5, 5)) == [b"ab"]


def test_chunks_look_as_model_servers_write_them() -> None:
    assert chunk("a")["choices"] == [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]
    assert chunk(usage=usage(1, 2))["choices"] == []
    calls = [call_delta(0, call_id="call_1", name="f", arguments="{"), call_delta(0, arguments="}")]
    assert chunk(calls=calls)["choices"][0]["delta"] == {"tool_calls": calls}
    assert calls[1] == {"index": 0, "function": {"arguments": "}"}}


async def read_phrases(session: aiohttp.ClientSession, base_url: str, text: str) -> tuple[str, str | None, bool]:
    """(text, finish reason, whether the body ended properly) of a streamed answer."""
    said, finish, whole = "", None, False
    async with session.post(f"{base_url}/chat/completions", json=chat(text)) as reply:
        try:
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        said += choice["delta"].get("content") or ""
                        finish = choice["finish_reason"] or finish
            whole = True
        except aiohttp.ClientPayloadError:
            pass
    return said, finish, whole


async def test_phrases_in_the_prompt_choose_the_behaviour() -> None:
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        url = upstream.base_url
        assert await read_phrases(session, url, "words=2 delay_ms=1") == ("word0 word1 ", "stop", True)
        assert await read_phrases(session, url, "words=1 size=8") == ("word0xxx ", "stop", True)
        assert await read_phrases(session, url, "words=1 marked") == ("word0.2 ", "stop", True)
        assert await read_phrases(session, url, "words=9 cut=1") == ("word0 ", None, False)
        assert await read_phrases(session, url, "words=9 eof=1 reason=2") == ("word0 ", None, True)
        assert await read_phrases(session, url, "words=1 call=get_weather") == ("word0 ", "tool_calls", True)
        assert await read_phrases(session, url, "words=1 finish=length nousage") == ("word0 ", "length", True)
        async with session.post(f"{url}/chat/completions", json=chat("status=503 retry_after=3")) as reply:
            assert (reply.status, reply.headers["Retry-After"]) == (503, "3")
        async with session.post(f"{url}/chat/completions", json=chat("words=2", stream=False)) as reply:
            assert (await reply.json())["choices"][0]["message"]["content"] == "word0 word1 "
        async with session.post(f"{url}/chat/completions", json=chat("words=1 hold")) as reply:
            assert b"assistant" in await reply.content.readline()
        await upstream.disconnected(len(upstream.calls) - 1)


async def test_it_runs_as_a_program() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(module.__file__), "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)
        origin = line.decode().split()[-1]
        async with aiohttp.ClientSession() as session:
            assert await read_phrases(session, f"{origin}/v1", "words=3") == ("word0 word1 word2 ", "stop", True)
            async with session.get(f"{origin}/_seen") as reply:
                (seen,) = await reply.json()
        assert (seen["path"], seen["outcome"], seen["last_user_text"]) == ("/v1/chat/completions", "ended", "words=3")
    finally:
        process.terminate()
        await process.wait()


async def test_who_came_before_it_was_there_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        async with FakeUpstream(sock=listening.dup()) as upstream:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert upstream.calls == []
        writer.close()
