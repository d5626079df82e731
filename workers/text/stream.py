"""One job's text: decoding and stop strings together."""

from collections.abc import Sequence
from typing import NamedTuple

from .detokenizer import Detokenizer, Held
from .stop_strings import StopStrings
from .tokenizer import TokenText


class Emitted(NamedTuple):
    """Text that became final, and the stop string that ends the job here, if one was found."""

    text: str
    stop_hit: str | None = None


class Position(NamedTuple):
    """Where a `TextStream` is: what its parts hold back, and the tokens before a stop string is heeded."""

    tokens: Held
    text: str
    early: int


class TextStream:
    """Turns one sequence's tokens into the text that its readers see.

    Like its parts, what it has emitted after n tokens is a function of those tokens alone. No stop string is
    heeded that is complete before `min_tokens` tokens.

    Args:
        position: where another one of the same stop strings and `min_tokens` is, to go on from there.
    """

    __slots__ = ("_detokenizer", "_early", "_stops")

    def __init__(
        self,
        tokenizer: TokenText,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        position: Position | None = None,
    ) -> None:
        position = position or Position(Held([], 0, 0), "", min_tokens)
        self._detokenizer = Detokenizer(tokenizer, position.tokens)
        self._stops = StopStrings(stops, position.text)
        self._early = position.early  # tokens to come before a stop string is heeded

    @property
    def position(self) -> Position:
        """Where it is now."""
        return Position(self._detokenizer.held, self._stops.held, self._early)

    def add(self, token_id: int) -> Emitted:
        """The next token."""
        return Emitted(*self._add(token_id))

    def _add(self, token_id: int) -> tuple[str, str | None]:
        self._early -= 1
        text = self._detokenizer.add(token_id)
        return self._stops.add(text, heed=self._early <= 0) if text else ("", None)

    def take(self, token_ids: Sequence[int]) -> tuple[list[str], bool]:
        """The text that became final with each token; True when a stop string ended it at the last one."""
        pieces = []
        for token_id in token_ids:
            text, stop_hit = self._add(token_id)
            pieces.append(text)
            if stop_hit is not None:
                return pieces, True
        return pieces, False

    def flush(self) -> str:
        """The rest, when the sequence has ended; a stop string that only now became whole ends it too."""
        text, hit = self._stops.add(self._detokenizer.flush(), heed=self._early <= 0)
        return text if hit else text + self._stops.flush()
