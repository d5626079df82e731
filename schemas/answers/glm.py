"""GLM: `<tool_call>name`, then pairs of `<arg_key>…</arg_key>` and `<arg_value>…</arg_value>`."""

from .deltas import Arguments, CallBegin
from .format import AnswerFormat
from .hermes import CLOSES, OPENS
from .json_text import MAX_NAME
from .source import GrowingText, Markers, Steps, accept, accept_spaced, peek, with_calls, word
from .values import parameter

KEY, KEY_ENDS = "<arg_key>", "</arg_key>"
VALUE, VALUE_ENDS = "<arg_value>", "</arg_value>"
MARKERS = (OPENS, CLOSES, KEY, KEY_ENDS, VALUE, VALUE_ENDS)

_CALL = Markers(OPENS)
_VALUE_ENDS = Markers(VALUE_ENDS)


def answer(source: GrowingText, answer_format: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""

    def call(_: str) -> Steps[bool]:
        called = yield from _call(source, answer_format)
        if called:
            yield from accept_spaced(source, CLOSES)
        return called

    yield from with_calls(source, _CALL, call)


def _call(source: GrowingText, answer_format: AnswerFormat) -> Steps[bool]:
    name = (yield from word(source, "<", MAX_NAME)).strip()
    if not name or " " in name or (yield from peek(source)) != "<":
        return False
    index, first = source.calls, True
    source.calls += 1
    yield CallBegin(index, name)
    kinds = answer_format.values.get(name, {})
    while (yield from accept_spaced(source, KEY)):
        key = (yield from word(source, "<", MAX_NAME)).strip()
        if not (yield from accept(source, KEY_ENDS)) or not (yield from accept_spaced(source, VALUE)):
            break
        if not (yield from parameter(source, index, key, kinds, _VALUE_ENDS, first=first, lines=False)):
            return True
        first = False
    yield Arguments(index, "{}" if first else "}")
    return True
