"""Qwen3-Coder: a call as `<function=name>`, with its parameters as `<parameter=name>` and text.

<tool_call>
<function=get_weather>
<parameter=city>
Paris
</parameter>
</function>
</tool_call>
"""

from .deltas import Arguments, CallBegin
from .format import AnswerFormat
from .hermes import CLOSES, OPENS
from .json_text import MAX_NAME
from .source import GrowingText, Markers, Steps, accept, accept_spaced, with_calls, word
from .values import parameter

FUNCTION, FUNCTION_ENDS = "<function=", "</function>"
PARAMETER, PARAMETER_ENDS = "<parameter=", "</parameter>"

# Some models leave out the outer marker.
_CALL = Markers(OPENS, FUNCTION)
_VALUE_ENDS = Markers(PARAMETER_ENDS)


def answer(source: GrowingText, answer_format: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""

    def call(marker: str) -> Steps[bool]:
        if marker != FUNCTION and not (yield from accept_spaced(source, FUNCTION)):
            return False
        called = yield from _call(source, answer_format)
        if called:
            yield from accept_spaced(source, CLOSES)
        return called

    yield from with_calls(source, _CALL, call)


def _call(source: GrowingText, answer_format: AnswerFormat) -> Steps[bool]:
    name = yield from word(source, ">\n<", MAX_NAME)
    if not name or not (yield from accept(source, ">")):
        return False
    index, first = source.calls, True
    source.calls += 1
    yield CallBegin(index, name)
    kinds = answer_format.values.get(name, {})
    while (yield from accept_spaced(source, PARAMETER)):
        key = yield from word(source, ">\n<", MAX_NAME)
        if not key or not (yield from accept(source, ">")):
            break
        if not (yield from parameter(source, index, key, kinds, _VALUE_ENDS, first=first, lines=True)):
            return True
        first = False
    yield from accept_spaced(source, FUNCTION_ENDS)
    yield Arguments(index, "{}" if first else "}")
    return True
