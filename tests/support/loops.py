"""Tests on both event loops: our processes run on uvloop, where there is one."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop


def on_both_loops(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test of *scenario* on each."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @functools.wraps(scenario)
    def test(run: Callable[[Awaitable[None]], None], **fixtures: Any) -> None:
        run(scenario(**fixtures))

    parameters = inspect.signature(scenario).parameters.values()
    run = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([run, *parameters])  # type: ignore[attr-defined]  # what pytest looks at
    return test
