"""One job's text: decoding combined with stop strings."""

from collections.abc import Sequence
from typing import NamedTuple

from .detokenizer import Detokenizer, Held
from .stop_strings import StopStrings
from .tokenizer import TokenText

_FIRST_MARK = 0xDC00
"""Half of a surrogate pair, which occurs in no text that can be written as UTF-8."""


class Emitted(NamedTuple):
    """Text that became final, and the stop string that ends the job here, if one was found."""

    text: str
    stop_hit: str | None = None


class Position(NamedTuple):
    """A `TextStream`'s state: what its parts hold back, and the tokens before stop strings count."""

    tokens: Held
    text: str
    early: int


class TextStream:
    """Turns one sequence's tokens into the text that its readers see.

    Like that of its parts, its output after n tokens depends only on the prompt and those tokens. A stop
    string that is complete before `min_tokens` tokens doesn't count. A special token has no text, but a stop
    string may name it: in the stop string, and where the token comes, it is represented by a character that
    occurs in no text.

    Args:
        after: what `held_after` returned for the prompt; without it, nothing precedes the text.
        position: the state of another one with the same other arguments, to continue from.
        shown: special tokens that this text is to show by their names.

    Attributes:
        tokenizer: as given.
    """

    __slots__ = ("_detokenizer", "_early", "_marks", "_names", "_stops", "_texts", "tokenizer")

    def __init__(
        self,
        tokenizer: TokenText,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        position: Position | None = None,
        *,
        after: Held | None = None,
        shown: Sequence[str] = (),
    ) -> None:
        position = position or Position(after or Held([], 0, 0), "", min_tokens)
        self.tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, position.tokens)
        specials = tokenizer.specials_in("\n".join((*shown, *stops))) if shown or stops else {}
        # An example: the stop string "<|im_end|>" names a special token. It becomes one mark, and that
        # token's text the same mark, so that they meet, and no text that spells the name does.
        marks = {name: chr(_FIRST_MARK + place) for place, name in enumerate(specials)}
        self._marks = {specials[name]: mark for name, mark in marks.items()}
        self._names = {ord(mark): name for name, mark in marks.items()}
        self._texts = {ord(mark): name if name in shown else None for name, mark in marks.items()}
        self._stops = StopStrings([_marked(stop, marks) for stop in stops], position.text)
        self._early = position.early  # tokens to come before a stop string is heeded

    @property
    def position(self) -> Position:
        """Its state now."""
        return Position(self._detokenizer.held, self._stops.held, self._early)

    def add(self, token_id: int) -> Emitted:
        """Add the next token; return what became final."""
        return Emitted(*self._add(token_id))

    def _add(self, token_id: int) -> tuple[str, str | None]:
        self._early -= 1
        text = self._detokenizer.add(token_id)
        if self._marks:
            return self._add_marked(self._marks.get(token_id, text))
        return self._stops.add(text, heed=self._early <= 0) if text else ("", None)

    def _add_marked(self, text: str) -> tuple[str, str | None]:
        out, hit = self._stops.add(text, heed=self._early <= 0)
        return self._shown(out), hit and hit.translate(self._names)

    def take(self, token_ids: Sequence[int]) -> tuple[list[str], bool]:
        """The text that became final with each token, and whether a stop string ended it at the last one."""
        pieces = []
        for token_id in token_ids:
            text, stop_hit = self._add(token_id)
            pieces.append(text)
            if stop_hit is not None:
                return pieces, True
        return pieces, False

    def flush(self) -> str:
        """The rest, when the sequence has ended; it is cut at a stop string that is complete only now."""
        text, hit = self._stops.add(self._detokenizer.flush(), heed=self._early <= 0)
        return self._shown(text if hit else text + self._stops.flush())

    def _shown(self, text: str) -> str:
        return text.translate(self._texts) if self._texts else text


def _marked(stop: str, marks: dict[str, str]) -> str:
    for name in sorted(marks, key=len, reverse=True):
        stop = stop.replace(name, marks[name])
    return stop
