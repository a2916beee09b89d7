"""Loads the helpers that all tests share."""

pytest_plugins = ["pytester", "support.plugin", "support.llamacpp", "support.valkey"]
