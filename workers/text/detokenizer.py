"""Incremental decoding.

The text emitted after n tokens is a function of those n tokens alone, however they were grouped into calls:
a worker that takes over a stream replays its tokens and knows exactly which text was published.

A token's text depends on its neighbours (an incomplete UTF-8 character, a leading space that only the first
token of a text loses), so a window is decoded: the tokens of the last emission before the new ones, as
context. What the longer window's text adds is new; while it ends in an incomplete character, nothing is.
"""

from .tokenizer import Tokenizer

_REPLACEMENT = "�"

_MAX_HELD_TOKENS = 64
"""Bytes that form no character are let out after this many tokens: models don't write them, and the window
must stay short."""


class Detokenizer:
    """Decodes one sequence token by token."""

    __slots__ = ("_context", "_context_text", "_held", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._context_text = ""
        self._held: list[int] = []

    def add(self, token_id: int) -> str:
        """The text that became final with this token; empty while a character is incomplete."""
        self._held.append(token_id)
        text = self._tokenizer.decode(self._context + self._held)
        if len(text) <= len(self._context_text):
            return ""
        if text.endswith(_REPLACEMENT) and len(self._held) < _MAX_HELD_TOKENS:
            return ""
        new = text[len(self._context_text) :]
        self._context, self._held = self._held, []
        self._context_text = self._tokenizer.decode(self._context)
        return new

    def flush(self) -> str:
        """What is still held back, as it stands; the sequence has ended."""
        text = self._tokenizer.decode(self._context + self._held)
        new = text[len(self._context_text) :]
        self._context, self._context_text, self._held = [], "", []
        return new
