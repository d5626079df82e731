"""DeepSeek: calls between markers of their own, with the arguments as JSON, in V3 and R1 as a block of code.

V3.1 and later: `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`. V3 and R1 write
`function` in place of the name, then the name, and the arguments between ` ```json ` and ` ``` `.
"""

from . import json_text
from .deltas import Arguments, CallBegin
from .format import AnswerFormat
from .source import GrowingText, Markers, Steps, accept, accept_spaced, peek, skip_space, with_calls, word

ALL_OPEN, ALL_CLOSE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
OPENS, SEPARATES, CLOSES = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
MARKERS = (ALL_OPEN, ALL_CLOSE, OPENS, SEPARATES, CLOSES)

_CALLS = Markers(ALL_OPEN)
_FENCE = "```"


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""

    def calls(_: str) -> Steps[bool]:
        before = source.calls
        while not source.full() and (yield from _call(source)):
            source.forget()
        called = source.calls > before
        if called:
            yield from accept_spaced(source, ALL_CLOSE)
        return called

    yield from with_calls(source, _CALLS, calls)


def _call(source: GrowingText) -> Steps[bool]:
    begins = source.at
    if (yield from accept_spaced(source, OPENS)):
        name = (yield from word(source, "<", json_text.MAX_NAME)).strip()
        if name and (yield from accept(source, SEPARATES)):
            begins_json = yield from skip_space(source)
            if name == "function" and begins_json != "{":
                name = (yield from word(source, "\n<", json_text.MAX_NAME)).strip()
                yield from skip_space(source)
            if (yield from accept(source, _FENCE)):
                yield from word(source, "{\n", 16)
                yield from skip_space(source)
            if name and (yield from peek(source)) == "{":
                index = source.calls
                source.calls += 1
                yield CallBegin(index, name)
                yield from json_text.value(source, lambda piece: Arguments(index, piece))
                yield from accept_spaced(source, _FENCE)
                yield from accept_spaced(source, CLOSES)
                return True
    source.at = begins
    return False
