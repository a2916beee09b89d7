"""Loads the helpers that all tests share, and says which tests come first."""

import pytest

pytest_plugins = ["pytester", "support.plugin", "support.llamacpp", "support.valkey"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for leases and timers come first, so that none of them is what all processes wait for at the end."""
    items.sort(key=lambda item: "integration" not in item.path.parts)
