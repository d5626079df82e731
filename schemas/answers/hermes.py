"""Hermes and Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as often as there are calls."""

from . import json_text
from .deltas import Content
from .format import AnswerFormat
from .source import GrowingText, Markers, Steps, accept_spaced, run, skip_space

OPENS, CLOSES = MARKERS = "<tool_call>", "</tool_call>"

_CALL = Markers(OPENS)


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""
    lead = True
    while True:
        marker, space = yield from run(source, _CALL, Content, lead=lead)
        if not marker:
            if space and not source.calls:
                yield Content(space)
            return
        begins = source.at
        yield from skip_space(source)
        lead = not source.full() and (yield from json_text.call(source))
        if lead:
            yield from accept_spaced(source, CLOSES)
        else:
            source.at = begins
            yield Content(space + marker)
