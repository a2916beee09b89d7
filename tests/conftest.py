"""Loads the helpers that all tests share, and says which tests come first."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell lets what it starts in the background ignore it, and so would all processes that are started here."""

pytest_plugins = ["pytester", "support.plugin", "support.llamacpp", "support.valkey"]


@pytest.fixture(scope="session", autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes that they start, stand in an empty folder: the `respool.toml` and the `respool-data` that
    people have in their checkout are nobody's here."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("nowhere"))
    yield
    os.chdir(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for leases and timers come first, so that none of them is what all processes wait for at the end."""
    items.sort(key=lambda item: "integration" not in item.path.parts)
