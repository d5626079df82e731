"""Reads a result as workers write it. A large one is read in pieces.

pydantic reads JSON in one go, during which no other thread of the process runs: 0.4 s for the
log-probabilities of 65,536 tokens. In pieces it takes about as long, but a thread that does it lets others
run in between.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from .events import Choice, Output, PromptLogprob, TokenLogprob

LARGE = 128 * 1024
"""Characters that are read in one go; they take about 15 ms."""

_ReadOne = Callable[[str, int], tuple[Any, int]]

_decode = json.JSONDecoder().raw_decode

_SPACE = re.compile(r"[ \t\n\r]*")


def is_large(text: str) -> bool:
    """Whether a result takes so long to read that it should be done beside an event loop."""
    return len(text) > LARGE


def read_output(text: str) -> Output:
    """The result that a worker wrote as this JSON.

    Raises:
        ValueError: it is none.
    """
    if not is_large(text):
        return Output.model_validate_json(text)
    fields, at = _read_fields(text, _skipped(text, 0))
    if at != len(text):
        raise ValueError(f"something follows the result at {at}")
    return Output.model_validate(fields)


def _read_fields(text: str, at: int) -> tuple[dict[str, Any], int]:
    """The fields of the result, or of one of its choices, that begins here, and where it has ended."""
    fields: dict[str, Any] = {}
    at = _past(text, at, "{")
    while True:
        name, at = _decode(text, at)
        at = _past(text, at, ":")
        if (read := _LISTS.get(name)) is not None and text.startswith("[", at):
            fields[name], at = _read_list(text, at, read)
        else:
            fields[name], at = _decode(text, at)
        at = _skipped(text, at)
        if text.startswith("}", at):
            return fields, _skipped(text, at + 1)
        at = _past(text, at, ",")


def _read_list(text: str, at: int, read: _ReadOne) -> tuple[tuple[Any, ...], int]:
    """What the list that begins here holds, and where it has ended."""
    entries: list[Any] = []
    at = _past(text, at, "[")
    while not text.startswith("]", at):
        if entries:
            at = _past(text, at, ",")
        entry, at = read(text, at)
        entries.append(entry)
        at = _skipped(text, at)
    return tuple(entries), at + 1


def _read_token(text: str, at: int) -> tuple[TokenLogprob, int]:
    entry, at = _decode(text, at)
    return TokenLogprob.model_validate(entry), at


def _read_prompt_token(text: str, at: int) -> tuple[PromptLogprob, int]:
    entry, at = _decode(text, at)
    return PromptLogprob.model_validate(entry), at


def _read_choice(text: str, at: int) -> tuple[Choice, int]:
    fields, at = _read_fields(text, at)
    return Choice.model_validate(fields), at


_LISTS: dict[str, _ReadOne] = {
    "logprobs": _read_token,
    "prompt_logprobs": _read_prompt_token,
    "choices": _read_choice,
}
"""The fields that make a result large, and what reads one entry of each."""


def _past(text: str, at: int, mark: str) -> int:
    """Where the next part begins, after this mark."""
    at = _skipped(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"{mark} is missing at {at}")
    return _skipped(text, at + 1)


def _skipped(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()
