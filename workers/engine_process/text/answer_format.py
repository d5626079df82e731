"""Finds out in which format a model writes calls and reasoning, from its chat template.

A template shows the model its own calls of earlier turns, and reasoning where it keeps or drops it, so it
holds the markers of its format.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ....schemas.answers import AnswerFormat, markers_of
from ....schemas.wire import WireJob

AUTO, NONE = "auto", "none"

_TOOLS = {
    "harmony": r"<\|channel\|>.*<\|message\|>|<\|message\|>.*<\|channel\|>",
    "qwen3_coder": r"<function=",
    "glm": r"<arg_key>",
    "hermes": r"<tool_call>",
    "deepseek": r"<｜tool▁calls▁begin｜>",
    "mistral": r"\[TOOL_CALLS\]",
    "gemma": r"<start_function_call>|<\|tool_call>",
    "pythonic": r"<\|python_start\|>|\[func_name1\(",
    "llama3_json": r"<\|python_tag\|>|\"parameters\": ?dictionary of|parameters\\?\": dictionary",
}
"""What a template holds of each format. The first found is taken: some hold another's markers, too."""

_REASONING = {
    "harmony": _TOOLS["harmony"],
    "mistral": r"\[/?THINK\]",
    "think": r"</think>",
}

_OPENS = re.compile(r"(<think>|\[THINK\])\s*\Z")


def tool_format(template: str | Mapping[str, str] | None, setting: str = AUTO) -> str | None:
    """The format of calls: what the setting says or, if that is `auto`, what the template shows."""
    return _found(template, setting, _TOOLS)


def reasoning_format(template: str | Mapping[str, str] | None, setting: str = AUTO) -> str | None:
    """The format of reasoning; see `tool_format`."""
    return _found(template, setting, _REASONING)


def _found(template: str | Mapping[str, str] | None, setting: str, known: Mapping[str, str]) -> str | None:
    if setting != AUTO:
        return None if setting == NONE else setting
    source = "\n".join(template.values()) if isinstance(template, Mapping) else template or ""
    return next((name for name, sign in known.items() if re.search(sign, source, re.DOTALL)), None)


def answer_format(job: WireJob, prompt: str, tools: str | None, reasoning: str | None) -> AnswerFormat | None:
    """How to read a job's answer; None if it is read as it is.

    Args:
        job: a job with messages.
        prompt: its rendered prompt.
        tools: the format of the model's calls.
        reasoning: the format of its reasoning.
    """
    calls = tools if job.tools and job.tool_choice != NONE else None
    if calls is None and reasoning is None:
        return None
    needs_types = calls in ("qwen3_coder", "glm")
    return AnswerFormat.model_validate(
        {
            "tools": calls,
            "reasoning": reasoning,
            "begun": reasoning is not None and _OPENS.search(prompt) is not None,
            "single": calls is not None and not job.parallel_tool_calls,
            "values": _values(job.tools or ()) if needs_types else {},
        }
    )


def shown_by(travelled: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The markers that must be in the text, for a format as it travels."""
    return () if travelled is None else markers_of(AnswerFormat.model_validate(travelled))


def _values(tools: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The kinds of all parameters that aren't plain strings, by function."""
    kinds = {}
    for tool in tools:
        function = tool.get("function", tool)
        schema = function.get("parameters")
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(properties, Mapping):
            found = {str(name): kind for name, each in properties.items() if (kind := _kind(each))}
            if found:
                kinds[function["name"]] = found
    return kinds


def _kind(schema: Any) -> str | None:
    """How to read a value of this schema: `json`, `nullable`, or None for a string."""
    types = set(_types(schema))
    if "string" in types:
        return "nullable" if "null" in types else None
    return "json" if types else None


def _types(schema: Any) -> Iterable[str]:
    if not isinstance(schema, Mapping):
        return
    named = schema.get("type")
    yield from (each for each in (named if isinstance(named, list) else [named]) if isinstance(each, str))
    options = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if named is None and isinstance(options, list):
        yield from (
            "string" if isinstance(each, str) else "null" if each is None else "other" for each in options
        )
    for union in ("anyOf", "oneOf"):
        if isinstance(schema.get(union), list):
            for each in schema[union]:
                yield from _types(each)
    if "$ref" in schema or (named is None and "properties" in schema):
        yield "other"
