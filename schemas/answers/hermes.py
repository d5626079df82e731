"""Hermes and Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as often as there are calls."""

from . import json_text
from .format import AnswerFormat
from .source import GrowingText, Markers, Steps, accept_spaced, skip_space, with_calls

OPENS, CLOSES = MARKERS = "<tool_call>", "</tool_call>"

_CALL = Markers(OPENS)


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""

    def call(_: str) -> Steps[bool]:
        yield from skip_space(source)
        called = yield from json_text.call(source)
        if called:
            yield from accept_spaced(source, CLOSES)
        return called

    yield from with_calls(source, _CALL, call, lead=True)
