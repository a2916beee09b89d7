"""State that providers want back: from the deltas of one turn into the messages of the next."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.emitter import Emitter
from shared.core.frames import render_all
from shared.core.profiles import PROFILES, Preset, Profile
from shared.core.responses import draft
from shared.errors import UpstreamError
from shared.seal import Sealer
from shared.wire.items import FunctionCall, FunctionCallOutput, Item, Message, Reasoning
from shared.wire.requests import Request
from shared.wire.responses import Response
from support.contract import check_stream
from worker.translate.chat import ChatDialect
from worker.translate.chat_state import MAX_TEXT_BYTES, join_details
from worker.translate.dialect import Ask, State
from worker.translate.state import MAX_STATE_BYTES

Json = dict[str, Any]
SEALER = Sealer(["k" * 32])
OURS, THEIRS = SEALER.bind("us", "state"), SEALER.bind("them", "state")
NO_KEY = Sealer([]).bind("us", "state")
CHAT = ChatDialect()
SEALED = ["reasoning.encrypted_content"]


def ask(profile: Profile, *items: Item, state: State = OURS, **fields: Any) -> Ask:
    return Ask(Request(id="resp_00" + "a" * 32, created_at=1, model="m", **fields), items, "m", profile, state)


def answer(asked: Ask, deltas: list[Json], finish: str | None = "stop") -> Response:
    """The response to these deltas; its events are correct, and pack."""
    emit = Emitter(draft(asked.request))
    emit.created()
    emit.in_progress()
    stream = CHAT.answer(asked, emit)
    for delta in deltas:
        stream.feed(json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode())
    if finish:
        stream.feed(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}).encode())
    response = emit.end(stream.end(), at=2)
    frames = render_all(emit.take())
    events = [json.loads(frame.partition(b"\ndata: ")[2]) for frame in frames.split(b"\n\n")[:-1]]
    assert check_stream(events) == []
    return response


def told(asked: Ask) -> list[Json]:
    """The assistant's messages that the backend is told."""
    messages = json.loads(CHAT.encode(asked))["messages"]
    return [message for message in messages if message["role"] == "assistant"]


def again(
    profile: Profile, deltas: list[Json], *, state: State = OURS, back: Profile | None = None, **fields: Any
) -> Any:
    """What a backend is told of the turn that *deltas* made; with the outputs of its calls."""
    response = answer(ask(profile, **fields), deltas)
    outputs = [FunctionCallOutput(item.call_id, "42") for item in response.output if isinstance(item, FunctionCall)]
    items = [Message("user", "x"), *response.output, *outputs]
    return told(ask(back or profile, *items, state=state))


def call(name: str, **more: Any) -> Json:
    return {"tool_calls": [{"id": f"id_{name}", "function": {"name": name, "arguments": "{}"}, **more}]}


def signature(text: str) -> Json:
    return {"google": {"thought_signature": text}}


GEMINI, ROUTER = PROFILES["gemini"], PROFILES["openrouter"]


@pytest.mark.parametrize("name", ["deepseek", "moonshot", "zai"])
def test_reasoning_goes_back_with_the_calls_that_followed_it(name: Preset) -> None:
    (message,) = again(PROFILES[name], [{"reasoning_content": "Hm"}, {"reasoning_content": "."}, call("f")])
    assert message["reasoning_content"] == "Hm."
    (message,) = again(PROFILES[name], [call("f")])
    assert message.get("reasoning_content") == (None if name == "zai" else "")


def test_plain_reasoning_needs_no_blob_unless_it_is_asked_for() -> None:
    deltas = [{"reasoning_content": "Hm."}, {"content": "Yes."}]
    for asked, sealed in (({}, False), ({"include": SEALED}, True)):
        response = answer(ask(PROFILES["deepseek"], **asked), deltas)
        (reasoning, _) = response.output
        assert isinstance(reasoning, Reasoning)
        assert (reasoning.encrypted_content is not None) == sealed
        assert [part.text for part in reasoning.content or []] == ["Hm."]


