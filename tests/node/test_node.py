"""The official Node client against a running server: client.test.mjs, installed and run from here.

It needs Node 22 or newer, which the npm package ``node`` brings along; so npm is all that must be there. Without npm the
test is skipped, and with it nothing is: a failed installation is a failure.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fakes.upstream import Call, FakeUpstream, Script, reply
from support.cluster import chat_model, running

HERE = Path(__file__).parent
INSTALL_S, RUN_S = 150, 60
SEAL = {"RESPOOL_SEAL_KEY": "s" * 32}
NPM = shutil.which("npm")


def _folder() -> Path:
    """Where the packages are: kept between runs, another one when they change."""
    digest = hashlib.sha256((HERE / "package.json").read_bytes()).hexdigest()[:16]
    in_venv = Path(sys.prefix) if sys.prefix != sys.base_prefix else Path(tempfile.gettempdir())
    return in_venv / "respool-node" / digest


def _install(npm: str) -> Path:
    """The packages of package.json, installed once. Returns their folder."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            shutil.copy(HERE / "package.json", folder)
            options = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(
                [npm, "install", *options], cwd=folder, timeout=INSTALL_S, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            if done.returncode:
                pytest.fail(f"npm install failed:\n{done.stdout[-4000:]}", pytrace=False)
            (folder / "installed").touch()
    shutil.copy(HERE / "client.test.mjs", folder)
    return folder


def _json(call: Call) -> Script:
    return [reply('{"name": "Oslo", ', '"people": 700000}')]


@pytest.mark.timeout(INSTALL_S + RUN_S + 30)
@pytest.mark.skipif(NPM is None, reason="npm is not installed, and the Node client comes from there")
async def test_the_node_client() -> None:
    assert NPM is not None
    folder = await asyncio.to_thread(_install, NPM)
    async with (
        FakeUpstream(_json) as upstream,
        running(env=SEAL, config=chat_model(upstream.base_url, "tiny")) as cluster,
    ):
        child = await asyncio.create_subprocess_exec(
            folder / "node_modules" / "node" / "bin" / "node", "--test", "--test-timeout=30000", "client.test.mjs",
            cwd=folder, env={"PATH": os.environ["PATH"], "RESPOOL_URL": cluster.front_ends[0].origin},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(RUN_S):
                output, _ = await child.communicate()
        except TimeoutError:
            child.kill()
            await child.communicate()
            raise
    if child.returncode:
        pytest.fail(output.decode(errors="replace")[-8000:], pytrace=False)
