"""Incremental decoding.

The text emitted after n tokens depends only on those n tokens, not on how they were grouped into calls. So a
worker that takes over a stream replays its tokens and knows exactly which text was published.

A token's text depends on its neighbours (an incomplete UTF-8 character, a leading space that only the first
token of a text loses), so a window is decoded: the tokens since the last but one clean boundary, where the
text ended in a whole character. U+FFFD at its end may yet become a character and is held back. Because a
window is decoded, and tokens aren't looked up, every kind of tokenizer is left to the library that knows it.

With a byte-level tokenizer, the pieces always join to the `decode` of all tokens. A tokenizer with byte
fallback turns a whole run of bytes into U+FFFD if one of them fits no character, including those that did;
what was emitted by then stays.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .tokenizer import TokenText

_REPLACEMENT = "�"

_MAX_WINDOW_TOKENS, _KEPT_TOKENS = 16, 8
"""Valid text never needs such a long window, because a character has at most four bytes. When it is reached,
all tokens but the last, which may begin a character, are released, and the window is cut to those that can
still matter."""


_PROMPT_TOKENS = 32
"""How many tokens at a prompt's end are searched for those that have text."""


class Held(NamedTuple):
    """A `Detokenizer`'s state: the window, its tokens before the boundary, its characters emitted."""

    window: list[int]
    boundary: int
    emitted: int


def held_after(tokenizer: TokenText, prompt_ids: Sequence[int], *, whole: bool) -> Held:
    """What is held when a sequence's text continues a prompt.

    So the first token's text is what it adds to the prompt's: with the space before its word, or the rest of
    a character that the prompt has begun.

    Args:
        tokenizer: the tokenizer of both.
        prompt_ids: the prompt.
        whole: whether the prompt is known to end with a whole character, even if it ends in U+FFFD.
    """
    last = prompt_ids[-_PROMPT_TOKENS:]
    window = [token_id for token_id in last if tokenizer.lengths[token_id] is not None][-_KEPT_TOKENS:]
    text = tokenizer.decode(window)
    final = len(text if whole else text.rstrip(_REPLACEMENT))
    return Held(window, len(window) if final == len(text) else 0, final)


class Detokenizer:
    """Decodes one sequence token by token, in constant time per token.

    Attributes:
        held: its state, to continue from in another process.
    """

    __slots__ = ("_boundary", "_emitted", "_tokenizer", "_window")

    def __init__(self, tokenizer: TokenText, held: Held | None = None) -> None:
        self._tokenizer = tokenizer
        self._window, self._boundary, self._emitted = held or Held([], 0, 0)

    @property
    def held(self) -> Held:
        return Held(self._window, self._boundary, self._emitted)

    def add(self, token_id: int) -> str:
        """The text that became final with this token; empty while a character is incomplete."""
        alone = self._tokenizer.lengths[token_id]
        if alone is None:
            return ""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        final = len(text.rstrip(_REPLACEMENT))
        if final == len(text):
            # An example: € is three bytes. With byte tokens E2, 82 and AC the window decodes to U+FFFD,
            # U+FFFD and €: nothing is final until the third. The window then keeps what came since the
            # boundary before.
            self._window = self._window[self._boundary :]
            self._boundary = len(self._window)
            new = text[self._emitted :]
            # Most tokens are a whole character or more by themselves, and their length alone is known
            # already.
            self._emitted = alone if self._boundary == 1 else len(self._tokenizer.decode(self._window))
            return new
        if len(self._window) == _MAX_WINDOW_TOKENS:
            self._window = self._window[-_KEPT_TOKENS:]
            self._boundary = 0
            new, self._emitted = text[self._emitted : -1], len(self._tokenizer.decode(self._window)) - 1
            return new
        new, self._emitted = text[self._emitted : final], max(self._emitted, final)
        return new

    def flush(self) -> str:
        """Return what is still held back, as it is, because the sequence has ended."""
        new = self._tokenizer.decode(self._window)[self._emitted :]
        self._window, self._boundary, self._emitted = [], 0, 0
        return new
