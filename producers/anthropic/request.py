"""A request for a message, as the arguments of a job."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.redaction import shown_name
from ..openai.fields import Fields

FIELDS = Fields(
    passed=frozenset({"max_tokens", "model", "temperature", "top_p", "top_k"}),
    read={
        "messages": "messages of text, the last of which isn't the assistant's",
        "metadata": "`user_id` becomes the job's metadata, as `user`",
        "stop_sequences": "`stop`",
        "stream": "answer by server-sent events",
        "system": "the first message, from `system`",
    },
    neutral={
        "output_config": ({},),
        "service_tier": ("auto", "standard_only"),
        "speed": ("standard",),
        "thinking": ({"type": "disabled"},),
        "tool_choice": ({"type": "auto"}, {"type": "none"}),
        "tools": ([],),
    },
    refused={
        "container": "leave it out: models here run nothing",
        "diagnostics": "leave it out",
        "inference_geo": "leave it out: the API key's tenant decides where it runs",
        "prompt": "send messages",
        "prompt_token_ids": "send messages",
        "stop": "name it stop_sequences",
        "user_profile_id": "send metadata.user_id",
        "workspace_id": "leave it out: the API key names its tenant",
    },
    hints=("cache_control",),
)

_ROLES = ("user", "assistant", "system")


def message_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for the body of a request.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    if body.get("max_tokens") is None:
        raise InvalidJob("max_tokens", "is missing")
    return _fields(body)


def count_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a job with this prompt, whose tokens are counted.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    if body.get("max_tokens") is not None:
        raise InvalidJob("max_tokens", "is not known: nothing is generated")
    return _fields(body) | {"max_tokens": 1}


def _fields(body: Mapping[str, Any]) -> dict[str, Any]:
    fields = FIELDS.asked(body)
    fields.pop("stream", None)
    messages = _messages(fields.pop("messages", None))
    if "system" in fields:
        messages.insert(0, {"role": "system", "content": _text("system", fields.pop("system"))})
    fields["messages"] = messages
    if "stop_sequences" in fields:
        fields["stop"] = _stops(fields.pop("stop_sequences"))
    if "metadata" in fields:
        fields["metadata"] = _metadata(fields.pop("metadata"))
    return fields


def _messages(given: object) -> list[dict[str, str]]:
    if not isinstance(given, list) or not given:
        raise InvalidJob("messages", "must be a list of messages that isn't empty")
    messages = [_message(f"messages.{place}", message) for place, message in enumerate(given)]
    if messages[-1]["role"] == "assistant":
        last = f"messages.{len(messages) - 1}.role"
        raise InvalidJob(last, "must not be assistant: an answer that was begun can't be continued")
    return messages


def _message(field: str, message: object) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise InvalidJob(field, "must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidJob(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
    for name in message:
        if name not in ("role", "content"):
            raise InvalidJob(f"{field}.{shown_name(str(name))}", "is not known")
    return {"role": role, "content": _text(f"{field}.content", message.get("content"))}


def _text(field: str, content: object) -> str:
    """The text of a string, or of a list of blocks, which are joined with line breaks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        raise InvalidJob(field, "must be a text, or a list of blocks that isn't empty")
    texts = []
    for place, block in enumerate(content):
        text = block.get("text") if isinstance(block, Mapping) and block.get("type") == "text" else None
        if not isinstance(text, str):
            raise InvalidJob(f"{field}.{place}", "must be a block of type text: models here read only text")
        texts.append(text)
    return "\n".join(texts)


def _stops(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidJob("stop_sequences", "must be a list of strings")
    return given


def _metadata(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise InvalidJob("metadata", "must be an object")
    for name in given:
        if name != "user_id":
            raise InvalidJob(f"metadata.{shown_name(str(name))}", "is not known; only user_id is")
    user = given.get("user_id")
    if user is None:
        return {}
    if not isinstance(user, str):
        raise InvalidJob("metadata.user_id", "must be a string")
    return {"user": user}
