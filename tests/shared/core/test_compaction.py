"""Summaries: sealed, opened, and shown to models in the place of what they stand for."""

import msgspec
import pytest

from shared.core.compaction import HEADING, KIND, encode_summary, read_summary, reveal
from shared.core.window import drop_oldest, text_bytes
from shared.seal import Seal, Sealer
from shared.wire.items import Compaction, InputText, Message, StoredItem

SEAL = Sealer(["k" * 32]).bind("us", KIND)
SAID = Message("user", [InputText("Hello")])


def sealed(summary: str, seal: Seal = SEAL) -> Compaction:
    text = seal.seal(encode_summary(summary))
    assert text is not None
    return Compaction(text)


def test_models_see_the_summary_in_its_place() -> None:
    items: list[StoredItem] = [SAID, sealed("All is \N{SNOWMAN} well."), SAID]
    told = reveal(items, SEAL.open)
    assert told == [SAID, Message("user", [InputText(f"{HEADING}All is \N{SNOWMAN} well.")]), SAID]
    assert reveal([SAID], SEAL.open) == [SAID]


@pytest.mark.parametrize(
    "item",
    [
        sealed("x", Sealer(["o" * 32]).bind("us", KIND)),
        sealed("x", Sealer(["k" * 32]).bind("them", KIND)),
        sealed("x", Sealer(["k" * 32]).bind("us", "state")),
        Compaction(""),
        Compaction(sealed("x").encrypted_content[:-1]),
        Compaction(SEAL.seal(b"not JSON") or ""),
        Compaction(SEAL.seal(b'{"other": 1}') or ""),
    ],
)
def test_what_cannot_be_opened_is_never_left_out(item: Compaction) -> None:
    assert read_summary(item.encrypted_content, SEAL.open) is None
    assert reveal([SAID, item], SEAL.open) is None


def test_it_weighs_what_the_model_reads() -> None:
    item = sealed("x" * 9000)
    assert 9000 < text_bytes([item]) < 9100


def test_what_was_summarized_last_is_not_dropped_before_older_messages() -> None:
    told = reveal([Message("user", [InputText("x" * 600)]), sealed("short")], SEAL.open)
    assert told is not None
    assert drop_oldest(told, 100, 0, 0) == told[1:]


def test_it_is_kept_as_it_came() -> None:
    raw = b'{"type":"compaction","encrypted_content":"rsp1.x","id":"cmp_1","created_by":"me"}'
    assert msgspec.json.encode(msgspec.json.decode(raw, type=StoredItem)) == raw
