"""The fixture `llamacpp`: a real model server as a process of its own, for one test session (or one xdist worker)."""

import ctypes
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVE = Path(__file__).parent.parent / "realmodel" / "serve_llamacpp.py"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 5.0
LOG_SHOWN_BYTES = 4000


class LlamaCpp:
    """A running server; `base_url` ends in /v1, the model is called `model`."""

    model = "tiny"

    def __init__(self, origin: str, process: subprocess.Popen[bytes]) -> None:
        self.origin = origin
        self.base_url = f"{origin}/v1"
        self.process = process

    def metric(self, name: str) -> float:
        """A reading of /metrics, e.g. `tokens_predicted_total`."""
        text = self._get("/metrics")
        found = re.search(rf"^llamacpp:{re.escape(name)} (\S+)$", text, re.MULTILINE)
        if found is None:
            raise LookupError(f"no metric {name!r} in:\n{text}")
        return float(found[1])

    def tokens_generated(self) -> int:
        """Tokens generated since the start by requests that are over, finished or cut off."""
        return int(self.metric("tokens_predicted_total"))

    def busy(self) -> int:
        """Requests that are being worked on now."""
        return int(self.metric("requests_processing"))

    def wait_idle(self, timeout_s: float = 10.0) -> int:
        """Wait until nothing is generated any more, then tell `tokens_generated`. Asks again and again: blocking."""
        deadline = time.monotonic() + timeout_s
        while self.busy():
            if time.monotonic() > deadline:
                raise TimeoutError(f"llama.cpp still works on {self.busy()} requests after {timeout_s} s")
        return self.tokens_generated()

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.origin + path, timeout=READ_TIMEOUT_S) as reply:  # noqa: S310 - our own server
            return str(reply.read(), "utf-8")


def require_openmp() -> None:
    """The wheel leaves this one library to the system; a bare Debian has none. In CI that is a failure."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        remedy = "the llama.cpp tests need libgomp.so.1: apt install libgomp1"
        if os.environ.get("CI"):
            pytest.fail(remedy)
        pytest.skip(remedy)


def start_llamacpp(*options: str) -> LlamaCpp:
    """Start a server and wait until it answers; the caller stops it with `stop_llamacpp`."""
    require_openmp()
    with tempfile.TemporaryFile() as log:  # llama.cpp's own log; a pipe could fill up, and mixes up lines with stdout
        process = subprocess.Popen(
            [sys.executable, str(SERVE), "--until-stdin-closes", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        line = process.stdout.readline().decode() if readable else ""
        server = LlamaCpp(line.strip().removeprefix("listening on "), process)
        if not line.startswith("listening on "):
            stop_llamacpp(server)
            log.seek(0)
            raise RuntimeError(
                f"llama.cpp was not up within {START_TIMEOUT_S} s:\n{log.read()[-LOG_SHOWN_BYTES:].decode()}"
            )
    server.busy()
    return server


def stop_llamacpp(server: LlamaCpp) -> None:
    """End the process, by force if it does not go by itself."""
    process = server.process
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@pytest.fixture(scope="session")
def llamacpp() -> Iterator[LlamaCpp]:
    """A real model server; xdist workers start one each."""
    server = start_llamacpp()
    yield server
    stop_llamacpp(server)
