"""LlamaIndex: a chat that calls a function, whole and streamed, and a program whose output is a model's."""

import os
from typing import Literal

from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

Few = Literal[1, 2, 3]


def add(a: Few, b: Few) -> int:
    """Add two numbers."""
    return a + b


llm = OpenAILike(
    model="tooled",
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key="-",
    is_chat_model=True,
    is_function_calling_model=True,
    max_retries=0,
    temperature=0.0,
    max_tokens=700,
)
tool = FunctionTool.from_defaults(add)
asked = {"user_msg": "What is the sum?", "tool_required": True, "allow_parallel_tool_calls": False}
whole = llm.get_tool_calls_from_response(llm.chat_with_tools([tool], **asked))
(call,) = whole
assert call.tool_name == "add", whole
assert set(call.tool_kwargs) >= {"a", "b"}, whole
*_, last = llm.stream_chat_with_tools([tool], **asked)
(again,) = llm.get_tool_calls_from_response(last)
assert again.tool_kwargs == call.tool_kwargs
