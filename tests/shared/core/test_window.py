"""Estimates of what fits into a context window."""

from shared.core.window import drop_oldest, surely_overflows, text_bytes
from shared.wire.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Item,
    Message,
    OutputText,
    Reasoning,
    Refusal,
)

BIG = "x" * 3000  # some 1,000 tokens


def user(text: str) -> Message:
    return Message("user", [InputText(text)])


def test_only_what_is_certain_overflows() -> None:
    assert not surely_overflows(10**9, 0)
    assert not surely_overflows(8000, 1000)
    assert surely_overflows(8001, 1000)


def test_text_is_counted_in_bytes() -> None:
    items: list[Item] = [
        user("ab"), Message("assistant", [OutputText("é"), Refusal("no")]), Message("user", "xyz"),
        FunctionCall("c", "f", "{}"), FunctionCallOutput("c", "ok"), CustomToolCall("d", "g", "in"),
        CustomToolCallOutput("d", [InputText("out"), InputImage("data:")]), Reasoning([]),
    ]  # fmt: skip
    assert text_bytes(items) == 2 + 2 + 2 + 3 + 3 + 2 + 3 + 3


def test_what_fits_stays() -> None:
    items = [user("a"), Message("assistant", [OutputText("b")]), user("c")]
    assert drop_oldest(items, 1000, 0, 0) == items


def test_the_oldest_go_first_and_rules_stay() -> None:
    rules, newest = Message("system", [InputText("rules")]), user("now")
    items = [rules, user(BIG), user(BIG + "2"), newest]
    assert drop_oldest(items, 1100, 0, 0) == [rules, items[2], newest]
    assert drop_oldest(items, 2200, 0, 0) == items
    assert drop_oldest(items, 2200, 0, 1100) == [rules, items[2], newest]
    assert drop_oldest(items, 2200, 3300, 0) == [rules, items[2], newest]
    assert drop_oldest(items, 10, 0, 0) == [rules, newest]


def test_the_last_turn_is_never_cut() -> None:
    turn = [user(BIG), FunctionCall("c", "f", BIG), FunctionCallOutput("c", BIG)]
    assert drop_oldest([user("old"), *turn], 10, 0, 0) == turn


def test_an_output_goes_with_its_call() -> None:
    items = [FunctionCall("c", "f", BIG), CustomToolCall("d", "f", ""), FunctionCallOutput("c", "x"), user("now")]
    assert drop_oldest(items, 100, 0, 0) == [items[1], items[3]]
    assert drop_oldest([], 10, 0, 0) == []


def test_images_take_room() -> None:
    items = [Message("user", [InputImage("https://h")]), user("now")]
    assert drop_oldest(items, 500, 0, 0) == items[1:]
    assert text_bytes(items[:1]) == 0
