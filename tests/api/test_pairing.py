"""What pairs, what is only repeated, and what contradicts itself."""

from typing import Any

import pytest

from api.pairing import check_pairing, without_repeats
from shared.errors import InvalidRequest
from shared.wire.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Message,
    OutputText,
    Reasoning,
    StoredItem,
)


def call(call_id: str, status: Any = "completed") -> FunctionCall:
    return FunctionCall(call_id, "f", "{}", status=status)


def output(call_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(call_id, "x")


@pytest.mark.parametrize(
    "items",
    [
        [],
        [call("a"), output("a")],
        [call("a"), call("b"), output("b"), Message("user", "x"), output("a")],
        [call("a"), output("a"), call("a"), output("a")],
        [call("a", "incomplete")],
        [call("a", "incomplete"), output("a")],
    ],
)
def test_calls_and_outputs_that_pair(items: Any) -> None:
    check_pairing(items)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([call("a")], "No tool output found for function call a."),
        ([call("a"), call("b"), output("b")], "No tool output found for function call a."),
        ([output("a")], "No tool call found for function call output with call_id a."),
        ([output("a"), call("a")], "No tool call found for function call output with call_id a."),
    ],
)
def test_calls_and_outputs_that_do_not_pair(items: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_pairing(items)
    assert (caught.value.message, caught.value.param, caught.value.code) == (message, "input", None)


ASK, SAID = Message("user", "x"), Message("assistant", [OutputText("y")], "msg_1", "completed")
THOUGHT = Reasoning([], "rs_1", encrypted_content="z")
OK, AGAIN = FunctionCallOutput("a", "ok"), FunctionCallOutput("a", "again")
MADE = FunctionCall("a", "f", "{}", "fc_1", "completed")
OTHER = FunctionCall("a", "f", '{"n": 1}')
CUSTOM, DONE = CustomToolCall("a", "f", "{}"), CustomToolCallOutput("a", "ok")


@pytest.mark.parametrize(
    ("context", "items", "left"),
    [
        ([], [ASK, call("a"), call("a"), OK], [ASK, call("a"), OK]),
        ([], [ASK, call("a"), OK, OK], [ASK, call("a"), OK]),
        ([], [CUSTOM, CUSTOM, DONE, DONE], [CUSTOM, DONE]),
        ([ASK, THOUGHT, SAID, MADE], [THOUGHT, SAID, MADE, OK], [OK]),
        ([ASK, MADE], [call("a"), OK], [OK]),  # without its id
        ([ASK, MADE, OK], [MADE, OK, ASK], [ASK]),
        ([ASK, MADE, OK], [FunctionCallOutput("a", "ok", "fco_1", "completed"), ASK], [ASK]),
        # a call_id that is used again in a later turn
        ([], [call("a"), OK, call("a"), OK], [call("a"), OK, call("a"), OK]),
        ([ASK, MADE, OK], [OTHER, AGAIN], [OTHER, AGAIN]),
        ([ASK, MADE, OK, OTHER], [OTHER, AGAIN], [AGAIN]),
        ([call("a", "incomplete")], [OTHER, OK], [OTHER, OK]),
        # what people say twice was said twice
        ([ASK], [ASK, ASK], [ASK, ASK]),
        ([], [Message("user", "x", "msg_u"), Message("user", "x", "msg_u")], [Message("user", "x", "msg_u")] * 2),
        ([], [Message("assistant", "y"), Message("assistant", "y")], [Message("assistant", "y")] * 2),
        (
            [SAID],
            [Message("assistant", [OutputText("n")], "msg_1")],
            [Message("assistant", [OutputText("n")], "msg_1")],
        ),
        # stored ones stay
        ([call("a"), call("a"), OK, AGAIN], [ASK], [ASK]),
    ],
)
def test_what_is_repeated_counts_once(
    context: list[StoredItem], items: list[StoredItem], left: list[StoredItem]
) -> None:
    assert without_repeats(context, items) == left
    check_pairing([*context, *left])


@pytest.mark.parametrize(
    ("context", "items", "what"),
    [
        ([], [call("a"), OTHER, OK], "calls"),
        ([], [call("a"), CUSTOM, OK], "calls"),
        ([ASK, MADE], [OTHER, OK], "calls"),
        ([ASK, MADE, OK], [FunctionCall("a", "f", '{"n": 1}', "fc_1")], "calls"),
        ([], [ASK, call("a"), OK, AGAIN], "outputs"),
        ([], [ASK, call("a"), OK, FunctionCallOutput("a", [InputText("ok")])], "outputs"),
        ([MADE, OK], [AGAIN], "outputs"),
    ],
)
def test_what_contradicts_itself_is_refused(context: list[StoredItem], items: list[StoredItem], what: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^There are two different {what} with the call_id a") as caught:
        without_repeats(context, items)
    assert (caught.value.param, caught.value.code) == ("input", "invalid_value")


def test_who_refers_to_a_message_wants_it_again_and_no_call_is_made_twice() -> None:
    assert without_repeats([ASK, SAID, MADE], [SAID, MADE, OK, SAID], {0, 1}) == [SAID, OK]