def test_a_client_may_send_back_nothing_but_the_blob() -> None:
    response = answer(ask(PROFILES["deepseek"], include=SEALED), [{"reasoning_content": "Hm."}, call("f")])
    (reasoning, made) = response.output
    assert isinstance(reasoning, Reasoning)
    bare = Reasoning([], encrypted_content=reasoning.encrypted_content)
    items: list[Item] = [Message("user", "x"), bare, made, FunctionCallOutput("id_f", "42")]
    assert told(ask(PROFILES["deepseek"], *items))[0]["reasoning_content"] == "Hm."
    # The open models understand each other; to the rest, and to another tenant, it says nothing.
    assert told(ask(PROFILES["vllm"], *items))[0]["reasoning"] == "Hm."
    assert told(ask(PROFILES["deepseek"], *items, state=THEIRS))[0]["reasoning_content"] == ""
    assert "reasoning" not in told(ask(ROUTER, *items))[0]


HIDDEN = Profile(family="text", reasoning_kind="hidden", reasoning_out="reasoning_content")


def test_hidden_reasoning_is_kept_where_it_is_wanted_back() -> None:
    deltas = [{"reasoning_content": "Secret"}, {"reasoning_content": "ly."}, call("f")]
    response = answer(ask(HIDDEN), deltas)
    assert isinstance(response.output[0], Reasoning)
    assert (response.output[0].content, response.output[0].summary) == (None, [])
    assert "Secret" not in str(response.output)
    (message,) = again(HIDDEN, deltas)
    assert message["reasoning_content"] == "Secretly."
    dropped = Profile(reasoning_kind="hidden")
    assert [type(item) for item in answer(ask(dropped), deltas).output] == [FunctionCall]


def test_signatures_of_calls() -> None:
    deltas = [call("f", extra_content=signature("A")), call("g"), call("h", extra_content=signature("B"))]
    (message,) = again(GEMINI, deltas)
    assert [one.get("extra_content") for one in message["tool_calls"]] == [signature("A"), None, signature("B")]
    kinds = [type(item) for item in answer(ask(GEMINI), deltas).output]
    assert kinds == [Reasoning, FunctionCall, FunctionCall, Reasoning, FunctionCall]


def test_a_signature_without_an_id_finds_its_call() -> None:
    nameless = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}, "extra_content": signature("A")}]}
    (message,) = again(GEMINI, [nameless, nameless])
    first, second = message["tool_calls"]
    assert first["id"] != second["id"]
    assert first["extra_content"] == second["extra_content"] == signature("A")


def test_ids_that_come_again_in_a_later_turn() -> None:
    first = answer(ask(GEMINI), [call("f", extra_content=signature("A"))]).output
    second = answer(ask(GEMINI), [call("f")]).output
    output = FunctionCallOutput("id_f", "42")
    one, two = told(ask(GEMINI, Message("user", "x"), *first, output, Message("user", "y"), *second, output))
    assert one["tool_calls"][0]["extra_content"] == signature("A")
    assert two["tool_calls"][0]["extra_content"] != signature("A")


def test_a_signature_that_comes_late() -> None:
    begun = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}]}
    rest = {"tool_calls": [{"index": 0, "function": {"arguments": "}"}, "extra_content": signature("A")}]}
    (message,) = again(GEMINI, [begun, rest])
    assert message["tool_calls"][0]["extra_content"] == signature("A")
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_call_whose_signature_is_lost_is_marked_where_one_has_to() -> None:
    items = [Message("user", "x"), FunctionCall("a", "f", "{}"), FunctionCall("b", "g", "{}")]
    items += [FunctionCallOutput("a", "1"), FunctionCallOutput("b", "2")]
    (message,) = told(ask(GEMINI, *items))
    marked, plain = message["tool_calls"]
    assert marked["extra_content"] == signature("skip_thought_signature_validator")
    assert "extra_content" not in plain
    assert "extra_content" not in told(ask(ROUTER, *items))[0]["tool_calls"][0]


@pytest.mark.parametrize("late", [False, True])
def test_the_signature_of_a_text(*, late: bool) -> None:
    extra = {"extra_content": signature("T")}
    deltas = [{"content": "Y"}, {"content": "es"} | extra] if late else [{"content": "Yes"} | extra]
    (message,) = again(GEMINI, deltas)
    assert (message["content"], message["extra_content"]) == ("Yes", signature("T"))
    (shown,) = [item for item in answer(ask(GEMINI), deltas).output if isinstance(item, Message)]
    assert len(shown.content) == 1


