"""A request for a response, as a job and as what is kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....schemas.errors import InvalidJob
from ....schemas.redaction import shown_name
from ..fields import TIER, WHO, Fields, take_tier, take_who_asks
from ..options import check_stream_options, flag
from ..vllm import VLLM_PASSED
from .items import Item, items_of, messages_of
from .tools import echoed, job_effort, job_tools

FIELDS = Fields(
    passed=(VLLM_PASSED - {"prompt_token_ids", "prompt_logprobs"})
    | {"model", "temperature", "top_p", "metadata", "parallel_tool_calls"},
    read={
        **TIER,
        **WHO,
        "background": "answer at once and generate meanwhile; needs `store`",
        "include": "log-probabilities; what belongs to tools of OpenAI's is accepted and never there",
        "input": "a text, or messages of text, calls of functions and their outputs",
        "instructions": "the first message, from `system`; no later response repeats them",
        "max_output_tokens": "`max_tokens`",
        "previous_response_id": "continues the conversation of a stored response",
        "reasoning": "`effort` is `reasoning_effort`; `summary` is accepted, and none is made",
        "store": "keep the response; `true` by default",
        "stream": "answer by server-sent events",
        "stream_options": "`include_obfuscation` only as `false`",
        "tool_choice": "as for chats; a function is named by `name`",
        "tools": "functions",
        "text": "`format`: JSON, or JSON of a schema, which the answer follows; `verbosity` only as `medium`",
        "webhook": "an extension: who is told how the response ended, by an event as OpenAI's API sends it",
        "top_logprobs": "log-probabilities of this many of the most likely tokens",
    },
    neutral={
        "context_management": ([],),
        "image": ({},),
        "truncation": ("disabled",),
    },
    refused={
        "access_programs": "leave it out",
        "background_options": "leave it out: a response is begun as soon as its class allows",
        "conversation": "name the response to continue in previous_response_id",
        "max_tool_calls": "leave it out: a function is called by the client",
        "messages": "send input, or ask for a chat completion",
        "moderation": "no model here moderates",
        "prompt": "send input and instructions: no prompts are stored here",
        "prompt_token_ids": "send input",
    },
)

LOGPROBS = "message.output_text.logprobs"

INCLUDABLE = (
    LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
"""What `include` may name. All but the log-probabilities belong to items that no answer here has."""

_READ_HERE = (
    *("background", "include", "input", "instructions", "max_output_tokens", "previous_response_id"),
    *("reasoning", "store", "stream", "stream_options", "text", "tool_choice", "tools", "top_logprobs"),
)


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request that has been read.

    Attributes:
        job: arguments of `Job.make`.
        echo: what every response object repeats of the request.
        items: the conversation up to the answer, without the instructions.
        stream: answer by server-sent events.
        store: keep the response for later reading and for what follows it.
        background: answer at once, and generate meanwhile.
    """

    job: dict[str, Any]
    echo: dict[str, Any]
    items: list[Item]
    stream: bool
    store: bool
    background: bool


def previous_response_id(body: Mapping[str, Any]) -> str | None:
    """The response that the request continues, which the caller finds."""
    name = body.get("previous_response_id")
    if name is not None and not isinstance(name, str):
        raise InvalidJob("previous_response_id", "must be a string")
    return name


