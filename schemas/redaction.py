"""What Celery's events, Flower and logs show of a generation's arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

SHOWN_CHARACTERS = 40
"""Of a prompt whose start may be shown."""

_TEXT = ("prompt", "messages", "prompt_token_ids", "tools", "stop", "webhook", "metadata", "logit_bias")
"""Arguments that hold what a user wrote, or secrets; all others are shown as they are."""


def shown(
    args: Sequence[Any], kwargs: Mapping[str, Any], policy: Literal["size", "start", "all"]
) -> tuple[str, str]:
    """The arguments as `argsrepr` and `kwargsrepr`."""
    if policy == "all":
        kwargs = {name: value for name, value in kwargs.items() if name != "webhook"}
        return repr(tuple(args)), repr(kwargs)
    positional = tuple(_Shown(_short(value, policy)) for value in args)
    named = {
        name: _Shown(_short(value, policy)) if name in _TEXT else value for name, value in kwargs.items()
    }
    return repr(positional), repr(named)


def shown_answer(text: str, tokens: int, policy: Literal["size", "start", "all"]) -> str:
    """What a generation gave, as a task's result is shown."""
    if policy == "all":
        return repr(text)
    return f"<{tokens} tokens>" if policy == "size" else _short(text, policy)


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
    return f"<{type(value).__name__}>"
