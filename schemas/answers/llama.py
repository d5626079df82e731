"""Llama 3: an answer that is nothing but calls, `{"name": …, "parameters": {…}}`, with `;` between them."""

from . import json_text
from .format import AnswerFormat
from .source import GrowingText, Steps, accept, accept_spaced, skip_space
from .text import rest

MARKER = "<|python_tag|>"


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer with calls."""
    while True:
        begins = source.at
        yield from skip_space(source)
        yield from accept(source, MARKER)
        yield from skip_space(source)
        if source.full() or not (yield from json_text.call(source)):
            source.at = begins
            break
        source.forget()
        yield from accept_spaced(source, ";")
    yield from rest(source)
