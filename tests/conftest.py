"""Loads the helpers that all tests share, and says which tests come first."""

import signal

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell lets what it starts in the background ignore it, and so would all processes that are started here."""

pytest_plugins = ["pytester", "support.plugin", "support.llamacpp", "support.valkey"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for leases and timers come first, so that none of them is what all processes wait for at the end."""
    items.sort(key=lambda item: "integration" not in item.path.parts)
