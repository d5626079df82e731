"""Llama 4 and others: an answer that is a list of calls in Python, `[get_weather(city="Paris"), now()]`.

A call is told when it is whole, since its values have to be turned into JSON.
"""

import ast
import json
import re
import warnings
from typing import Any

from .deltas import Arguments, CallBegin
from .format import AnswerFormat
from .json_text import MAX_NAME
from .source import GrowingText, Steps, accept, accept_spaced, skip_space, word
from .text import rest

OPENS, CLOSES = MARKERS = "<|python_start|>", "<|python_end|>"

_NAME = re.compile(r"[^\W\d][\w.\-]*")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_CONSTANTS = {"true": True, "false": False, "null": None}

MAX_DEPTH = 64
MAX_CALL = 1 << 20
"""Characters of a call; Python's own parser takes some hundred bytes of memory for each."""


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""
    begins = source.at
    yield from skip_space(source)
    yield from accept(source, OPENS)
    yield from skip_space(source)
    if (yield from accept(source, "[")):
        while not source.full():
            yield from skip_space(source)
            if (made := (yield from _call(source))) is None:
                break
            index, begins = source.calls, source.at
            source.calls += 1
            yield CallBegin(index, made[0])
            yield Arguments(index, made[1])
            if not (yield from accept_spaced(source, ",")):
                yield from accept_spaced(source, "]")
                yield from accept_spaced(source, CLOSES)
                begins = source.at
                break
    source.at = begins
    yield from rest(source)


def _call(source: GrowingText) -> Steps[tuple[str, str] | None]:
    name = yield from word(source, "(", MAX_NAME)
    if not _NAME.fullmatch(name) or not (yield from accept(source, "(")):
        return None
    written = yield from _arguments(source)
    if written is None:
        return None
    try:
        arguments = json.dumps(_read(written), ensure_ascii=False, allow_nan=False)
        arguments.encode()  # half a surrogate pair can't be written again
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return name, arguments


def _arguments(source: GrowingText) -> Steps[str | None]:
    """Read what is between the parentheses of a call; None if that has no end."""
    start = at = source.at
    closing, quote = [")"], ""
    while True:
        while at < len(source.text):
            character = source.text[at]
            if character == "\\":
                if at + 1 == len(source.text):
                    break
                at += 2
                continue
            if quote:
                quote = "" if character == quote else quote
            elif character in "\"'":
                quote = character
            elif character in _PAIRS:
                if len(closing) > MAX_DEPTH:
                    return None
                closing.append(_PAIRS[character])
            elif character == closing[-1]:
                closing.pop()
                if not closing:
                    source.at = at + 1
                    return source.text[start:at] if at - start <= MAX_CALL else None
            elif character in ")]}":
                return None
            at += 1
        if source.ended or at - start > MAX_CALL:
            return None
        yield None


def _read(written: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python doesn't know
        tree = ast.parse(f"call({written}\n)", mode="eval").body
    if not isinstance(tree, ast.Call) or tree.args:
        raise ValueError("a call has named arguments only")
    found = {}
    for keyword in tree.keywords:
        if keyword.arg is None:
            raise ValueError("a call has named arguments only")
        found[keyword.arg] = _value(keyword.value)
    return found


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() | None):
            return node.value
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=names, values=values):
            pairs = zip(names, values, strict=True)
            return {str(_value(name)): _value(each) for name, each in pairs if name is not None}
        case _:
            raise ValueError("no literal")
