"""One job's text: decoding and stop strings together."""

from collections.abc import Sequence
from typing import NamedTuple

from .detokenizer import Detokenizer
from .stop_strings import StopStrings
from .tokenizer import Tokenizer


class Emitted(NamedTuple):
    """Text that became final, and the stop string that ends the job here, if one was found."""

    text: str
    stop_hit: str | None = None


class TextStream:
    """Turns one sequence's tokens into the text that its readers see.

    Like its parts, what it has emitted after n tokens is a function of those tokens alone. No stop string is
    heeded that is complete before `min_tokens` tokens.
    """

    __slots__ = ("_detokenizer", "_early", "_stops")

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), min_tokens: int = 0) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stops)
        self._early = min_tokens  # tokens to come before a stop string is heeded

    def add(self, token_id: int) -> Emitted:
        """The next token."""
        self._early -= 1
        text = self._detokenizer.add(token_id)
        return Emitted(*self._stops.add(text, heed=self._early <= 0)) if text else Emitted("")

    def flush(self) -> str:
        """The rest, when the sequence has ended; a stop string that only now became whole ends it too."""
        text, hit = self._stops.add(self._detokenizer.flush(), heed=self._early <= 0)
        return text if hit else text + self._stops.flush()
