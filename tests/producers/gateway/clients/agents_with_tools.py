"""Agents with tools and a form of their answer: OpenAI's SDK and Pydantic AI, whole and streamed.

The model writes little sense, so what it may write is bounded: which numbers, which words.
"""

import asyncio
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import NativeOutput, Tool, ToolDefinition, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponsesModel

MODEL = "tooled"
QUESTION = "What is the sum?"
MAX_TOKENS = 700

Few = Literal[1, 2, 3]


class Sum(BaseModel):
    """The answer."""

    total: Few
    sure: bool


async def with_openais(client: AsyncOpenAI, kind: type) -> None:
    """A turn in which a function must be called, then one whose answer is a `Sum`."""
    called: list[tuple[int, int]] = []

    @function_tool(is_enabled=lambda *_: not called)
    def add(a: Few, b: Few) -> str:
        """Add two numbers."""
        called.append((a, b))
        return str(a + b)

    settings = ModelSettings(
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        tool_choice="required",
        parallel_tool_calls=False,
        include_usage=True,
    )
    model = kind(model=MODEL, openai_client=client)
    agent = Agent(
        name="sums", instructions="Add.", model=model, tools=[add], output_type=Sum, model_settings=settings
    )
    whole = await Runner.run(agent, QUESTION)
    assert isinstance(whole.final_output, Sum), whole
    assert called
    assert {item.type for item in whole.new_items} >= {"tool_call_item", "tool_call_output_item"}
    once = called.copy()
    called.clear()
    streamed = Runner.run_streamed(agent, QUESTION)
    pieces = {"response.function_call_arguments.delta": "", "response.output_text.delta": ""}
    async for event in streamed.stream_events():
        if event.type == "raw_response_event" and event.data.type in pieces:
            pieces[event.data.type] += event.data.delta
    assert (streamed.final_output, called) == (whole.final_output, once)
    arguments, text = pieces.values()
    assert Sum.model_validate_json(text) == whole.final_output
    assert arguments == "".join(
        item.raw_item.arguments for item in whole.new_items if item.type == "tool_call_item"
    )


async def with_pydantics(model: OpenAIChatModel | PydanticResponsesModel) -> None:
    """An output that is a tool's arguments, and one that is the answer's text."""
    settings = {"max_tokens": MAX_TOKENS, "temperature": 0.0, "parallel_tool_calls": False}
    called: list[tuple[int, int]] = []

    async def once(_: object, tool: ToolDefinition) -> ToolDefinition | None:
        return None if called else tool

    def add(a: Few, b: Few) -> str:
        """Add two numbers."""
        called.append((a, b))
        return str(a + b)

    for output in (ToolOutput(Sum), NativeOutput(Sum)):
        tools = [Tool(add, prepare=once, strict=True)]
        agent = PydanticAgent(model, instructions="Add.", output_type=output, tools=tools, retries=0)
        called.clear()
        whole = await agent.run(QUESTION, model_settings=settings)
        assert isinstance(whole.output, Sum)
        first = called.copy()
        called.clear()
        async with agent.run_stream(QUESTION, model_settings=settings) as streamed:
            found = [partial async for partial in streamed.stream_output(debounce_by=None)]
            assert found[-1] == await streamed.get_output() == whole.output
            assert called == first


async def main() -> None:
    set_tracing_disabled(True)
    async with AsyncOpenAI() as client:
        for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
            await with_openais(client, kind)

    for model in (OpenAIChatModel(MODEL), PydanticResponsesModel(MODEL)):
        await with_pydantics(model)


asyncio.run(main())
