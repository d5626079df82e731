"""The functions that a model may call, and which of them it must."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from .plain_json import check_json
from .redaction import shown_name

MAX_TOOLS = 512

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def _checked(tool: dict[str, Any]) -> dict[str, Any]:
    """Check that a tool is a function, in OpenAI's wrapping or, as some templates show it, without."""
    check_json(tool)
    if tool.get("type", "function") != "function":
        raise ValueError(f"is of type {shown_name(str(tool['type']))!r}; only functions can be called")
    function = tool.get("function", tool)
    if not isinstance(function, dict):
        raise ValueError("must have an object under 'function'")  # noqa: TRY004
    name = function.get("name")
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise ValueError("must be a function whose name is 1 to 128 letters, digits or _ . -")
    if not isinstance(function.get("description", ""), str | None):
        raise ValueError("must have a string as its description")  # noqa: TRY004
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None):
        raise ValueError("must have a JSON Schema (an object) as its parameters")  # noqa: TRY004
    properties, required = ((parameters or {}).get(each) for each in ("properties", "required"))
    if not isinstance(properties, dict | None):
        raise ValueError("must have an object as its parameters' properties")  # noqa: TRY004
    if required is not None and not (
        isinstance(required, list | tuple) and all(isinstance(each, str) for each in required)
    ):
        raise ValueError("must have a list of names as its parameters' required")
    if not isinstance(function.get("strict", False), bool | None):
        raise ValueError("must have true or false as strict")  # noqa: TRY004
    return tool


def function_name(tool: Mapping[str, Any]) -> str:
    """The name of a tool's function."""
    name: str = tool.get("function", tool)["name"]
    return name


_CHOICES = ("none", "auto", "required")


def _checked_choice(choice: object) -> object:
    """Check a choice: a word, or the function that is to be called."""
    if isinstance(choice, str):
        if choice in _CHOICES:
            return choice
    elif isinstance(choice, Mapping) and choice.get("type") == "function":
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and len(choice) == 2 and len(function or {}) == 1:
            return {"type": "function", "function": {"name": name}}
    raise ValueError(
        f"must be one of {', '.join(_CHOICES)}, or "
        '{"type": "function", "function": {"name": …}} with the name of a tool'
    )


Tool = Annotated[dict[str, Any], AfterValidator(_checked)]
ToolChoice = Annotated[str | dict[str, Any], BeforeValidator(_checked_choice)]
