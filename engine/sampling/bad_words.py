"""Words that must not be generated, as token ids.

A word's last token is forbidden wherever the output ends with the tokens before it. Overlapped, the newest
token may be known to the device alone: what is forbidden is found there, and joins the changes of logits.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.structs import SamplingTable

_NONE, _OUTSIDE = -1, -2
"""In the place of a token: a shorter word has none there; the output doesn't reach so far back."""

_FOR_EVER = np.iinfo(np.int64).max


class BadWords:
    """The words by batch row.

    Attributes:
        any: bool [rows], whether a row has some.
    """

    def __init__(self, rows: int) -> None:
        self.any: NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self._words: dict[int, tuple[tuple[int, ...], ...]] = {}

    def set_row(self, row: int, words: tuple[tuple[int, ...], ...]) -> None:
        """Take over the words of the sequence that the row now belongs to."""
        self.any[row] = bool(words)
        self._words[row] = words

    def of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """Their last tokens, int32 [S, W], and those before, int32 [S, W, L]; None if these rows have none.

        Both are -1 where there is none; what comes before is aligned to the right.
        """
        if not self.any[rows].any():
            return None
        words = [self._words[row] if self.any[row] else () for row in rows.tolist()]
        most = max(map(len, words))
        longest = max(len(word) for some in words for word in some)
        ends = np.full((len(words), most), _NONE, np.int32)
        beginnings = np.full((len(words), most, longest - 1), _NONE, np.int32)
        for place, some in enumerate(words):
            for number, word in enumerate(some):
                ends[place, number] = word[-1]
                beginnings[place, number, longest - len(word) :] = word[:-1]
        return ends, beginnings


def forbid(
    table: SamplingTable, ends: Tensor, beginnings: Tensor, known: Tensor, rows: Tensor
) -> SamplingTable:
    """The table of S samples in which the last tokens of words that have begun are forbidden.

    Args:
        table: what the samples ask for otherwise.
        ends: int32 [S, W], as `BadWords.of` gives them.
        beginnings: int32 [S, W, L], likewise.
        known: [rows, tokens], by batch row.
        rows: int64 [S], the samples' rows.
    """
    lengths, prompts = table.lengths[:, None], table.prompt_lengths[:, None]
    places = lengths + torch.arange(-beginnings.shape[2], 0, device=lengths.device)
    before = known[rows[:, None], places.clamp(min=0)].masked_fill(places < prompts, _OUTSIDE)
    begun = ((beginnings == _NONE) | (beginnings == before[:, None])).all(-1)
    ids = torch.where(begun, ends, _NONE)
    values = torch.full_like(ids, float("-inf"), dtype=table.bias_values.dtype)
    until = torch.full_like(ids, _FOR_EVER, dtype=table.bias_until.dtype)
    return replace(
        table,
        bias_ids=torch.cat([table.bias_ids, ids], 1),
        bias_values=torch.cat([table.bias_values, values], 1),
        bias_until=torch.cat([table.bias_until, until], 1),
    )
