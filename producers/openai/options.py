"""The form in which a client wants its answer, which doesn't concern the job."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.redaction import shown_name

FIELDS = {
    "stream": "answer by server-sent events",
    "stream_options": "`include_usage`; `include_obfuscation` only as `false`",
    "store": "keep generating if the client goes away",
    "return_token_ids": "each choice has its `token_ids`",
}
"""The fields that `answer_options` reads."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How to answer.

    Attributes:
        stream: by server-sent events.
        include_usage: end a stream with an event that counts tokens.
        store: keep the answer for later reading, whether or not the client stays connected.
        return_token_ids: give each choice's `token_ids` (an extension that vLLM has too).
    """

    stream: bool = False
    include_usage: bool = False
    store: bool = False
    return_token_ids: bool = False


def answer_options(body: Mapping[str, Any]) -> AnswerOptions:
    """The options in the body of a request for a chat completion or a completion.

    Raises:
        InvalidJob: one is of the wrong type, or not supported.
    """
    stream = flag(body, "stream")
    return AnswerOptions(
        stream=stream,
        include_usage=_stream_options(body, stream),
        store=flag(body, "store"),
        return_token_ids=flag(body, "return_token_ids"),
    )


def number_of_choices(body: Mapping[str, Any]) -> int:
    """How many answers to each prompt the body of a request asks for that became jobs."""
    return body.get("n") or 1


def flag(body: Mapping[str, Any], name: str, within: str = "", *, default: bool = False) -> bool:
    """A field that is true, false, null or absent."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidJob(within + name, "must be true or false")
    return value


def _stream_options(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, Mapping):
        raise InvalidJob("stream_options", "must be an object")
    if not stream:
        raise InvalidJob("stream_options", "is allowed only with stream=true")
    return check_stream_options(options, ("include_usage",))


def check_stream_options(options: Mapping[str, Any], known: tuple[str, ...]) -> bool:
    """Check the names in `stream_options`, and say whether usage is to be included."""
    for name in options:
        if name not in (*known, "include_obfuscation"):
            raise InvalidJob(f"stream_options.{shown_name(name)}", "is not known")
    if flag(options, "include_obfuscation", "stream_options."):
        raise InvalidJob("stream_options.include_obfuscation", "is supported only as false; leave it out")
    return "include_usage" in known and flag(options, "include_usage", "stream_options.")
