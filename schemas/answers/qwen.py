"""Qwen3-Coder: a call as `<function=name>`, with its parameters as `<parameter=name>` and text.

<tool_call>
<function=get_weather>
<parameter=city>
Paris
</parameter>
</function>
</tool_call>
"""

from .deltas import Arguments, CallBegin, Content
from .format import AnswerFormat
from .hermes import CLOSES, OPENS
from .json_text import MAX_NAME
from .source import GrowingText, Markers, Steps, accept, accept_spaced, run, word
from .values import parameter

FUNCTION, FUNCTION_ENDS = "<function=", "</function>"
PARAMETER, PARAMETER_ENDS = "<parameter=", "</parameter>"

# Some models leave out the outer marker.
_CALL = Markers(OPENS, FUNCTION)
_VALUE_ENDS = Markers(PARAMETER_ENDS)


def answer(source: GrowingText, answer_format: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""
    lead = False
    while True:
        marker, space = yield from run(source, _CALL, Content, lead=lead)
        if not marker:
            if space and not source.calls:
                yield Content(space)
            return
        begins = source.at
        bare = marker == FUNCTION
        lead = not source.full() and (bare or (yield from accept_spaced(source, FUNCTION)))
        lead = lead and (yield from _call(source, answer_format))
        if lead:
            yield from accept_spaced(source, CLOSES)
        else:
            source.at = begins
            yield Content(space + marker)


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
