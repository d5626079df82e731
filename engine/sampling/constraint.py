"""Which tokens sequences must not, or preferably should, sample next: by batch row, changes of single logits
and masks over the vocabulary.

The engine knows no grammar and no words: anything that a caller wants to rule out is given as tokens here, or
by a `TokenConstraint` that is told the tokens.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...kernels.mask import words
from ..errors import RequestError
from ..parameters import SamplingParams
from ..request import Request
from ..sequence import Sequence

_FOR_EVER = np.iinfo(np.int64).max

logger = logging.getLogger(__name__)


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
    """What the sequences' parameters and constraints say about tokens, by batch row.

    Attributes:
        biased: bool [rows], whether a row changes logits.
        bias: the entries of all rows.
        masked: bool [rows], whether a row allows only some tokens; of one with a constraint, whether it did
            when it was last asked.
    """

    def __init__(self, rows: int, vocab: int) -> None:
        self.biased: NDArray[np.bool_] = np.zeros(rows, np.bool_)
        # Few requests have more than some stop tokens; a wider table is made when one does, for good.
        self.bias = _no_bias(rows, 4)
        self.masked: NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self._vocab = vocab
        # Zeros take no memory until they are written.
        self._masks: NDArray[np.int32] = np.zeros((rows, words(vocab)), np.int32)
        self._followed: dict[int, _Followed] = {}

    def set_row(self, sequence: Sequence, eos_token_ids: frozenset[int]) -> None:
        """Take over what the sequence that its row now belongs to says."""
        row, request = sequence.row, sequence.request
        params, ends = request.params, _ends(request.params, eos_token_ids)
        self.masked[row] = bool(params.allowed_token_ids) or request.constraint is not None
        self._followed.pop(row, None)
        if params.allowed_token_ids:
            self._masks[row] = packed(params.allowed_token_ids, self._vocab)
        if request.constraint is not None:
            early = packed(ends, self._vocab) if params.min_tokens else None
            self._followed[row] = _Followed(sequence, self._masks[row], early)
            ends = frozenset()  # its mask says where it may end
        entries = list(_entries(params, sequence.prompt_length, ends))
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

    def waits_for_tokens(self, rows: NDArray[np.int64]) -> bool:
        """Whether a constraint of any of these rows must be told a token that is sampled but not read yet."""
        return any(followed.sequence.unread for followed in self._of(rows))

    def follow(self, rows: NDArray[np.int64]) -> None:
        """Tell the constraints of these rows the tokens known by now; their masks say what may come next."""
        for followed in self._of(rows):
            self.masked[followed.sequence.row] = followed.fill()

    def _of(self, rows: NDArray[np.int64]) -> "list[_Followed]":
        if not self._followed:
            return []
        found = ((row, self._followed.get(row)) for row in rows.tolist())
        # A sequence that has ended since the step was planned has no row any more; its token is never read.
        return [one for row, one in found if one is not None and one.sequence.row == row]

    def masks(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The index of each row's mask, -1 for none, and the masks, int32 [M, ceil(vocab / 32)]."""
        masked = self.masked[rows]
        # Of the rows no, yes, no, yes: -1 0 -1 1.
        which = np.where(masked, masked.cumsum() - 1, -1).astype(np.int32)
        return which, self._masks[rows[masked]]

    def _widen(self, count: int) -> None:
        rows, width = self.bias.ids.shape
        # The next power of two, so that this is rare: 5 to 8 entries make 8 columns.
        wider = _no_bias(rows, 1 << (count - 1).bit_length())
        wider.ids[:, :width], wider.values[:, :width] = self.bias.ids, self.bias.values
        wider.until[:, :width] = self.bias.until
        self.bias = wider


def refuse_second_mask(request: Request) -> None:
    """Refuse a request whose constraint isn't the only thing that says which tokens may come.

    Raises:
        RequestError: its parameters also say so, or the constraint was told another request's output.
    """
    if request.constraint is None:
        return
    if request.params.allowed_token_ids:
        raise RequestError("allowed_token_ids", "can't be combined with a constraint")
    if request.constraint.taken > len(request.output_ids):
        raise RequestError("constraint", "has been told more output than the request has: make a new one")


@dataclass(slots=True)
class _Followed:
    """A row's sequence, which has a constraint, its mask, and the tokens that it must not end with early."""

    sequence: Sequence
    mask: NDArray[np.int32]
    ends: NDArray[np.int32] | None

    def fill(self) -> bool:
        """Write the mask; False if any token may come, and it needn't be applied."""
        sequence, constraint, mask = self.sequence, self.sequence.request.constraint, self.mask
        assert constraint is not None
        try:
            constraint.take(sequence.tokens[sequence.prompt_length + constraint.taken :])
            rules = constraint.fill(mask)
        except Exception as error:  # it ends this request, and none of those beside it
            logger.info("a constraint allows no token", exc_info=error)
            sequence.failure = " ".join(str(error).split())[:300]
            mask[:] = 0
            return True
        if self.ends is not None and len(sequence.tokens) < _first_end(sequence):
            longer = mask & ~self.ends if rules else ~self.ends
            if longer.any():  # otherwise it can only end: `min_tokens` asks for more than the constraint has
                mask[:] = longer
                return True
        return rules


def _first_end(sequence: Sequence) -> int:
    return sequence.prompt_length + sequence.request.params.min_tokens


def packed(token_ids: "tuple[int, ...] | frozenset[int]", vocab: int) -> NDArray[np.int32]:
    """The mask, int32 [ceil(vocab / 32)], that has these tokens."""
    bits = np.zeros(words(vocab) * 32, np.uint8)
    bits[list(token_ids)] = 1
    return np.packbits(bits, bitorder="little").view("<i4").astype(np.int32, copy=False)


def _ends(params: SamplingParams, eos_token_ids: frozenset[int]) -> frozenset[int]:
    """The tokens that end a sequence."""
    return frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_token_ids)


def _entries(
    params: SamplingParams, prompt_length: int, ends: frozenset[int]
) -> Iterator[tuple[int, float, int]]:
    """Tokens, what is added to their logits, and the sequence length from which on it no longer is."""
    for token_id, value in params.logit_bias.items():
        yield token_id, value, _FOR_EVER
    if params.min_tokens:  # nothing may end the sequence before this length
        yield from ((token_id, -np.inf, prompt_length + params.min_tokens) for token_id in ends)


def _no_bias(rows: int, width: int) -> Bias:
    return Bias(
        np.full((rows, width), -1, np.int32),
        np.zeros((rows, width), np.float32),
        np.zeros((rows, width), np.int64),
    )
