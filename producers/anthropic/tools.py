"""A request's tools and what it says of their use, as arguments of a job."""

from collections.abc import Mapping
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.redaction import shown_name
from ..openai.options import flag

_CHOICES = {"auto": "auto", "none": "none", "any": "required"}


def job_tools(tools: object) -> list[dict[str, Any]]:
    """The tools as OpenAI describes them.

    Raises:
        InvalidJob: one is no function of the client's own.
    """
    if not isinstance(tools, list):
        raise InvalidJob("tools", "must be a list of tools")
    return [_tool(f"tools.{place}", tool) for place, tool in enumerate(tools)]


def _tool(field: str, tool: object) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise InvalidJob(field, "must be an object")
    if (kind := tool.get("type") or "custom") != "custom":
        raise InvalidJob(
            f"{field}.type", f"{shown_name(str(kind))!r} is not supported; only the client's own are"
        )
    if not isinstance(tool.get("input_schema"), Mapping):
        raise InvalidJob(f"{field}.input_schema", "must be a JSON Schema (an object)")
    function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def job_choice(choice: object) -> dict[str, Any]:
    """What a `tool_choice` asks of a job.

    Raises:
        InvalidJob: it isn't one.
    """
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(kind, str) or kind not in (*_CHOICES, "tool"):
        raise InvalidJob("tool_choice.type", f"must be one of {', '.join((*_CHOICES, 'tool'))}")
    fields: dict[str, Any] = {}
    if kind == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif kind != "auto":
        fields["tool_choice"] = _CHOICES[kind]
    if flag(choice, "disable_parallel_tool_use", "tool_choice."):
        fields["parallel_tool_calls"] = False
    return fields


def job_effort(thinking: object) -> dict[str, Any]:
    """What `thinking` asks of a job: no reasoning, or as much as the model does by itself.

    Raises:
        InvalidJob: it isn't known.
    """
    kind = thinking.get("type") if isinstance(thinking, Mapping) else None
    if kind not in ("disabled", "enabled", "adaptive"):
        raise InvalidJob("thinking.type", "must be one of disabled, enabled, adaptive")
    return {"reasoning_effort": "none"} if kind == "disabled" else {}
