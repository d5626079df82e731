"""What a step says of the prompt tokens that it computes: how likely each was after those before it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..request import TokenLogprobs
from ..scheduler import ScheduledSequence
from ..sequence import Sequence
from .sampled import entries


@dataclass(slots=True, frozen=True)
class Scoring:
    """The R query rows of a step whose next tokens' log-probabilities are wanted.

    Attributes:
        sequences: whose rows they are, in order, and how many each has.
        places: int64 [R], the rows.
        tokens: int64 [R], the tokens that come next.
        wanted: int32 [R], how many of the most likely tokens to report.
    """

    sequences: list[tuple[Sequence, int]]
    places: NDArray[np.int64]
    tokens: NDArray[np.int64]
    wanted: NDArray[np.int32]

    def split(self, *arrays: NDArray[np.generic]) -> list[tuple[Sequence, list[TokenLogprobs]]]:
        """Each sequence's entries, from log-probabilities [R], the most likely tokens [R, n] and theirs."""
        made = [entry for entry in entries(self.wanted, self.tokens, *arrays) if entry is not None]
        ends = np.cumsum([count for _, count in self.sequences]).tolist()
        return [
            (sequence, made[end - count : end])
            for (sequence, count), end in zip(self.sequences, ends, strict=True)
        ]


def scoring_of(plan: list[ScheduledSequence]) -> Scoring | None:
    """What a planned step is to score; None if there is nothing, as in most steps."""
    sequences, places, tokens, wanted, at = [], [], [], [], 0
    for scheduled in plan:
        sequence, asked = scheduled.sequence, scheduled.sequence.request.prompt_logprobs
        if asked is not None and (positions := sequence.to_score(sequence.computed, scheduled.count)):
            sequences.append((sequence, len(positions)))
            places += [at + position - sequence.computed for position in positions]
            tokens += sequence.tokens[positions.start + 1 : positions.stop + 1]
            wanted += [asked] * len(positions)
        at += scheduled.count
    if not sequences:
        return None
    return Scoring(
        sequences, np.array(places, np.int64), np.array(tokens, np.int64), np.array(wanted, np.int32)
    )
