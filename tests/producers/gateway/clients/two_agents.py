"""One agent each of OpenAI's Agents SDK and of Pydantic AI, by chat completions and by responses."""

import asyncio

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponsesModel

QUESTIONS = "What does str.split do?", "And join?"
MAX_TOKENS = 256


async def with_openais(client: AsyncOpenAI, kind: type) -> None:
    """A conversation of two turns, the second one streamed."""
    settings = ModelSettings(max_tokens=MAX_TOKENS, temperature=0.0, include_usage=True)
    model = kind(model="demo", openai_client=client)
    agent = Agent(name="docs", instructions="Be brief.", model=model, model_settings=settings)
    first = await Runner.run(agent, QUESTIONS[0])
    assert isinstance(first.final_output, str)
    assert first.final_output
    usage = first.context_wrapper.usage
    assert 0 < usage.output_tokens <= MAX_TOKENS
    assert usage.input_tokens > 0
    following = [*first.to_input_list(), {"role": "user", "content": QUESTIONS[1]}]
    whole = await Runner.run(agent, following)
    streamed = Runner.run_streamed(agent, following)
    text = ""
    async for event in streamed.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert text == streamed.final_output == whole.final_output
    assert streamed.context_wrapper.usage.output_tokens == whole.context_wrapper.usage.output_tokens


async def with_pydantics(model: OpenAIChatModel | PydanticResponsesModel) -> None:
    """The same, and what it makes of a refusal."""
    agent = PydanticAgent(model, instructions="Be brief.")
    settings = {"max_tokens": MAX_TOKENS, "temperature": 0.0}
    first = await agent.run(QUESTIONS[0], model_settings=settings)
    assert isinstance(first.output, str)
    assert first.output
    assert 0 < first.usage.output_tokens <= MAX_TOKENS
    history = first.all_messages()
    whole = await agent.run(QUESTIONS[1], message_history=history, model_settings=settings)
    async with agent.run_stream(QUESTIONS[1], message_history=history, model_settings=settings) as streamed:
        parts = [part async for part in streamed.stream_text(delta=True, debounce_by=None)]
        assert len(parts) > 1
        assert "".join(parts) == whole.output
        assert streamed.usage.output_tokens == whole.usage.output_tokens
    with pytest.raises(ModelHTTPError) as refused:
        await agent.run(QUESTIONS[0], model_settings={"temperature": 101.0})
    assert refused.value.status_code == 400
    assert "temperature" in str(refused.value.body)


async def main() -> None:
    set_tracing_disabled(True)
    async with AsyncOpenAI() as client:
        for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
            await with_openais(client, kind)
    for model in (OpenAIChatModel("demo"), PydanticResponsesModel("demo")):
        await with_pydantics(model)


asyncio.run(main())