def response_request(body: Mapping[str, Any], earlier: Sequence[Item] = ()) -> ResponseRequest:
    """Read the body of a request; `earlier` is the conversation that it continues, with its last answer.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    fields = FIELDS.asked(body)
    stream, store = flag(body, "stream"), flag(body, "store", default=True)
    background = flag(body, "background")
    if background and not store:
        raise InvalidJob("store", "must be true for a response in the background, which is read later")
    _check_stream_options(fields, stream)
    form = _form(fields.get("text"))
    if "input" not in fields:
        raise InvalidJob("input", "is missing")
    items = [*earlier, *items_of(fields["input"])]
    job = {name: value for name, value in fields.items() if name not in _READ_HERE}
    take_who_asks(job)
    take_tier(job)
    job |= _limits(fields) | job_tools(fields) | job_effort(fields.get("reasoning"))
    if form is not None:
        job["response_format"] = form
    if isinstance(job.get("webhook"), Mapping):
        job["webhook"] = {"payload": "openai", **job["webhook"]}
    echo = _echo(fields, background)
    job["messages"] = _messages(fields.get("instructions"), messages_of(items))
    return ResponseRequest(job, echo, items, stream, store, background)


def _messages(instructions: object, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if instructions is None:
        return list(items)
    if not isinstance(instructions, str):
        raise InvalidJob("instructions", "must be a string")
    return [{"role": "system", "content": instructions}, *items]


def _limits(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the response's own fields ask of the job: how long it may be, and its log-probabilities."""
    limits = {}
    if "max_output_tokens" in fields:
        most = fields["max_output_tokens"]
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise InvalidJob("max_output_tokens", "must be a whole number, at least 1")
        limits["max_tokens"] = most
    most_likely = fields.get("top_logprobs", 0)
    if not isinstance(most_likely, int) or isinstance(most_likely, bool) or not 0 <= most_likely <= 20:
        raise InvalidJob("top_logprobs", "must be a whole number, 0 to 20")
    include = fields.get("include", [])
    if not isinstance(include, list):
        raise InvalidJob("include", "must be a list")
    for name in include:
        if name not in INCLUDABLE:
            shown = shown_name(name) if isinstance(name, str) else type(name).__name__
            raise InvalidJob("include", f"{shown!r} is not known")
    if most_likely or LOGPROBS in include:
        limits["logprobs"] = most_likely
    return limits


def _check_stream_options(fields: Mapping[str, Any], stream: bool) -> None:
    options = fields.get("stream_options")
    if options is None:
        return
    if not isinstance(options, Mapping) or not stream:
        raise InvalidJob("stream_options", "must be an object, and is allowed only with stream=true")
    check_stream_options(options, ())


def _form(text: object) -> dict[str, Any] | None:
    """The job's `response_format`; in a response, a schema's fields stand beside its type."""
    if text is None:
        return None
    if not isinstance(text, Mapping):
        raise InvalidJob("text", "must be an object")
    for name, value in text.items():
        if name == "format" or (name == "verbosity" and value in (None, "medium")):
            continue
        reason = 'is supported only as "medium"; leave it out' if name == "verbosity" else "is not known"
        raise InvalidJob(f"text.{shown_name(str(name))}", reason)
    form = text.get("format")
    if form is None or form == {"type": "text"}:
        return None
    if not isinstance(form, Mapping):
        raise InvalidJob("text.format", "must be an object with a type")
    if form.get("type") != "json_schema":
        return dict(form)
    return {
        "type": "json_schema",
        "json_schema": {name: value for name, value in form.items() if name != "type"},
    }


def _echo(fields: Mapping[str, Any], background: bool) -> dict[str, Any]:
    return {
        "background": background,
        "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"),
        "metadata": fields.get("metadata", {}),
        "model": fields.get("model"),
        "parallel_tool_calls": fields.get("parallel_tool_calls", True),
        "previous_response_id": fields.get("previous_response_id"),
        "reasoning": {"effort": (fields.get("reasoning") or {}).get("effort"), "summary": None},
        "safety_identifier": _text_or_none(fields.get("safety_identifier")),
        "service_tier": fields.get("service_tier", "auto"),
        "temperature": fields.get("temperature", 1.0),
        "text": {"format": _format_of(fields), "verbosity": "medium"},
        "tool_choice": fields.get("tool_choice", "auto"),
        "tools": echoed(fields.get("tools") or ()),
        "top_logprobs": fields.get("top_logprobs", 0),
        "top_p": fields.get("top_p", 1.0),
        "truncation": "disabled",
        "user": _text_or_none(fields.get("user")),
    }


def _format_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The form of the answer, with what OpenAI's API fills in."""
    form = (fields.get("text") or {}).get("format") or {"type": "text"}
    if form.get("type") == "json_schema":
        return {"description": None, "strict": False, **form}
    return dict(form)


def _text_or_none(name: object) -> str | None:
    return None if name is None else str(name)
