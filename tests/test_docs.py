"""docs/api.md is true of the code: every parameter, tool and item that a create call knows has its row."""

import re
from pathlib import Path

from api.items import _DECODERS as ITEMS
from api.operations import OPERATIONS
from shared.core.tiers import ASKED
from shared.wire.requests import CreateBody

DOCS = (Path(__file__).parents[1] / "docs/api.md").read_text()


def rows(heading: str) -> list[str]:
    """The first cells of the table below *heading*."""
    section = re.split(r"^#+ ", DOCS.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[2:]


def test_every_parameter_is_in_the_table_and_no_other() -> None:
    names = [cell.strip("`") for cell in rows("Parameters of `POST /v1/responses`")]
    assert sorted(names) == sorted(CreateBody.__struct_fields__)


def test_every_tier_is_in_the_table() -> None:
    assert set(re.findall(r"`(\w+)`", " ".join(rows("Service tiers")))) == set(ASKED)


def test_every_item_is_in_the_table() -> None:
    cells = " ".join(rows("Items"))
    assert [kind for kind in ITEMS if f"`{kind.removesuffix('_output')}`" not in cells] == []


def test_every_endpoint_is_in_the_table_and_no_other() -> None:
    named = set(re.findall(r"(/[\w/{}.]*)`", " ".join(rows("Endpoints"))))
    assert named == {re.sub(r"\{\w+\}", "{id}", operation.path) for operation in OPERATIONS}
