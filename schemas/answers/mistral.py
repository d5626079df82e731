"""Mistral: `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, or for a call `[TOOL_CALLS]name[ARGS]{…}`."""

from . import json_text
from .deltas import Arguments, CallBegin
from .format import AnswerFormat
from .source import GrowingText, Markers, Steps, accept, accept_spaced, peek, skip_space, with_calls, word

OPENS, ARGUMENTS, IDENTITY = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MARKERS = (OPENS, ARGUMENTS, IDENTITY)

_CALLS = Markers(OPENS)


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""

    def call(_: str) -> Steps[bool]:
        listed = (yield from skip_space(source)) in ("[", "{")
        return (yield from _list(source)) if listed else (yield from _named(source))

    yield from with_calls(source, _CALLS, call)


def _list(source: GrowingText) -> Steps[bool]:
    """Calls as a list of objects."""
    before = source.calls
    yield from accept(source, "[")
    while True:
        yield from skip_space(source)
        begins = source.at
        if source.full() or not (yield from json_text.call(source)):
            source.at = begins
            break
        source.forget()
        if not (yield from accept_spaced(source, ",")):
            break
    if source.calls > before:
        yield from accept_spaced(source, "]")
    return source.calls > before


def _named(source: GrowingText) -> Steps[bool]:
    """One call: its name, perhaps an id, its arguments."""
    name = (yield from word(source, "[{", json_text.MAX_NAME)).strip()
    if not name:
        return False
    if (yield from accept(source, IDENTITY)):
        yield from word(source, "[{", json_text.MAX_NAME)
    yield from accept(source, ARGUMENTS)
    yield from skip_space(source)
    if (yield from peek(source)) != "{":
        return False
    index = source.calls
    source.calls += 1
    yield CallBegin(index, name)
    yield from json_text.value(source, lambda piece: Arguments(index, piece))
    return True
