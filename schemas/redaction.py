"""What Celery's events, Flower, logs and errors show of a generation's arguments."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

SHOWN_CHARACTERS = 40
"""Characters shown of a prompt whose start may be shown."""

_SHOWN_BITS = 128

_PLAIN = frozenset(
    {
        *("v", "model", "tenant", "job_class", "stream", "n", "response_format"),
        *("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "logprobs"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "stop_token_ids"),
        *("delay_s", "deadline_s", "max_runtime_s", "max_attempts"),
    }
)
"""Fields of a job that are shown unchanged. All others, and anything that isn't a field, may hold a user's
text or secrets."""

_QUOTED = _PLAIN | {"idempotency_key", "logit_bias"}
"""Fields whose wrong values errors quote; of all others they give at most the size."""

_SECRET = re.compile(r"whsec_|://|@")
"""Text that may contain a secret, and is therefore never quoted."""

# A URL's scheme, host and port; its path and query may hold a token.
_PLACE = re.compile(r"([a-z+]{1,16}://[A-Za-z0-9.:\[\]-]{1,64})(?:[/?#][^@]*)?")
_WORD = re.compile(r"[a-z]{1,16}(\.[a-z]{1,16})?")


def shown(
    args: Sequence[Any], kwargs: Mapping[str, Any], policy: Literal["size", "start", "all"]
) -> tuple[str, str]:
    """The arguments as `argsrepr` and `kwargsrepr`."""
    if policy == "all":
        # `all` means all of the prompt, and never a secret.
        kwargs = {name: value for name, value in kwargs.items() if name != "webhook"}
        try:
            return repr(tuple(args)), repr(kwargs)
        except (ValueError, RecursionError):  # a number too long to be written; too deep
            policy = "size"
    positional = tuple(_Shown(_short(value, policy)) for value in args)
    named = {
        name: value if name in _PLAIN and _is_flat(value) else _Shown(_short(value, policy))
        for name, value in kwargs.items()
    }
    return repr(positional), repr(named)


def shown_answer(text: str, tokens: int, policy: Literal["size", "start", "all"]) -> str:
    """A generation's output as it is shown for a task's result."""
    if policy == "all":
        return repr(text)
    return f"<{tokens} tokens>" if policy == "size" else _short(text, policy)


def shown_in_error(location: Sequence[str], value: Any, *, known: bool = True) -> str:
    """What an error, which may be logged, quotes of a wrong field; an unknown field isn't `known`."""
    if known and isinstance(value, str):
        if location[0] in _QUOTED and "json_schema" not in location and not _SECRET.search(value):
            return shortened(repr(value))
        if (location[0] == "webhook" or location[-1] == "role") and _WORD.fullmatch(value):
            return repr(value)
        if location[:2] == ("webhook", "url") and (place := _PLACE.fullmatch(value)):
            return repr(place[1])
    return _short(value, "size")


def shown_name(name: str) -> str:
    """The name of a field, which a user may have made up."""
    return _short(name, "size") if _SECRET.search(name) else shortened(name)


def shortened(text: str) -> str:
    """The text, cut to 80 characters."""
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Shown(str):
    """Text that stands for a value and is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _is_flat(value: Any) -> bool:
    """Whether a value is a text or a list of ordinary numbers; a single number is always shown."""
    if isinstance(value, list | tuple):
        return all(isinstance(item, int) and item.bit_length() <= _SHOWN_BITS for item in value)
    return isinstance(value, str)


def _short(value: Any, policy: Literal["size", "start"]) -> str:
    if isinstance(value, str):
        if policy == "start":
            return repr(value[:SHOWN_CHARACTERS] + ("…" if len(value) > SHOWN_CHARACTERS else ""))
        return f"<{len(value)} characters>"
    if isinstance(value, Sequence | Mapping):
        return f"<{len(value)} items>"
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"<a number of {value.bit_length()} bits>"
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"<{type(value).__name__}>"
