"""The items of a conversation: what a request sends, and what its answer adds.

A message is kept as its text, `{"role", "content"}`, a call of a function as `{"type", "call_id", "name",
"arguments"}` and its output as `{"type", "call_id", "output"}`. Everything else that OpenAI's items hold is
made from that and from the item's place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ....schemas.errors import InvalidJob
from ....schemas.redaction import shown_name

Item = dict[str, str]
"""A message, a call of a function, or the output of one."""

CALL, OUTPUT, REASONING = "function_call", "function_call_output", "reasoning"

_STRINGS = {CALL: ("call_id", "name", "arguments"), OUTPUT: ("call_id", "output")}

MAX_ITEMS = 10_000

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of content parts that are text, and the key that holds it."""


def items_of(given: object) -> list[Item]:
    """The items of a request's `input`: a text, or a list of messages.

    Raises:
        InvalidJob: naming what isn't a message of text.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, Sequence) or not given:
        raise InvalidJob("input", "must be a text, or a list of messages that isn't empty")
    if len(given) > MAX_ITEMS:
        raise InvalidJob("input", f"has {len(given)} items; at most {MAX_ITEMS} are allowed")
    items = [_item(f"input.{place}", item) for place, item in enumerate(given)]
    found = [item for item in items if item]
    if not found:
        raise InvalidJob("input", "must hold a message")
    return found


def _item(field: str, item: object) -> Item:
    if not isinstance(item, Mapping):
        raise InvalidJob(field, "must be an object")
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind == REASONING:
        return {}  # of an earlier turn: no model is shown it again, as templates have it
    if isinstance(kind, str) and kind in _STRINGS:
        return {"type": kind, **{name: _string(field, item, name) for name in _STRINGS[kind]}}
    if kind != "message":
        shown = shown_name(kind) if isinstance(kind, str) else type(kind).__name__
        known = ", ".join(("message", *_STRINGS, REASONING))
        raise InvalidJob(f"{field}.type", f"{shown!r} is not supported; {known} are")
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidJob(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
    return {"role": role, "content": _text(f"{field}.content", item.get("content"))}


def _string(field: str, item: Mapping[str, Any], name: str) -> str:
    given = item.get(name)
    if name == "output" and isinstance(given, list):
        return _text(f"{field}.{name}", given)
    if not isinstance(given, str):
        raise InvalidJob(f"{field}.{name}", "must be a string")
    return given


def messages_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The items as messages of a chat: calls belong to the assistant's message before them."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item.get("type"):
            case "function_call":
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": ""})
                function = {"name": item["name"], "arguments": item["arguments"]}
                called = {"id": item["call_id"], "type": "function", "function": function}
                messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), called]}
            case "function_call_output":
                output = {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
                messages.append(output)
            case _:
                messages.append({"role": item["role"], "content": item["content"]})
    return messages


def _text(field: str, content: object) -> str:
    """The text of an item; a list of parts is joined with line breaks, as in a chat."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        raise InvalidJob(field, "must be a text, or a list of parts that isn't empty")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get(_TEXTS[kind]) if isinstance(kind, str) and kind in _TEXTS else None
        if not isinstance(text, str):
            known = ", ".join(_TEXTS)
            raise InvalidJob(
                f"{field}.{place}", f"must be a part of text ({known}): models here read only text"
            )
        texts.append(text)
    return "\n".join(texts)


def answered(output: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The items of an answer, as a conversation that continues keeps them: without its reasoning."""
    items = []
    for item in output:
        if item["type"] == "message":
            content = "".join(part["text"] for part in item["content"])
            items.append({"role": "assistant", "content": content})
        elif item["type"] == CALL:
            items.append({"type": CALL, **{name: item[name] for name in _STRINGS[CALL]}})
    return items


def item_body(item_id: str, item: Item) -> dict[str, Any]:
    """An item as OpenAI's API lists it."""
    if "type" in item:
        return {"id": item_id, "status": "completed", **item}
    if item["role"] == "assistant":
        return output_message(item_id, "completed", output_text(item["content"]))
    return {
        "id": item_id,
        "type": "message",
        "role": item["role"],
        "status": "completed",
        "content": [{"type": "input_text", "text": item["content"]}],
    }


def output_text(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A part of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def output_message(item_id: str, status: str, *parts: dict[str, Any]) -> dict[str, Any]:
    """An answer, or what there is of it."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": list(parts)}


def page_of_items(
    job_id: str, items: Sequence[Item], *, after: str | None, limit: int, order: str
) -> dict[str, Any]:
    """A page of a response's input items, from the newest unless `order` is `asc`.

    Raises:
        InvalidJob: an argument is wrong, or `after` is no item of this list.
    """
    if not 1 <= limit <= 100:
        raise InvalidJob("limit", f"must be 1 to 100 (got {limit})")
    if order not in ("asc", "desc"):
        raise InvalidJob("order", "must be asc or desc")
    listed = [item_body(f"msg_{job_id}_{place}", item) for place, item in enumerate(items)]
    if order == "desc":
        listed.reverse()
    if after is not None:
        places = [place for place, item in enumerate(listed) if item["id"] == after]
        if not places:
            raise InvalidJob("after", "is not an item of this response")
        listed = listed[places[0] + 1 :]
    data = listed[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": len(listed) > limit,
    }
