"""openai-agents, unmodified: tools, streaming, sessions, and history kept by the server."""

from collections.abc import Callable
from typing import Any

import agents
import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
)

from fakes.upstream import FakeUpstream, call_delta, reply

CONFIG = RunConfig(tracing_disabled=True)
Make = Callable[..., Agent[None]]


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


@pytest.fixture
def agent(client: openai.AsyncOpenAI) -> Make:
    """Make an agent on the server; options are those of ``Agent``."""

    def make(**options: Any) -> Agent[None]:
        model = OpenAIResponsesModel("tiny", client)
        return Agent(name="helper", instructions="Be brief.", model=model, **options)

    return make


def ask_weather(*cities: str) -> Any:
    calls = [
        call_delta(i, call_id=f"call_{city}", name="get_weather", arguments=f'{{"city": "{city}"}}')
        for i, city in enumerate(cities)
    ]
    return reply(calls=calls)


def roles(body: Any) -> list[str]:
    return [message["role"] for message in body["messages"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools(stream: bool, agent: Make, upstream: FakeUpstream) -> None:
    upstream.queue(ask_weather("Oslo", "Rome"))
    upstream.queue(reply("Rain ", "everywhere."))
    helper = agent(tools=[get_weather], model_settings=ModelSettings(parallel_tool_calls=True, temperature=0.1))
    if stream:
        streamed = Runner.run_streamed(helper, "Weather?", run_config=CONFIG)
        kinds = {event.type async for event in streamed.stream_events()}
        assert kinds >= {"raw_response_event", "run_item_stream_event"}
        output = streamed.final_output
    else:
        output = (await Runner.run(helper, "Weather?", run_config=CONFIG)).final_output
    assert output == "Rain everywhere."
    second = (await upstream.called(1)).body
    assert roles(second) == ["system", "user", "assistant", "tool", "tool"]
    assert [message["content"] for message in second["messages"][3:]] == ["It rains in Oslo.", "It rains in Rome."]


async def test_a_session_of_its_own_sends_the_history_back(agent: Make, upstream: FakeUpstream) -> None:
    upstream.queue(ask_weather("Oslo"))
    upstream.queue(reply("Rain."))
    upstream.queue(reply("Still rain."))
    session = SQLiteSession("one")
    helper = agent(tools=[get_weather])
    await Runner.run(helper, "Weather?", session=session, run_config=CONFIG)
    result = await Runner.run(helper, "And now?", session=session, run_config=CONFIG)
    session.close()
    assert result.final_output == "Still rain."
    body = (await upstream.called(2)).body
    assert roles(body) == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_previous_response_ids_keep_the_history_here(agent: Make, upstream: FakeUpstream) -> None:
    upstream.queue(ask_weather("Oslo"))
    upstream.queue(reply("Rain."))
    upstream.queue(reply("Still rain."))
    helper = agent(tools=[get_weather])
    first = await Runner.run(helper, "Weather?", auto_previous_response_id=True, run_config=CONFIG)
    result = await Runner.run(helper, "And now?", previous_response_id=first.last_response_id, run_config=CONFIG)
    assert result.final_output == "Still rain."
    body = (await upstream.called(2)).body
    assert roles(body) == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_a_conversation_keeps_the_history_here(
    agent: Make, client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    upstream.queue(ask_weather("Oslo"))
    upstream.queue(reply("Rain."))
    upstream.queue(reply("Still rain."))
    conversation = await client.conversations.create()
    helper = agent(tools=[get_weather])
    await Runner.run(helper, "Weather?", conversation_id=conversation.id, run_config=CONFIG)
    result = await Runner.run(helper, "And now?", conversation_id=conversation.id, run_config=CONFIG)
    assert result.final_output == "Still rain."
    body = (await upstream.called(2)).body
    assert roles(body) == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_a_session_on_conversations(agent: Make, client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.queue(ask_weather("Oslo"))
    upstream.queue(reply("Rain."))
    upstream.queue(reply("Still rain."))
    session = OpenAIConversationsSession(openai_client=client)
    helper = agent(tools=[get_weather])
    await Runner.run(helper, "Weather?", session=session, run_config=CONFIG)
    result = await Runner.run(helper, "And now?", session=session, run_config=CONFIG)
    assert result.final_output == "Still rain."
    kinds = [item.get("type", "message") for item in await session.get_items()]
    assert kinds == ["message", "function_call", "function_call_output", "message", "message", "message"]
    body = (await upstream.called(2)).body
    assert roles(body) == ["system", "user", "assistant", "tool", "assistant", "user"]
    popped = await session.pop_item()
    assert popped is not None
    assert len(await session.get_items()) == len(kinds) - 1
    await session.clear_session()


async def test_handoffs_between_agents(agent: Make, upstream: FakeUpstream) -> None:
    expert = agent(handoff_description="Knows it.").clone(name="expert")
    helper = agent(handoffs=[expert])
    upstream.queue(reply(calls=[call_delta(0, call_id="call_h", name="transfer_to_expert", arguments="{}")]))
    upstream.queue(reply("I know it."))
    result = await Runner.run(helper, "Who knows?", run_config=CONFIG)
    assert result.final_output == "I know it."
    assert result.last_agent.name == "expert"


async def test_structured_output(agent: Make, upstream: FakeUpstream) -> None:
    upstream.queue(reply('{"response": [1, ', "2]}"))
    result = await Runner.run(agent(output_type=list[int]), "Numbers?", run_config=CONFIG)
    assert result.final_output == [1, 2]
    assert (await upstream.called()).body["response_format"]["type"] == "json_schema"
