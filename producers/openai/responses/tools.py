"""A response's functions and its reasoning, as arguments of a job."""

from collections.abc import Mapping, Sequence
from typing import Any

from ....schemas.errors import InvalidJob
from ....schemas.redaction import shown_name

_OF_FUNCTION = ("name", "description", "parameters", "strict")


def job_tools(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields about tools ask of a job.

    Raises:
        InvalidJob: a tool is no function, or the choice isn't one.
    """
    asked: dict[str, Any] = {}
    if tools := fields.get("tools"):
        if not isinstance(tools, list):
            raise InvalidJob("tools", "must be a list of functions")
        asked["tools"] = [_tool(f"tools.{place}", tool) for place, tool in enumerate(tools)]
    choice = fields.get("tool_choice")
    if isinstance(choice, Mapping):
        if choice.get("type") != "function" or "name" not in choice:
            raise InvalidJob("tool_choice", "must be none, auto, required, or a function with its name")
        choice = {"type": "function", "function": {"name": choice["name"]}}
    if choice is not None:
        asked["tool_choice"] = choice
    return asked


def _tool(field: str, tool: object) -> dict[str, Any]:
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or kind != "function":
        shown = f"{shown_name(str(kind))!r} is not supported; only function is"
        raise InvalidJob(f"{field}.type", shown)
    function = {name: tool[name] for name in _OF_FUNCTION if tool.get(name) is not None}
    return {"type": "function", "function": function}


def echoed(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a response repeats them."""
    named = ("parameters", "strict", "description")
    return [
        {"type": "function", "name": tool.get("name"), **{name: tool.get(name) for name in named}}
        for tool in tools
    ]


def job_effort(reasoning: object) -> dict[str, Any]:
    """What `reasoning` asks of a job.

    Raises:
        InvalidJob: it holds something else.
    """
    if reasoning is None:
        return {}
    if not isinstance(reasoning, Mapping):
        raise InvalidJob("reasoning", "must be an object")
    for name in reasoning:
        if name not in ("effort", "summary", "generate_summary"):
            raise InvalidJob(f"reasoning.{shown_name(str(name))}", "is not supported; leave it out")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}
