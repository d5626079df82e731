"""Answers that must have a form, streamed to OpenAI's client while gateways, workers and Redis are killed.

Some follow a schema of one to six levels, some are calls of tools, some come after reasoning. A stream that
breaks is asked for again, at any gateway and under its idempotency key: it must begin with all that was read
before, and be in the end what it is when nothing happens.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from headrace.workers.models import resolve_model

from .load import nested

DEPTHS = range(1, 7)

_TEMPLATE = "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}"
_THINKS = "{% if 'Think' in messages[-1]['content'] %}{{ '<think>' }}{% endif %}{# ends with </think> #}"


def model_with_tools(folder: Path) -> Path:
    """The built-in model with a chat template that shows tools and knows reasoning; its name is "demo"."""
    made = folder / "demo"
    shutil.copytree(resolve_model("demo"), made)
    template = made / "chat_template.jinja"
    template.write_text(_TEMPLATE + template.read_text() + _THINKS)
    return made


@dataclass(frozen=True, slots=True)
class Form:
    """A chat whose answer must have a form.

    Attributes:
        kind: "schema", "tools" or "reasoning".
        body: the chat's arguments.
        schema: what its content, or the arguments of its calls, follow.
    """

    kind: str
    body: Mapping[str, Any]
    schema: Mapping[str, Any]


def form(kind: str, number: int) -> Form:
    """One of the chats, from which the answer follows."""
    schema = nested(DEPTHS[number % len(DEPTHS)])
    said = "Think, then describe it." if kind == "reasoning" else "Describe it."
    body: dict[str, Any] = {"model": "demo", "seed": number, "max_tokens": 250, "temperature": 0.9}
    body["messages"] = [{"role": "user", "content": said}]
    match kind:
        case "schema":
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        case "tools":
            function = {"name": "describe", "parameters": schema, "strict": True}
            body |= {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
            body["parallel_tool_calls"] = False
        case _:
            tight = {**schema, "x-guidance": {"whitespace_flexible": False}}
            lark = f'start: /[a-z ]{{30,60}}/ "</think>\\n\\n" it\nit: %json {json.dumps(tight)}'
            body["extra_body"] = {"structured_outputs": {"grammar": lark}}
    return Form(kind, body, schema)


CANDIDATES = tuple(form(kind, number) for number in range(18) for kind in ("schema", "tools", "reasoning"))
"""Not all end before max_tokens: a thought before a call may last, and so may white space."""


@dataclass(slots=True)
class Answer:
    """What a client has of a stream."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, str] = field(default_factory=dict)
    finish_reason: str | None = None

    def take(self, chunk: Any) -> None:
        """Add a chunk, as OpenAI's client gives it."""
        for choice in chunk.choices:
            delta = choice.delta
            self.content += delta.content or ""
            self.reasoning += (delta.model_extra or {}).get("reasoning") or ""
            for call in delta.tool_calls or ():
                said = f"{call.function.name}:" if call.function.name else ""
                self.calls[call.index] = (
                    self.calls.get(call.index, "") + said + (call.function.arguments or "")
                )
            self.finish_reason = choice.finish_reason or self.finish_reason

    def begins_with(self, other: "Answer") -> bool:
        """Whether all of the other is its beginning."""
        return (
            self.content.startswith(other.content)
            and self.reasoning.startswith(other.reasoning)
            and all(self.calls.get(at, "").startswith(said) for at, said in other.calls.items())
        )


def wrong(asked: Form, answer: Answer) -> str:
    """What a whole answer lacks of its form; nothing if it was cut by max_tokens."""
    if answer.finish_reason == "length":
        return ""
    if answer.finish_reason != ("tool_calls" if asked.kind == "tools" else "stop"):
        return f"it ended with {answer.finish_reason}"
    if bool(answer.reasoning) is not (asked.kind == "reasoning"):
        return f"its reasoning is {answer.reasoning!r}"
    if asked.kind == "tools" and not (len(answer.calls) == 1 and answer.calls[0].startswith("describe:")):
        return f"its calls are {answer.calls}"
    text = answer.calls[0].removeprefix("describe:") if asked.kind == "tools" else answer.content
    try:
        jsonschema.validate(json.loads(text), asked.schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"it has not its form: {error}"
    return ""
