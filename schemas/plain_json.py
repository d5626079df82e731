"""JSON that belongs to a caller and isn't interpreted here; it must still survive the journey."""

import math
from typing import TypeVar

T = TypeVar("T")

MANY = 1024
"""Items beyond which a list of whole numbers is checked as a whole."""

DEEPEST = 64
"""Levels of nested lists and objects. Parsers and templates along the way give up at a few hundred."""

LONGEST_NUMBER_BITS = 1024
"""Bits of the largest whole number; Python itself doesn't write numbers of more than 4,300 digits."""


def check_json(value: T, deepest: int = DEEPEST) -> T:
    """Return the value, after checking that any language can write it as JSON and read it again.

    Objects of other types are left to the code that writes them.

    Raises:
        ValueError: it can't; the message says why.
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
        case list() if len(value) > MANY and set(map(type, value)) == {int}:
            # As many token ids: one look at the outermost is as good as one at each.
            check_json(max(value))
            check_json(min(value))
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
    """Check that a text can be encoded as UTF-8.

    Raises:
        ValueError: it contains half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a character (a lone surrogate) at position {error.start}") from None
