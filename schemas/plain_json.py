"""JSON of a caller's own, which nobody here interprets: it must survive the way all the same."""

import math
from typing import TypeVar

T = TypeVar("T")

DEEPEST = 64
"""Levels of lists and objects in one another. Parsers and templates on the way give up at a few hundred."""

LONGEST_NUMBER_BITS = 1024
"""Of a whole number; Python itself writes no number of more than 4,300 digits."""


def check_json(value: T, deepest: int = DEEPEST) -> T:
    """The value itself, if it can be written as JSON and read again, in any language.

    Objects of other kinds are left to whoever writes them.

    Raises:
        ValueError: naming what can't.
    """
    match value:
        case str():
            check_text(value)
        case int():
            if value.bit_length() > LONGEST_NUMBER_BITS:
                raise ValueError(f"has a whole number of more than {LONGEST_NUMBER_BITS} bits")
        case float():
            if not math.isfinite(value):
                raise ValueError(f"has the number {value!r}, which JSON does not know")
        case dict() | list() | tuple():
            if deepest == 0:
                raise ValueError(f"is nested too deeply; at most {DEEPEST} levels are accepted")
            for item in value.values() if isinstance(value, dict) else value:
                check_json(item, deepest - 1)
            if isinstance(value, dict):
                for name in value:
                    check_text(str(name))
    return value


def check_text(text: str) -> None:
    """Refuse what is no text in UTF-8.

    Raises:
        ValueError: it has half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a character (a lone surrogate) at position {error.start}") from None
