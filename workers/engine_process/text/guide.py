"""Guides an answer whose form matters only in parts: its reasoning, and calls once they have begun.

An answer passes through phases: reasoning, which may have a budget; free text, in which any token may come;
and calls. A call begins where the text says so (`Opening`), and a grammar follows it from the token on in
which its marker begins. In free text nothing is masked, and a token costs a look for the marker. The phase is
a function of the tokens so far, as a grammar's state is.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....schemas.answers import AnswerFormat, harmony
from ....schemas.answers.reasoning import PAIRS
from .grammar import Follower, GrammarError
from .reasoning_span import OVER, WITHIN, ReasoningSpan
from .tokenizer import Tokenizer


@dataclass(slots=True, frozen=True)
class Opening:
    """How calls begin, and their grammar.

    Attributes:
        grammar: what follows, from the marker on.
        token_id: the marker, if it is a token.
        pattern: otherwise what is looked for, in the text's bytes spelt as Latin-1.
        longest: how many of the last bytes the pattern may have to see.
        first: calls come only at the answer's beginning.
        in_head: calls begin in the head of a message (the harmony format).
        last: nothing follows a call.
    """

    grammar: str
    token_id: int | None = None
    pattern: str = ""
    longest: int = 64
    first: bool = False
    in_head: bool = False
    last: bool = False


@dataclass(slots=True, frozen=True)
class Guidance:
    """What an answer is to be guided by.

    Attributes:
        format: how it is read, as it travels.
        most_reasoning: how many tokens of reasoning it may have; None for any number.
        closing: the tokens that end reasoning.
        closing_again: those that end it when it has begun once more.
        opening: how calls begin; None if they aren't guided.
    """

    format: dict[str, Any]
    most_reasoning: int | None = None
    closing: list[int] = field(default_factory=list)
    closing_again: list[int] = field(default_factory=list)
    opening: Opening | None = None

    def to_wire(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_wire(cls, travelled: dict[str, Any]) -> "Guidance":
        """What `to_wire` made."""
        opening = travelled["opening"]
        return cls(**{**travelled, "opening": opening and Opening(**opening)})


def closing_tokens(answer_format: AnswerFormat, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens that end reasoning, and those that end it when it has begun once more."""

    def tokens(*texts: str) -> list[int]:
        ids = []
        for text in texts:
            token_id = tokenizer.added_token(text)
            ids += tokenizer.encode(text, special=False) if token_id is None else [token_id]
        return ids

    if answer_format.reasoning in PAIRS:
        return tokens(PAIRS[answer_format.reasoning][1]), []
    if answer_format.reasoning != "harmony":
        return [], []
    # A message ends and another begins, as the model would write it; the second time, that is the answer.
    ended = tokens(harmony.ENDS[0], harmony.START, "assistant")
    return ended, [*ended, *tokens(harmony.CHANNEL, "final", harmony.MESSAGE)]


class Guide:
    """Says which tokens may come next in one guided answer (an engine's `TokenConstraint`).

    Args:
        guidance: what it is guided by.
        token_bytes: the bytes that a token stands for.
        whole: follows all of it, if all of it has a form.
        call: a follower of a call, of which copies are made; without one, calls aren't guided.
    """

    def __init__(
        self,
        guidance: Guidance,
        token_bytes: Callable[[int], bytes],
        whole: Follower | None = None,
        call: Follower | None = None,
    ) -> None:
        self._guidance, self._bytes, self._whole, self._call = guidance, token_bytes, whole, call
        self._span = ReasoningSpan(AnswerFormat.model_validate(guidance.format), token_bytes)
        self._opening = guidance.opening if call is not None else None
        self._pattern = re.compile(self._opening.pattern.encode("latin-1")) if self._opening else None
        self._now: Follower | None = None
        self._forced: list[int] = []
        self._text, self._recent = b"", list[tuple[int, int]]()
        self._taken = 0
        if self._span.state is WITHIN:
            self._spend()

    @property
    def taken(self) -> int:
        """Number of output tokens that it has been told."""
        return self._taken

    def take(self, token_ids: Sequence[int]) -> None:
        """Follow these output tokens, which come next.

        Raises:
            GrammarError: they don't continue the answer as its form allows.
        """
        if self._whole is not None:
            self._whole.take(token_ids)
        for token_id in token_ids:
            self._taken += 1
            self._take(token_id)

    def _take(self, token_id: int) -> None:
        if self._forced:
            # It is another one only if an earlier worker knew no budget.
            self._forced = self._forced[1:] if token_id == self._forced[0] else []
        if self._now is not None:
            try:
                self._now.take((token_id,))
            except GrammarError:  # an earlier worker guided no calls
                self._now = None
                return
            if self._opening is not None and not self._opening.last and self._now.complete:
                self._now, self._text = None, b""
                self._recent.clear()
            return
        span = self._span
        if span.state is not OVER:
            before = span.state
            span.take(token_id)
            if span.state is WITHIN:
                self._spend()
                return
            if before is WITHIN:
                self._text, self._recent = span.rest, [(token_id, len(span.rest))] if span.rest else []
                return
        if self._opening is not None:
            self._look(token_id, self._opening)

    def _spend(self) -> None:
        """End the reasoning if its tokens are used up."""
        most, span = self._guidance.most_reasoning, self._span
        if most is not None and not self._forced and span.count >= most:
            again = span.spans > 1 and self._guidance.closing_again
            self._forced = list(again or self._guidance.closing)

    def _look(self, token_id: int, opening: Opening) -> None:
        """Look whether a call begins with, or is begun by, this token."""
        if opening.token_id is not None:
            if token_id == opening.token_id:
                self._begin((token_id,))
            return
        if opening.in_head and (self._span.head is None or self._span.state is OVER):
            self._text, self._recent = b"", []
            return
        data = self._bytes(token_id)
        self._text += data
        self._recent.append((token_id, len(data)))
        assert self._pattern is not None
        found = self._pattern.search(self._text)
        if found is not None:
            at, window = len(self._text), list[int]()
            for recent, length in reversed(self._recent):
                if at <= found.start() and not opening.first:
                    break
                window.append(recent)
                at -= length
            self._text, self._recent = b"", []
            self._begin(window[::-1])
        elif opening.first and len(self._text) > opening.longest:
            self._opening = None
        elif not opening.first:
            while self._recent and len(self._text) - self._recent[0][1] >= opening.longest:
                self._text = self._text[self._recent.pop(0)[1] :]

    def _begin(self, token_ids: Sequence[int]) -> None:
        assert self._call is not None
        follower = self._call.copy()
        try:
            follower.take(token_ids)
        except GrammarError:
            return  # what looks like the beginning of a call is text, as it is for readers
        self._now = follower

    def fill(self, mask: NDArray[np.int32]) -> bool:
        """Write which tokens may come next; False if any may.

        Raises:
            GrammarError: following what all of it must follow takes more than the limits allow.
        """
        if self._whole is not None:
            self._whole.fill(mask)
        if self._forced:
            place, bit = self._forced[0] // 32, 1 << (self._forced[0] % 32)
            words = mask.view(np.uint32)
            # All that has a form can't end its reasoning within a character: it does so behind it.
            if self._whole is None or int(words[place]) & bit:
                mask[:] = 0
                words[place] = bit
            return True
        if self._now is not None and self._whole is None:
            try:
                return self._now.fill(mask)
            except GrammarError:  # it takes too much; as nobody required a call, the answer goes on unguided
                self._now = None
        return self._whole is not None
