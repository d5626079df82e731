"""LiteLLM's own function: a call of a tool, whole and streamed, and a schema."""

import json
import os

import litellm

FEW = {"enum": [1, 2, 3]}
SCHEMA = {
    "type": "object",
    "properties": {"a": FEW, "b": FEW},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": SCHEMA}}
ASKED = {
    "model": "openai/tooled",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "messages": [{"role": "user", "content": "What is the sum?"}],
    "temperature": 0,
    "max_tokens": 700,
}
CALL = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}

(choice,) = litellm.completion(**ASKED, **CALL).choices
(call,) = choice.message.tool_calls
assert choice.finish_reason == "tool_calls"
assert (call.function.name, set(json.loads(call.function.arguments))) == ("add", {"a", "b"})
chunks = [*litellm.completion(**ASKED, **CALL, stream=True)]
(again,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
assert again.function.arguments == call.function.arguments
form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}}
text = litellm.completion(**ASKED, response_format=form).choices[0].message.content
assert set(json.loads(text)) == {"a", "b"}
