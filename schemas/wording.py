"""Pydantic's errors in our own words: half a sentence to follow the name of a field or setting."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must be valid UTF-8",
    "too_long": "must have at most {max_length} items",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number that isn't so large",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a dict",
    "model_type": "must be a dict",
    "model_attributes_type": "must be a dict",
}

_PATTERNS = {
    "tenant": "must be 1 to 64 letters, digits or _ . @ -",
    "idempotency_key": "must be 1 to 255 ASCII characters without spaces",
    "namespace": "must be 1 to 32 letters, digits or _ . -",
    "device": "must be auto, cpu, cuda or cuda:N",
}


def in_words(error: "ErrorDetails") -> str:
    """Say what is wrong with a value and what is allowed."""
    kind, context = error["type"], dict(error.get("ctx") or {})
    if kind == "string_pattern_mismatch":
        for name in map(str, reversed(error["loc"])):
            if name in _PATTERNS:
                return _PATTERNS[name]
    if kind == "too_short":
        least = context.get("min_length")
        return "must not be empty" if least == 1 else f"must have at least {least} items"
    words = _WORDS.get(kind)
    if words is None:
        return error["msg"].removeprefix("Value error, ")
    return words.format(**{name: _plain(value) for name, value in context.items()})


LONGEST_MEANT = 64
"""Longer names are no slips, and take long to compare."""


def did_you_mean(name: str, known: "Iterable[str]") -> str:
    """A hint at what was probably meant, to follow a sentence; empty if nothing is close."""
    near = get_close_matches(name, list(known), n=1) if len(name) <= LONGEST_MEANT else []
    return f"; did you mean {near[0]}?" if near else ""


def _plain(value: Any) -> Any:
    # A bound that pydantic holds as 1.0 is written as 1.
    return int(value) if isinstance(value, float) and value.is_integer() else value
