"""What Celery's events, Flower, logs and errors show of a generation's arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

SHOWN_CHARACTERS = 40
"""Of a prompt whose start may be shown."""

_PLAIN = frozenset(
    {
        *("v", "model", "tenant", "job_class", "stream", "n", "response_format"),
        *("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "logprobs"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "stop_token_ids"),
        *("delay_s", "deadline_s", "max_runtime_s", "max_attempts"),
    }
)
"""Fields of a job that are shown as they are. All others may hold what a user wrote, or secrets, and so may
whatever is no field at all."""

_WRITTEN = ("prompt", "messages", "tools", "stop", "metadata")
"""What errors don't quote."""


def shown(
    args: Sequence[Any], kwargs: Mapping[str, Any], policy: Literal["size", "start", "all"]
) -> tuple[str, str]:
    """The arguments as `argsrepr` and `kwargsrepr`."""
    if policy == "all":
        kwargs = {name: value for name, value in kwargs.items() if name != "webhook"}
        return repr(tuple(args)), repr(kwargs)
    positional = tuple(_Shown(_short(value, policy)) for value in args)
    named = {
        name: value if name in _PLAIN else _Shown(_short(value, policy)) for name, value in kwargs.items()
    }
    return repr(positional), repr(named)


def shown_answer(text: str, tokens: int, policy: Literal["size", "start", "all"]) -> str:
    """What a generation gave, as a task's result is shown."""
    if policy == "all":
        return repr(text)
    return f"<{tokens} tokens>" if policy == "size" else _short(text, policy)


def shown_in_error(field: str, value: Any, *, known: bool = True) -> str:
    """What an error quotes of a wrong field, which is not `known` if there is no such: errors are logged."""
    text = repr(value) if known and field not in _WRITTEN else _short(value, "size")
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Shown(str):
    """Text that stands for a value, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _short(value: Any, policy: Literal["size", "start"]) -> str:
    if isinstance(value, str):
        if policy == "start":
            return repr(value[:SHOWN_CHARACTERS] + ("…" if len(value) > SHOWN_CHARACTERS else ""))
        return f"<{len(value)} characters>"
    if isinstance(value, Sequence | Mapping):
        return f"<{len(value)} items>"
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"<{type(value).__name__}>"
