"""Turns that build on each other: history, round trips of tools, and the list of input items."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from fakes.upstream import FakeUpstream, call_delta, chunk, reply, send, status
from support.cluster_thread import ClusterThread

TOOLS: Any = [
    {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}},
    {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}, "strict": False},
]
TWO_CALLS = reply(
    reasoning=["Two things."],
    calls=[
        call_delta(0, call_id="call_w", name="get_weather", arguments='{"city": "Paris"}'),
        call_delta(1, call_id="call_t", name="get_time", arguments='{"city": "Oslo"}'),
    ],
)
OUTPUTS: Any = [
    {"type": "function_call_output", "call_id": "call_t", "output": [{"type": "input_text", "text": "12:00"}]},
    {"type": "function_call_output", "call_id": "call_w", "output": "sunny"},
]
ASKED = {"role": "user", "content": "weather and time"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_w", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}},
        {"id": "call_t", "type": "function", "function": {"name": "get_time", "arguments": '{"city": "Oslo"}'}},
    ],
}
ANSWERED = [
    {"role": "tool", "tool_call_id": "call_w", "content": "sunny"},
    {"role": "tool", "tool_call_id": "call_t", "content": "12:00"},
]


async def test_history_reaches_the_backend_and_instructions_do_not(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    for word in ("One.", "Two.", "Three."):
        upstream.queue(reply(word))
    first = await client.responses.create(model="tiny", input="first", instructions="Be brief.")
    second = await client.responses.create(
        model="tiny",
        input=[{"role": "developer", "content": "Count."}, {"role": "user", "content": "second"}],
        previous_response_id=first.id,
    )
    third = await client.responses.create(
        model="tiny", input="third", previous_response_id=second.id, instructions="Be long."
    )
    assert third.previous_response_id == second.id
    assert second.instructions is None
    said = [call.body["messages"] for call in upstream.calls]
    one = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "One."}]
    two = [{"role": "system", "content": "Count."}, {"role": "user", "content": "second"}]
    assert said[0] == [{"role": "system", "content": "Be brief."}, one[0]]
    assert said[1] == [*one, *two]
    assert said[2] == [
        {"role": "system", "content": "Be long."},
        *one,
        *two,
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "third"},
    ]


async def test_a_chain_survives_the_deletion_of_an_earlier_turn(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    for word in ("One.", "Two.", "Three."):
        upstream.queue(reply(word))
    first = await client.responses.create(model="tiny", input="first")
    second = await client.responses.create(model="tiny", input="second", previous_response_id=first.id)
    await client.responses.delete(first.id)
    third = await client.responses.create(model="tiny", input="third", previous_response_id=second.id)
    texts = [message["content"] for message in upstream.calls[2].body["messages"]]
    assert texts == ["first", "One.", "second", "Two.", "third"]
    assert third.status == "completed"


async def test_one_parent_may_have_several_children(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(reply("One."))
    first = await client.responses.create(model="tiny", input="first")
    for name in ("left", "right"):
        await client.responses.create(model="tiny", input=name, previous_response_id=first.id)
    assert [len(call.body["messages"]) for call in upstream.calls] == [1, 3, 3]


async def test_a_failed_turn_can_be_continued(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(status(400))
    failed = await client.responses.create(model="tiny", input="first")
    upstream.queue(reply("Two."))
    second = await client.responses.create(model="tiny", input="second", previous_response_id=failed.id)
    assert second.output_text == "Two."
    assert [message["content"] for message in upstream.calls[1].body["messages"]] == ["first", "second"]


async def test_a_refusal_can_be_continued(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(send(chunk(refusal="No."), chunk(finish="stop")))
    first = await client.responses.create(model="tiny", input="first")
    await client.responses.create(model="tiny", input="second", previous_response_id=first.id)
    assert [message["content"] for message in upstream.calls[1].body["messages"]] == ["first", "No.", "second"]


async def test_outputs_of_calls_by_previous_response_id(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(TWO_CALLS)
    upstream.queue(reply("Sunny at noon."))
    asked = await client.responses.create(model="tiny", input="weather and time", tools=TOOLS)
    assert [item.type for item in asked.output] == ["reasoning", "function_call", "function_call"]
    answer = await client.responses.create(model="tiny", input=OUTPUTS, tools=TOOLS, previous_response_id=asked.id)
    assert answer.output_text == "Sunny at noon."
    assert upstream.calls[1].body["messages"] == [ASKED, CALLED, *ANSWERED]


def as_objects(response: Any) -> list[Any]:
    return list(response.output)


def as_dumps(response: Any) -> list[Any]:
    return [item.model_dump() for item in response.output]


def as_received(response: Any) -> list[Any]:
    return [item.to_dict() for item in response.output]


@pytest.mark.parametrize("form", [as_objects, as_dumps, as_received])
async def test_outputs_of_calls_with_everything_sent_back(
    form: Callable[[Any], list[Any]], client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(TWO_CALLS)
    upstream.queue(reply("Sunny at noon."))
    asked = await client.responses.create(model="tiny", input="weather and time", tools=TOOLS, store=False)
    history: Any = [{"role": "user", "content": "weather and time"}, *form(asked), *OUTPUTS]
    answer = await client.responses.create(model="tiny", input=history, tools=TOOLS)
    assert upstream.calls[1].body["messages"] == [ASKED, CALLED, *ANSWERED]
    history += [*form(answer), {"role": "user", "content": "thanks"}]
    await client.responses.create(model="tiny", input=history, tools=TOOLS)
    tail = [{"role": "assistant", "content": "Sunny at noon."}, {"role": "user", "content": "thanks"}]
    assert upstream.calls[2].body["messages"] == [ASKED, CALLED, *ANSWERED, *tail]
    sent = [item.to_dict() async for item in client.responses.input_items.list(answer.id, order="asc")]
    assert [item["id"] for item in sent[1:4]] == [item.id for item in asked.output]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "No tool output found for function call call_w"),
        (OUTPUTS[:1], "No tool output found for function call call_w"),
        ([*OUTPUTS, {**OUTPUTS[0], "call_id": "call_x"}], "No tool call found for function call output with call_id"),
    ],
)
async def test_calls_and_outputs_must_pair_over_the_whole_context(
    outputs: Any, message: str, client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(TWO_CALLS)
    asked = await client.responses.create(model="tiny", input="weather and time", tools=TOOLS)
    turn: Any = [*outputs, {"role": "user", "content": "go on"}]
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        await client.responses.create(model="tiny", input=turn, previous_response_id=asked.id)
    assert caught.value.param == "input"
    assert len(upstream.calls) == 1


async def test_outputs_with_the_calls_that_the_chain_brings_with_it(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    """A common mistake: `previous_response_id`, and the previous output in front of what is new."""
    upstream.queue(TWO_CALLS)
    upstream.queue(reply("Sunny."))
    asked = await client.responses.create(model="tiny", input="weather and time", tools=TOOLS)
    turn: Any = [*(item.to_dict() for item in asked.output), *OUTPUTS]
    answer = await client.responses.create(model="tiny", input=turn, previous_response_id=asked.id)
    assert answer.output_text == "Sunny."
    plain = ["user", "assistant", "tool", "tool"]
    assert [message["role"] for message in upstream.calls[1].body["messages"]] == plain
    assert len(upstream.calls[1].body["messages"][1]["tool_calls"]) == 2
    kept = [item.type async for item in client.responses.input_items.list(answer.id, order="asc")]
    assert kept == ["message", *(item.type for item in asked.output), "function_call_output", "function_call_output"]
    twice: Any = [*OUTPUTS, {**OUTPUTS[0], "output": "something else"}]
    with pytest.raises(openai.BadRequestError, match="two different outputs with the call_id call_t"):
        await client.responses.create(model="tiny", input=twice, previous_response_id=asked.id)


async def test_a_call_that_was_cut_short_needs_no_output(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    cut = [call_delta(0, call_id="call_w", name="get_weather", arguments='{"ci')]
    upstream.queue(reply(calls=cut, finish="length"))
    asked = await client.responses.create(model="tiny", input="weather", tools=TOOLS)
    assert asked.status == "incomplete"
    upstream.queue(reply("ok"))
    response = await client.responses.create(model="tiny", input="go on", previous_response_id=asked.id)
    assert response.output_text == "ok"
    assert [message["role"] for message in upstream.calls[1].body["messages"]] == ["user", "user"]


async def test_input_items_are_paged_and_hold_the_chain(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="echo", input="one")
    second = await client.responses.create(
        model="echo",
        input=[{"role": "user", "content": "two"}, {"role": "assistant", "content": "three"}],
        previous_response_id=first.id,
    )
    third = await client.responses.create(model="echo", input="four", previous_response_id=second.id)
    everything = [item.to_dict() async for item in client.responses.input_items.list(third.id, order="asc", limit=100)]
    texts: list[Any] = [item["content"][0]["text"] for item in everything]  # type: ignore[index]
    assert texts == ["one", first.output_text, "two", "three", second.output_text, "four"]
    ids = [item["id"] for item in everything]
    assert len(set(ids)) == len(ids)
    assert all(item["status"] == "completed" for item in everything)
    for limit in (1, 2, 5, 6):
        found = [item.id async for item in client.responses.input_items.list(third.id, order="asc", limit=limit)]
        assert found == ids
        newest = [item.id async for item in client.responses.input_items.list(third.id, limit=limit)]
        assert newest == ids[::-1]
    page = await client.responses.input_items.list(third.id, order="asc", after=str(ids[1]), limit=2)
    assert [item.id for item in page.data] == ids[2:4]
    assert page.has_more is True
    page = await client.responses.input_items.list(third.id, order="asc", after=str(ids[-1]))
    assert (page.data, page.has_more) == ([], False)
    own = [item.id async for item in client.responses.input_items.list(first.id)]
    assert own == ids[:1]


async def test_clients_own_ids_of_items_are_kept_when_they_are_well_formed(client: openai.AsyncOpenAI) -> None:
    items: Any = [
        {"type": "message", "role": "user", "content": "a", "id": "msg_mine-1"},
        {"type": "message", "role": "user", "content": "b", "id": "not well formed"},
    ]
    response = await client.responses.create(model="echo", input=items)
    ids = [item.id async for item in client.responses.input_items.list(response.id, order="asc")]
    assert ids[0] == "msg_mine-1"
    assert str(ids[1]).startswith("msg_")


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"limit": 0}, 400, "limit"),
        ({"limit": 101}, 400, "limit"),
        ({"limit": "many"}, 400, "limit"),
        ({"order": "sideways"}, 400, "order"),
        ({"after": "msg_unknown"}, 404, "after"),
    ],
)
async def test_pages_that_do_not_exist(
    query: dict[str, Any], code: int, param: str, client: openai.AsyncOpenAI, service: ClusterThread
) -> None:
    response = await client.responses.create(model="echo", input="hi")
    with pytest.raises(openai.APIStatusError) as caught:
        await client.responses.input_items.list(response.id, **query)
    assert (caught.value.status_code, caught.value.param) == (code, param)
