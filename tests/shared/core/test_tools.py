"""Tools as a model sees them."""

from typing import Any

import pytest

from shared.core.tools import MAX_NAME_CHARS, joined_name, limit, offers
from shared.wire.items import AllowedTool, AllowedTools, CustomChoice, CustomTool, FunctionChoice, FunctionTool
from shared.wire.items import NamespaceTool as Space

F, C = FunctionTool("f"), CustomTool("c")
OFFERED = list(offers([F, C, Space("n", [F, C])]))


def test_namespaces_are_flattened() -> None:
    found = [(offer.name, offer.tool, offer.namespace, offer.path) for offer in OFFERED]
    assert found == [
        ("f", F, None, "tools[0]"),
        ("c", C, None, "tools[1]"),
        ("n__f", F, "n", "tools[2].tools[0]"),
        ("n__c", C, "n", "tools[2].tools[1]"),
    ]


def test_long_names_stay_apart() -> None:
    first, second = joined_name("f" * 90 + "1", "n"), joined_name("f" * 90 + "2", "n")
    assert first != second
    assert {len(first), len(second)} == {MAX_NAME_CHARS}
    assert joined_name("f" * 100, None) == "f" * 100


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", None),
        ("required", None),
        ("none", set()),
        (FunctionChoice("f"), {"f", "n__f"}),
        (CustomChoice("c"), {"c", "n__c"}),
        (AllowedTools("auto", []), set()),
        (AllowedTools("auto", [AllowedTool("function", "f")]), {"f", "n__f"}),
        (AllowedTools("auto", [AllowedTool("function", "f", "n")]), {"n__f"}),
        (AllowedTools("auto", [AllowedTool("namespace", "n")]), {"n__f", "n__c"}),
        (AllowedTools("required", [AllowedTool("custom", "c"), AllowedTool("web_search")]), {"c", "n__c"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # xdist wants the same ids everywhere
)
def test_what_may_be_called(choice: Any, names: set[str] | None) -> None:
    assert limit(choice, OFFERED) == names