def detail(text: str | None, index: int = 0, **more: Any) -> Json:
    return {"type": "reasoning.text", "text": text, "index": index, "format": "anthropic-claude-v1", **more}


DETAILS = [
    {"reasoning": "Let ", "reasoning_details": [detail("Let ")]},
    {"reasoning": "me.", "reasoning_details": [detail("me.", signature=None)]},
    {"reasoning_details": [detail(None, signature="SIG")]},
]
CIPHER = {"type": "reasoning.encrypted", "data": "XYZ", "id": "id_f", "index": 1, "format": "google-gemini-v1"}
JOINED = detail("Let me.", signature="SIG")


def test_reasoning_details_are_joined_and_go_back() -> None:
    (message,) = again(ROUTER, [*DETAILS, call("f")])
    assert message["reasoning_details"] == [JOINED]
    assert "reasoning" not in message
    response = answer(ask(ROUTER), [*DETAILS, call("f")])
    assert isinstance(response.output[0], Reasoning)
    assert [part.text for part in response.output[0].content or []] == ["Let me."]


def test_details_that_come_with_or_behind_the_call() -> None:
    for deltas in (
        [*DETAILS, call("f") | {"reasoning_details": [CIPHER]}],
        [*DETAILS, call("f"), {"reasoning_details": [CIPHER]}],
        [*DETAILS, {"content": "So"}, call("f"), {"reasoning_details": [CIPHER]}],
    ):
        (message,) = again(ROUTER, deltas)
        assert message["reasoning_details"] == [JOINED, CIPHER]


def test_each_message_gets_its_own_back() -> None:
    more = [{"reasoning": "And.", "reasoning_details": [detail("And.", 2)]}, call("g")]
    first, second = again(ROUTER, [*DETAILS, call("f"), {"reasoning_details": [CIPHER]}, *more])
    assert first["reasoning_details"] == [JOINED, CIPHER]
    assert second["reasoning_details"] == [detail("And.", 2)]
    assert [one["tool_calls"][0]["function"]["name"] for one in (first, second)] == ["f", "g"]


def test_reasoning_without_details_goes_back_as_text() -> None:
    assert again(ROUTER, [{"reasoning": "Hm."}, {"content": "Yes"}])[0]["reasoning"] == "Hm."


def test_ciphertext_of_thoughts() -> None:
    qwen = PROFILES["dashscope"]
    deltas = [{"reasoning_content": "In short"}, {"encrypted_content": "AB"}, {"encrypted_content": "CD"}, call("f")]
    (message,) = again(qwen, deltas)
    assert message["encrypted_content"] == "ABCD"
    shown = str([item for item in answer(ask(qwen), deltas).output if not isinstance(item, Reasoning)])
    assert "AB" not in shown


def test_what_a_family_has_made_another_one_ignores() -> None:
    deltas = [*DETAILS, call("f", extra_content=signature("A"))]
    (message,) = again(ROUTER, deltas, back=PROFILES["generic"])
    assert message.keys() == {"role", "content", "tool_calls"}
    assert "extra_content" not in message["tool_calls"][0]
    # The open models' servers are only asked for text, and only given text.
    (message,) = again(PROFILES["vllm"], deltas, include=SEALED)
    assert message["reasoning"] == "Let me."
    assert message.keys() == {"role", "content", "tool_calls", "reasoning"}


def test_without_a_key_or_for_another_tenant_nothing_comes_back() -> None:
    deltas = [call("f", extra_content=signature("A"))]
    response = answer(ask(GEMINI, state=NO_KEY), deltas)
    assert [type(item) for item in response.output] == [FunctionCall]
    (message,) = again(GEMINI, deltas, state=THEIRS)
    assert message["tool_calls"][0]["extra_content"] == signature("skip_thought_signature_validator")


def test_an_answer_that_was_cut_keeps_its_state() -> None:
    response = answer(ask(HIDDEN), [{"reasoning_content": "Hm"}], finish="length")
    assert response.status == "incomplete"
    (reasoning,) = response.output
    assert isinstance(reasoning, Reasoning)
    assert reasoning.encrypted_content


