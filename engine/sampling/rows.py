"""What sequences ask of sampling, by batch row, in arrays from which a step takes its rows at once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.structs import SampleNeeds, SamplingTable
from ..parameters import COLUMNS, Work
from ..sequence import Sequence
from .bad_words import BadWords
from .constraint import Bias, Constraints


class RowParams:
    """Sampling parameters by batch row; a row without a sequence is greedy and asks for nothing.

    Attributes:
        columns: one array [rows] for each of `parameters.COLUMNS`, by its name.
        prompt_lengths: int64 [rows].
        eos_token_ids: tokens that are ruled out before `min_tokens`.
        bad_words: the words that rows rule out.
    """

    def __init__(self, rows: int, vocab: int, eos_token_ids: frozenset[int]) -> None:
        self.eos_token_ids = eos_token_ids
        self.columns: dict[str, NDArray[np.generic]] = {
            name: np.full(rows, column.neutral, column.dtype) for name, column in COLUMNS.items()
        }
        self.prompt_lengths: NDArray[np.int64] = np.zeros(rows, np.int64)
        self._asks: dict[Work, NDArray[np.bool_]] = {
            work: np.zeros(rows, np.bool_) for work in ("penalties", "truncation")
        }
        self._constraints = Constraints(rows, vocab)
        self.bad_words = BadWords(rows)

    def set_row(self, sequence: Sequence) -> None:
        """Take over the parameters (`parameters.computable`) of the sequence that a row now belongs to."""
        row, params = sequence.row, sequence.request.params
        asks: set[Work | None] = set()
        for name, column in COLUMNS.items():
            value = getattr(params, name)
            self.columns[name][row] = column.neutral if value is None else value
            if value != column.neutral:
                asks.add(column.work)
        self._asks["penalties"][row] = "penalties" in asks
        # Greedy rows take the best token, which top-k and top-p always keep.
        self._asks["truncation"][row] = "truncation" in asks and params.temperature > 0
        self.prompt_lengths[row] = len(sequence.request.prompt_ids)
        self.bad_words.set_row(row, params.bad_words)
        self._constraints.set_row(sequence, self.eos_token_ids)

    def penalised(self, row: int) -> bool:
        """Whether the row's known tokens change its logits."""
        return bool(self._asks["penalties"][row] or self.bad_words.any[row])

    def wanted(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """How many of the most likely tokens each of these rows asked for; -1 for no log-probabilities."""
        wanted: NDArray[np.int32] = self.columns["logprobs"][rows].astype(np.int32, copy=False)
        return wanted

    def needs(self, rows: NDArray[np.int64]) -> SampleNeeds:
        """Which work the samples of these rows need."""
        logprobs = int(self.columns["logprobs"][rows].max(initial=-1))
        return SampleNeeds(
            penalties=bool(self._asks["penalties"][rows].any()),
            bias=bool((self._constraints.biased[rows] | self.bad_words.any[rows]).any()),
            truncation=bool(self._asks["truncation"][rows].any()),
            logprobs=None if logprobs < 0 else logprobs,
            mask=self.masked(rows),
        )

    def masked(self, rows: NDArray[np.int64]) -> bool:
        """Whether any of these rows allows only some tokens, by what its constraint said last."""
        return bool(self._constraints.masked[rows].any())

    def waits_for_tokens(self, rows: NDArray[np.int64]) -> bool:
        """Whether the next token of any of these rows depends on one that is sampled but not read yet."""
        return self._constraints.waits_for_tokens(rows)

    def follow(self, rows: NDArray[np.int64]) -> None:
        """Tell the constraints of these rows what is known by now, and take over what they allow next."""
        self._constraints.follow(rows)

    def bias(self, rows: NDArray[np.int64], needs: SampleNeeds) -> Bias:
        """The changes of logits that these rows ask for; none if they need none."""
        bias = self._constraints.bias
        return bias.of(rows) if needs.bias else Bias(bias.ids[:0], bias.values[:0], bias.until[:0])

    def masks(
        self, rows: NDArray[np.int64], needs: SampleNeeds
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """The index of each row's mask, -1 for none, and the masks; None if they need none."""
        return self._constraints.masks(rows) if needs.mask else None

    def table(
        self,
        rows: NDArray[np.int64],
        needs: SampleNeeds,
        tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
        device: torch.device,
    ) -> SamplingTable:
        """The kernel's table of these rows, which have `lengths` known tokens."""

        def there(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array).to(device)

        bias, masks = self.bias(rows, needs), self.masks(rows, needs)
        return SamplingTable(
            **{name: there(column[rows]) for name, column in self.columns.items()},
            tokens=there(tokens),
            lengths=there(lengths),
            prompt_lengths=there(self.prompt_lengths[rows]),
            bias_ids=there(bias.ids),
            bias_values=there(bias.values),
            bias_until=there(bias.until),
            mask_of=None if masks is None else there(masks[0]),
            masks=None if masks is None else there(masks[1]),
        )
