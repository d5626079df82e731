"""Translates conversations from OpenAI's format to what chat templates expect.

In OpenAI's format a tool call has its arguments as JSON text, and no content beside it. Most templates take
the arguments as an object, some insert them into other text unchanged; some add content to text whether there
is any or not. A template is a program, so what it accepts is found out by trying: first as an object, as in
transformers.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ....schemas.plain_json import check_json

Messages = list[dict[str, Any]]

_BLOCK = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def takes(template: str | dict[str, str] | None, variable: str) -> bool:
    """Whether a chat template (or one of several) reads a variable."""
    templates = template.values() if isinstance(template, dict) else (template or "",)
    named = re.compile(rf"\b{re.escape(variable)}\b")
    return any(
        named.search(_QUOTED.sub("", block)) for source in templates for block in _BLOCK.findall(source)
    )


def renderings(messages: Messages) -> Iterator[Messages]:
    """Yield a conversation in the forms that a template may accept; only one if no tool was called."""
    if not any(message.get("tool_calls") for message in messages):
        yield messages
        return
    for decoded in (True, False):
        for filled in (False, True):
            yield [_form(message, decoded=decoded, filled=filled) for message in messages]


def _form(message: dict[str, Any], *, decoded: bool, filled: bool) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls or not isinstance(calls, list | tuple):
        return message
    form = dict(message)
    form["tool_calls"] = [_call(call, _decoded if decoded else _encoded) for call in calls]
    if filled and form.get("content") is None:
        form["content"] = ""
    return form


def _call(call: Any, written: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    return call | {"function": function | {"arguments": written(function["arguments"])}}


def _decoded(arguments: Any) -> Any:
    """The arguments as an object, if they are one; a model may have written what is none, or no text."""
    if not isinstance(arguments, str):
        return arguments
    try:
        found = check_json(json.loads(arguments or "{}"))
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _encoded(arguments: Any) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments
