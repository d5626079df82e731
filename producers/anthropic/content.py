"""The content of a message: text, calls of tools and their results, as messages of a job."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...schemas.errors import InvalidJob

_OF_ROLE = {
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "user": ("text", "tool_result"),
}


def has_tools(content: object) -> bool:
    """Whether a content is more than text."""
    return isinstance(content, list) and any(
        isinstance(block, Mapping) and block.get("type") not in (None, "text") for block in content
    )


def messages_of(field: str, role: str, content: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages that a list of blocks is: the results of tools come first, each as one of its own.

    Raises:
        InvalidJob: naming the block that is wrong.
    """
    texts, calls, results = [], [], []
    for place, block in enumerate(content):
        at = f"{field}.{place}"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind not in _OF_ROLE[role]:
            known = ", ".join(_OF_ROLE[role])
            raise InvalidJob(at, f"must be a block of one of these types: {known}")
        if kind == "text":
            texts.append(text_of(field, [block], first=place))
        elif kind == "tool_use":
            calls.append(_call(at, block))
        elif kind == "tool_result":
            results.append(_result(at, block))
        # Reasoning of earlier turns isn't shown to a model again, as templates have it.
    if role == "user":
        return [*results, {"role": "user", "content": "\n".join(texts)}] if texts else results
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    return [message | {"tool_calls": calls} if calls else message]


def _call(field: str, block: Mapping[str, Any]) -> dict[str, Any]:
    name, given = _string(field, block, "name"), block.get("input")
    if not isinstance(given, Mapping):
        raise InvalidJob(f"{field}.input", "must be an object")
    try:
        arguments = json.dumps(given, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidJob(f"{field}.input", "can't be written as JSON") from None
    function = {"name": name, "arguments": arguments}
    return {"id": _string(field, block, "id"), "type": "function", "function": function}


def _result(field: str, block: Mapping[str, Any]) -> dict[str, Any]:
    content = block.get("content") or ""
    said = text_of(f"{field}.content", content) if content else ""
    if block.get("is_error"):
        said = f"Error: {said}"
    return {"role": "tool", "tool_call_id": _string(field, block, "tool_use_id"), "content": said}


def _string(field: str, block: Mapping[str, Any], name: str) -> str:
    found = block.get(name)
    if not isinstance(found, str) or not found:
        raise InvalidJob(f"{field}.{name}", "must be a string that isn't empty")
    return found


def text_of(field: str, content: object, first: int = 0) -> str:
    """The text of a string, or of a list of blocks, which are joined with line breaks.

    Raises:
        InvalidJob: naming the block that isn't text.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        raise InvalidJob(field, "must be a text, or a list of blocks that isn't empty")
    texts = []
    for place, block in enumerate(content, first):
        text = block.get("text") if isinstance(block, Mapping) and block.get("type") == "text" else None
        if not isinstance(text, str):
            raise InvalidJob(f"{field}.{place}", "must be a block of type text: models here read only text")
        texts.append(text)
    return "\n".join(texts)
