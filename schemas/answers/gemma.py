"""Gemma: `call:name{key:value,…}` between markers, with strings between markers of their own.

FunctionGemma writes `<start_function_call>`, `<end_function_call>` and `<escape>`; Gemma 4 writes
`<|tool_call>`, `<tool_call|>` and `<|"|>`.
"""

from .deltas import Arguments, CallBegin
from .format import AnswerFormat
from .json_text import MAX_NAME
from .source import GrowingText, Markers, Steps, accept, accept_spaced, peek, skip_space, with_calls, word
from .values import quoted, raw, typed

ENDS = {"<start_function_call>": "<end_function_call>", "<|tool_call>": "<tool_call|>"}
QUOTES = ("<escape>", '<|"|>')
MARKERS = (*ENDS, *ENDS.values(), *QUOTES)

_CALL = Markers(*ENDS)
_QUOTES = {quote: Markers(quote) for quote in QUOTES}

MAX_DEPTH = 64


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""

    def call(marker: str) -> Steps[bool]:
        called = yield from _call(source)
        if called:
            yield from accept_spaced(source, ENDS[marker])
        return called

    yield from with_calls(source, _CALL, call)


def _call(source: GrowingText) -> Steps[bool]:
    if not (yield from accept_spaced(source, "call:")):
        return False
    name = (yield from word(source, "{", MAX_NAME)).strip()
    if not name or (yield from peek(source)) != "{":
        return False
    index = source.calls
    source.calls += 1
    yield CallBegin(index, name)
    yield from _value(source, index, 0)
    return True


def _value(source: GrowingText, index: int, depth: int) -> Steps[bool]:
    """Read a value and tell it as JSON; False if it is broken off."""
    for quote in QUOTES:
        if (yield from accept(source, quote)):
            yield Arguments(index, '"')
            whole = yield from raw(source, _QUOTES[quote], False, lambda text: Arguments(index, quoted(text)))
            if whole:
                yield Arguments(index, '"')
            return whole
    if (yield from accept(source, "{")):
        return depth < MAX_DEPTH and (yield from _members(source, index, depth, "}", named=True))
    if (yield from accept(source, "[")):
        return depth < MAX_DEPTH and (yield from _members(source, index, depth, "]", named=False))
    bare = yield from word(source, ",}]<", 4096)
    if not bare or not (yield from peek(source)):
        return False
    yield Arguments(index, typed(bare.strip(), "json"))
    return True


def _members(source: GrowingText, index: int, depth: int, closes: str, *, named: bool) -> Steps[bool]:
    opened = "{" if named else "["
    yield Arguments(index, opened)
    first = True
    while (yield from skip_space(source)) != closes:
        if named:
            key = yield from _key(source)
            if not key:
                return False
            yield Arguments(index, ("" if first else ", ") + f'"{quoted(key)}": ')
        elif not first:
            yield Arguments(index, ", ")
        first = False
        yield from skip_space(source)
        if not (yield from _value(source, index, depth + 1)):
            return False
        if (yield from skip_space(source)) == ",":
            source.at += 1
        elif (yield from peek(source)) != closes:
            return False
    source.at += 1
    yield Arguments(index, closes)
    return True


def _key(source: GrowingText) -> Steps[str]:
    for quote in QUOTES:
        if (yield from accept(source, quote)):
            key = yield from word(source, "<", MAX_NAME)
            yield from accept(source, quote)
            break
    else:
        key = (yield from word(source, ":,{}[]", MAX_NAME)).strip().strip('"')
    return key if (yield from accept_spaced(source, ":")) else ""
