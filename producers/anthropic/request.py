"""A request for a message, as the arguments of a job."""

from collections.abc import Mapping
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.redaction import shown_name
from ..openai.fields import Fields
from .content import has_tools, messages_of, text_of
from .tools import job_choice, job_effort, job_tools

FIELDS = Fields(
    passed=frozenset({"max_tokens", "model", "temperature", "top_p", "top_k"}),
    read={
        "messages": "messages of text, calls and results of tools, the last of which isn't the assistant's",
        "metadata": "`user_id` becomes the job's metadata, as `user`",
        "stop_sequences": "`stop`",
        "stream": "answer by server-sent events",
        "system": "the first message, from `system`",
        "thinking": "`disabled` asks for no reasoning, `enabled` and `adaptive` for some; no budget is kept",
        "tool_choice": "`auto`, `none`, `any` or `tool`, with `disable_parallel_tool_use`",
        "tools": "functions of the client's own, with `name`, `description` and `input_schema`",
    },
    neutral={
        "output_config": ({},),
        "service_tier": ("auto", "standard_only"),
        "speed": ("standard",),
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
    tools, choice = fields.pop("tools", None), fields.pop("tool_choice", None)
    if tools:
        fields["tools"] = job_tools(tools)
    if choice is not None:
        fields |= job_choice(choice)
    if "thinking" in fields:
        fields |= job_effort(fields.pop("thinking"))
    if "system" in fields:
        messages.insert(0, {"role": "system", "content": text_of("system", fields.pop("system"))})
    fields["messages"] = messages
    if "stop_sequences" in fields:
        fields["stop"] = _stops(fields.pop("stop_sequences"))
    if "metadata" in fields:
        fields["metadata"] = _metadata(fields.pop("metadata"))
    return fields


def _messages(given: object) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise InvalidJob("messages", "must be a list of messages that isn't empty")
    messages = [
        each for place, message in enumerate(given) for each in _message(f"messages.{place}", message)
    ]
    if messages[-1]["role"] == "assistant":
        last = f"messages.{len(given) - 1}.role"
        raise InvalidJob(last, "must not be assistant: an answer that was begun can't be continued")
    return messages


def _message(field: str, message: object) -> list[dict[str, Any]]:
    if not isinstance(message, Mapping):
        raise InvalidJob(field, "must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidJob(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
    for name in message:
        if name not in ("role", "content"):
            raise InvalidJob(f"{field}.{shown_name(str(name))}", "is not known")
    content = message.get("content")
    if role != "system" and isinstance(content, list) and has_tools(content):
        return messages_of(f"{field}.content", role, content)
    return [{"role": role, "content": text_of(f"{field}.content", content)}]


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
