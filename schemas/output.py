"""Reads a result as workers write it. A large one is read in pieces.

pydantic reads JSON in one go, during which no other thread of the process runs: 0.4 s for the
log-probabilities of 65,536 tokens. In pieces it takes about as long, but a thread that does it lets others
run in between.
"""

import json
import re
from typing import Any

from .events import Output, PromptLogprob, TokenLogprob

LARGE = 128 * 1024
"""Characters that are read in one go; they take about 15 ms."""

_ENTRIES: dict[str, type[TokenLogprob | PromptLogprob]] = {
    "logprobs": TokenLogprob,
    "prompt_logprobs": PromptLogprob,
}
"""The fields that make a result large, and what each of their entries is."""

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
    fields: dict[str, Any] = {}
    at = _past(text, 0, "{")
    while True:
        name, at = _decode(text, at)
        at = _past(text, at, ":")
        if (kind := _ENTRIES.get(name)) is not None and text.startswith("[", at):
            fields[name], at = _read_entries(text, at, kind)
        else:
            fields[name], at = _decode(text, at)
        at = _skipped(text, at)
        if text.startswith("}", at):
            break
        at = _past(text, at, ",")
    if _skipped(text, at + 1) != len(text):
        raise ValueError(f"something follows the result at {at + 1}")
    return Output.model_validate(fields)


def _read_entries(
    text: str, at: int, kind: type[TokenLogprob | PromptLogprob]
) -> tuple[tuple[Any, ...], int]:
    """The entries of the list that begins here, and where it has ended."""
    entries: list[TokenLogprob | PromptLogprob] = []
    at = _past(text, at, "[")
    while not text.startswith("]", at):
        if entries:
            at = _past(text, at, ",")
        entry, at = _decode(text, at)
        entries.append(kind.model_validate(entry))
        at = _skipped(text, at)
    return tuple(entries), at + 1


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