def test_too_much_reasoning_is_not_kept() -> None:
    piece = {"reasoning_content": "x" * (MAX_TEXT_BYTES // 2)}
    for pieces, kept in ((2, True), (3, False)):
        response = answer(ask(PROFILES["deepseek"], include=SEALED), [piece] * pieces)
        (reasoning,) = response.output
        assert isinstance(reasoning, Reasoning)
        assert (reasoning.encrypted_content is not None) == kept
        assert response.status == "completed"


def test_too_much_state_is_an_error() -> None:
    stream = CHAT.answer(ask(ROUTER), Emitter(draft(ask(ROUTER).request)))
    chunk = json.dumps({"choices": [{"delta": {"reasoning_details": [CIPHER | {"data": "x" * (1 << 20)}]}}]}).encode()
    for _ in range((MAX_STATE_BYTES - MAX_TEXT_BYTES) // (1 << 20) - 1):
        stream.feed(chunk)
    with pytest.raises(UpstreamError, match="more state"):
        stream.feed(chunk)


ODD: list[Any] = [3, "x", [], {}, [None], [[]], {"a": "\ud83d"}, {"a": {"b": "\ud83d"}}, [{"text": "\ud83d"}]]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_odd_state_harms_nothing(value: Any) -> None:
    delta = {"reasoning_details": value, "encrypted_content": value, "extra_content": value}
    made = call("f", extra_content=value)
    (message,) = again(ROUTER, [delta, {"content": "Yes"}, delta, made])
    assert message["content"] == "Yes"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_where_details_are_cut_does_not_matter(data: st.DataObject) -> None:
    text = data.draw(st.text(max_size=12))
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4))), len(text)]
    pieces = [detail(text[a:b]) for a, b in pairwise(edges)]
    assert join_details([*pieces, CIPHER, detail("", signature="S")]) == [detail(text, signature="S"), CIPHER]


def test_details_without_an_index_are_joined_to_their_neighbour() -> None:
    plain = [{"type": "reasoning.text", "text": "a"}, {"type": "reasoning.text", "text": "b", "signature": "S"}]
    more = {"type": "reasoning.text", "text": "c"}
    assert join_details([*plain, more]) == [{"type": "reasoning.text", "text": "ab", "signature": "S"}, more]


KEYS = st.sampled_from(
    [
        "content",
        "reasoning",
        "reasoning_details",
        "encrypted_content",
        "extra_content",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "index",
        "type",
        "text",
        "summary",
        "data",
        "signature",
        "google",
        "thought_signature",
        "annotations",
        "url_citation",
        "url",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", " ", "\ud83d", "reasoning.text"])
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=10
)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.sampled_from(["f", "g", ""]), "arguments": st.just("{}")})},
    optional={"id": st.sampled_from(["a", "b", ""]), "index": st.integers(0, 2), "extra_content": ANY},
)
DELTA = st.dictionaries(KEYS.filter(lambda key: key != "tool_calls"), ANY, max_size=4) | st.fixed_dictionaries(
    {"tool_calls": st.lists(CALL, max_size=2)}, optional={"reasoning_details": ANY, "extra_content": ANY}
)


@given(st.lists(DELTA, max_size=6), st.sampled_from([GEMINI, ROUTER, HIDDEN, PROFILES["dashscope"]]))
@settings(max_examples=200, deadline=None)
def test_any_state_gives_a_correct_stream_and_a_next_turn(deltas: list[Any], profile: Profile) -> None:
    try:
        messages = again(profile, deltas, include=SEALED)
    except UpstreamError:
        return
    assert all(message["role"] == "assistant" for message in messages)


def warnings(deltas: list[Json], **fields: Any) -> list[str]:
    asked = ask(PROFILES["generic"], **fields)
    stream = CHAT.answer(asked, Emitter(draft(asked.request)))
    for delta in deltas:
        stream.feed(json.dumps({"choices": [{"delta": delta}]}).encode())
    stream.feed(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}')
    assert stream.end().status == "completed"
    return list(stream.warnings)


def test_what_the_client_has_to_live_with_is_said_in_the_log() -> None:
    assert warnings([call("f"), call("g"), {"content": "x"}]) == []
    several = "several calls came, although parallel_tool_calls was false"
    assert warnings([call("f"), call("g"), call("h")], parallel_tool_calls=False) == [several]
    assert warnings([call("f")], parallel_tool_calls=False) == []
    broken = {"tool_calls": [{"function": {"name": "f", "arguments": "{oops"}}]}
    assert warnings([broken, broken]) == ["arguments of a call are no JSON"]
