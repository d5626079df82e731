"""Which tokens sequences must not, or preferably should, sample next: changes of single logits by batch row.

The engine knows no grammar and no words: anything that a caller wants to rule out is given as tokens here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..parameters import SamplingParams

_FOR_EVER = np.iinfo(np.int64).max


@dataclass(slots=True, frozen=True)
class Bias:
    """Changes of logits for a step's samples: see `kernels.structs.SamplingTable`."""

    ids: NDArray[np.int32]
    values: NDArray[np.float32]
    until: NDArray[np.int64]

    def of(self, rows: NDArray[np.int64]) -> "Bias":
        """The entries of these rows."""
        return Bias(self.ids[rows], self.values[rows], self.until[rows])


class Constraints:
    """What the sequences' parameters say about single tokens, by batch row.

    Attributes:
        biased: bool [rows], whether a row changes logits.
        bias: the entries of all rows.
        masked: bool [rows], whether a row allows only some tokens.
    """

    def __init__(self, rows: int, vocab: int) -> None:
        self.biased: NDArray[np.bool_] = np.zeros(rows, np.bool_)
        # Few requests have more than some stop tokens; a wider table is made when one does, for good.
        self.bias = _no_bias(rows, 4)
        self.masked: NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self._vocab = vocab
        self._masks: dict[int, NDArray[np.bool_]] = {}

    def set_row(
        self, row: int, params: SamplingParams, prompt_length: int, eos_token_ids: frozenset[int]
    ) -> None:
        """Take over the parameters of the sequence that the row now belongs to."""
        mask = _mask(params, self._vocab)
        self.masked[row] = mask is not None
        if mask is not None:
            self._masks[row] = mask
        else:
            self._masks.pop(row, None)
        entries = list(_entries(params, prompt_length, eos_token_ids))
        if self.biased[row]:
            self.bias.ids[row] = -1
        self.biased[row] = bool(entries)
        if not entries:
            return
        count = len(entries)
        if count > self.bias.ids.shape[1]:
            self._widen(count)
        self.bias.ids[row, :count], self.bias.values[row, :count], self.bias.until[row, :count] = zip(
            *entries, strict=True
        )

    def masks(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The index of each row's mask, -1 for none, and the masks, bool [M, vocab]."""
        masked = self.masked[rows]
        # Of the rows no, yes, no, yes: -1 0 -1 1.
        which = np.where(masked, masked.cumsum() - 1, -1).astype(np.int32)
        return which, np.stack([self._masks[row] for row in rows[masked].tolist()])

    def _widen(self, count: int) -> None:
        rows, width = self.bias.ids.shape
        # The next power of two, so that this is rare: 5 to 8 entries make 8 columns.
        wider = _no_bias(rows, 1 << (count - 1).bit_length())
        wider.ids[:, :width], wider.values[:, :width] = self.bias.ids, self.bias.values
        wider.until[:, :width] = self.bias.until
        self.bias = wider


def _entries(
    params: SamplingParams, prompt_length: int, eos_token_ids: frozenset[int]
) -> Iterator[tuple[int, float, int]]:
    """Tokens, what is added to their logits, and the sequence length from which on it no longer is."""
    for token_id, value in params.logit_bias.items():
        yield token_id, value, _FOR_EVER
    if params.min_tokens:  # nothing may end the sequence before this length
        ends = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
        yield from ((token_id, -np.inf, prompt_length + params.min_tokens) for token_id in ends)


def _mask(params: SamplingParams, vocab: int) -> NDArray[np.bool_] | None:
    """Bool [vocab], the tokens that may be sampled; None if all may."""
    if not params.allowed_token_ids:
        return None
    mask = np.zeros(vocab, np.bool_)
    mask[list(params.allowed_token_ids)] = True
    return mask


def _no_bias(rows: int, width: int) -> Bias:
    return Bias(
        np.full((rows, width), -1, np.int32),
        np.zeros((rows, width), np.float32),
        np.zeros((rows, width), np.int64),
    )
