"""The real model server answers, streams, and stops generating when the connection is dropped."""

import asyncio
import json

import aiohttp

from support.llamacpp import LlamaCpp, start_llamacpp, stop_llamacpp

ESSAY_TOKENS = 1000  # "write a long essay" gives at least so many


def chat(prompt: str, *, stream: bool, max_tokens: int = 200) -> dict[str, object]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "tiny", "messages": messages, "stream": stream, "temperature": 0, "max_tokens": max_tokens}


async def test_it_answers_and_counts_its_tokens(llamacpp: LlamaCpp) -> None:
    before = await asyncio.to_thread(llamacpp.wait_idle)
    url = f"{llamacpp.base_url}/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=chat("hello", stream=False)) as reply:
        body = await reply.json()
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"]
    assert await asyncio.to_thread(llamacpp.wait_idle) - before == body["usage"]["completion_tokens"]


async def test_it_streams(llamacpp: LlamaCpp) -> None:
    url = f"{llamacpp.base_url}/chat/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=chat("tell me a story", stream=True)) as reply,
    ):
        assert reply.content_type == "text/event-stream"
        lines = [line async for line in reply.content if line.strip()]
    assert lines[-1] == b"data: [DONE]\n"
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]
    words = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert len("".join(words)) > 100
    assert len(words) > 50


async def test_a_dropped_connection_stops_the_generation(llamacpp: LlamaCpp) -> None:
    before = await asyncio.to_thread(llamacpp.wait_idle)
    url = f"{llamacpp.base_url}/chat/completions"
    body = chat("write a long essay", stream=True, max_tokens=4000)
    async with aiohttp.ClientSession() as session:
        reply = await session.post(url, json=body)
        await reply.content.readline()
        reply.close()
    cut = await asyncio.to_thread(llamacpp.wait_idle) - before
    assert 0 < cut < ESSAY_TOKENS // 2
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as whole:
        await whole.read()
    assert await asyncio.to_thread(llamacpp.wait_idle) - before - cut >= ESSAY_TOKENS


def test_it_stops_when_told_to() -> None:
    server = start_llamacpp("--parallel", "1")
    stop_llamacpp(server)
    assert server.process.returncode == 0


def test_it_stops_when_the_program_that_started_it_is_gone() -> None:
    server = start_llamacpp("--parallel", "1")
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(5) == 0
    stop_llamacpp(server)
