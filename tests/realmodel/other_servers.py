"""Respool in front of another real server: LiteLLM's proxy, which itself is in front of the llama.cpp server of the tests.

    .venv/bin/python tests/realmodel/other_servers.py

Installs LiteLLM into a temporary environment (not a dependency of this project), starts everything on loopback with free
ports, asks through the official client, and prints a table. Exit code 1 when a row is not as expected. Takes about a minute.
"""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.cluster import running  # noqa: E402  # the path comes first
from support.llamacpp import start_llamacpp, stop_llamacpp  # noqa: E402  # the same

START_S = 120.0
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CONFIG = """
model_list:
  - model_name: tiny
    litellm_params: {{model: openai/tiny, api_base: "{base_url}", api_key: none}}
  - model_name: limited
    litellm_params: {{model: openai/any, api_key: none, mock_response: "litellm.RateLimitError"}}
litellm_settings: {{num_retries: 0}}
"""
MODELS = """
[models."*"]
dialect = "{dialect}"
base_url = "{base_url}"
key_env = "PROXY_KEY"
"""
LITELLM = {("anthropic", "length limit"): "completed", ("responses", "rate limit"): "server_error"}
"""What that server tells in place of what happened: see README.md."""
KEY = f"sk-{secrets.token_hex(16)}"
Check = Callable[[openai.AsyncOpenAI], Awaitable[str]]


class Otherwise(Exception):
    """Not as it should be: how it is instead."""


async def text(client: openai.AsyncOpenAI) -> str:
    response = await client.responses.create(model="tiny", input="tell me a story", temperature=0)
    assert response.status == "completed"
    assert len(response.output_text) > 100
    assert response.usage is not None
    return f"{len(response.output_text)} characters, {response.usage.output_tokens} tokens"


async def stream(client: openai.AsyncOpenAI) -> str:
    async with client.responses.stream(model="tiny", input="use unicode", temperature=0) as events:
        deltas = [event.delta async for event in events if event.type == "response.output_text.delta"]
        final = await events.get_final_response()
    assert "".join(deltas) == final.output_text
    assert not final.output_text.isascii()
    return f"{len(deltas)} deltas"


async def limit(client: openai.AsyncOpenAI) -> str:
    response = await client.responses.create(
        model="tiny", input="write a long essay", temperature=0, max_output_tokens=20
    )
    if response.status != "incomplete" or response.incomplete_details is None:
        raise Otherwise(response.status)
    return str(response.incomplete_details.reason)


async def tools(client: openai.AsyncOpenAI) -> str:
    asked: Any = {"model": "tiny", "tools": [TOOL], "temperature": 0}
    response = await client.responses.create(input="weather in Paris", **asked)
    (call,) = [item for item in response.output if item.type == "function_call"]
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    again = await client.responses.create(input=[output], previous_response_id=response.id, **asked)
    assert again.status == "completed"
    return f"{call.name}({call.arguments}), then {len(again.output_text)} characters"


async def cancel(client: openai.AsyncOpenAI) -> str:
    response_id = ""
    asked: Any = {"model": "tiny", "input": "write a long essay", "temperature": 0, "background": True}
    async with await client.responses.create(stream=True, **asked) as events:
        async for event in events:
            if event.type == "response.created":
                response_id = event.response.id
            elif event.type == "response.output_text.delta":
                break
    response = await client.responses.cancel(response_id)
    assert response.status == "cancelled"
    return f"{len(response.output_text)} characters kept"


async def failure(client: openai.AsyncOpenAI) -> str:
    response = await client.responses.create(model="limited", input="hello")
    assert response.status == "failed"
    assert response.error is not None
    if response.error.code != "rate_limit_exceeded":
        raise Otherwise(response.error.code)
    return response.error.message[:60]


CHECKS: dict[str, Check] = {
    "text": text, "stream": stream, "length limit": limit, "tool round trip": tools, "cancel": cancel,
    "rate limit": failure,
}  # fmt: skip


@contextmanager
def litellm_proxy(folder: Path, backend: str) -> Iterator[str]:
    """Its base URL."""
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", folder / "venv"], check=True)
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "litellm[proxy]"], check=True)
    (folder / "config.yaml").write_text(CONFIG.format(base_url=backend))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        folder / "venv/bin/litellm",
        "--config",
        folder / "config.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_MASTER_KEY": KEY}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
    try:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  # our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"LiteLLM is not up:\n{log.read_text()[-2000:]}")


async def ask_all(base_url: str, dialect: str) -> int:
    """Print a row for each check; how many failed."""
    failed = 0
    config = MODELS.format(dialect=dialect, base_url=base_url)
    async with running(env={"PROXY_KEY": KEY}, config=config) as cluster:
        origin = cluster.front_ends[0].origin
        async with openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key="none", max_retries=0, timeout=60) as client:
            for name, check in CHECKS.items():
                try:
                    row = "ok", await check(client)
                    failed += (dialect, name) in LITELLM
                except Otherwise as found:
                    known = LITELLM.get((dialect, name)) == str(found)
                    row, failed = ("theirs" if known else "FAILED", str(found)), failed + (not known)
                except (AssertionError, ValueError, openai.OpenAIError) as error:
                    row, failed = ("FAILED", f"{type(error).__name__}: {error}"[:100]), failed + 1
                print(f"| {dialect} | {name} | {row[0]} | {row[1]} |", flush=True)  # noqa: T201  # the result
    return failed


def main() -> int:
    llamacpp = start_llamacpp()
    try:
        with tempfile.TemporaryDirectory() as folder, litellm_proxy(Path(folder), llamacpp.base_url) as base_url:
            return int(
                sum(asyncio.run(ask_all(base_url, dialect)) for dialect in ("chat", "responses", "anthropic")) > 0
            )
    finally:
        stop_llamacpp(llamacpp)


if __name__ == "__main__":
    sys.exit(main())
