"""What sequences ask of sampling, by batch row, in arrays of which a step takes its rows at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...kernels.sample import SampleNeeds
from ..sequence import Sequence

_FOR_EVER = np.iinfo(np.int64).max


@dataclass(slots=True, frozen=True)
class Bias:
    """Changes of logits for a step's samples: see `kernels.sample.SamplingTable`."""

    ids: NDArray[np.int32]
    values: NDArray[np.float32]
    until: NDArray[np.int64]


class RowParams:
    """Sampling parameters by batch row; a row that is nobody's is greedy and asks for nothing.

    Attributes:
        columns: one array [rows] a parameter, by the names of `SamplingTable`.
        eos_token_ids: held back before `min_tokens`.
        penalised: bool [rows], whether the row's known tokens change its logits.
    """

    def __init__(self, rows: int, eos_token_ids: frozenset[int]) -> None:
        self.eos_token_ids = eos_token_ids
        self.columns: dict[str, NDArray[np.generic]] = {
            "temperature": np.zeros(rows, np.float32),
            "top_p": np.ones(rows, np.float32),
            "min_p": np.zeros(rows, np.float32),
            "presence": np.zeros(rows, np.float32),
            "frequency": np.zeros(rows, np.float32),
            "repetition": np.ones(rows, np.float32),
            "top_k": np.zeros(rows, np.int32),
            "logprobs": np.full(rows, -1, np.int32),
            "seeds": np.zeros(rows, np.int64),
            "prompt_lengths": np.zeros(rows, np.int64),
        }
        self.penalised = np.zeros(rows, np.bool_)
        self._truncated = np.zeros(rows, np.bool_)
        self._biased = np.zeros(rows, np.bool_)
        self._bias = Bias(*_no_bias(rows, 4))

    def set_row(self, sequence: Sequence) -> None:
        """Take over the parameters (`parameters.computable`) of the sequence that a row now belongs to."""
        row, params, columns = sequence.row, sequence.request.params, self.columns
        columns["temperature"][row] = params.temperature
        columns["top_p"][row] = params.top_p
        columns["min_p"][row] = params.min_p
        columns["presence"][row] = params.presence_penalty
        columns["frequency"][row] = params.frequency_penalty
        columns["repetition"][row] = params.repetition_penalty
        columns["top_k"][row] = params.top_k
        columns["logprobs"][row] = -1 if params.logprobs is None else params.logprobs
        columns["seeds"][row] = params.seed
        columns["prompt_lengths"][row] = len(sequence.request.prompt_ids)
        self.penalised[row] = (
            params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1
        )
        self._truncated[row] = params.temperature > 0 and (
            params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        )
        self._set_bias(sequence)

    def _set_bias(self, sequence: Sequence) -> None:
        """A minimum length forbids the tokens that would end the sequence before it."""
        row, params = sequence.row, sequence.request.params
        ends: set[int] = set()
        if params.min_tokens:
            ends = {*params.stop_token_ids, *(() if params.ignore_eos else self.eos_token_ids)}
        count = len(params.logit_bias) + len(ends)
        if self._biased[row]:
            self._bias.ids[row] = -1
        self._biased[row] = count > 0
        if not count:
            return
        if count > self._bias.ids.shape[1]:
            self._widen(count)
        self._bias.ids[row, :count] = [*params.logit_bias, *ends]
        self._bias.values[row, :count] = [*params.logit_bias.values(), *(-np.inf for _ in ends)]
        self._bias.until[row, : len(params.logit_bias)] = _FOR_EVER
        self._bias.until[row, len(params.logit_bias) : count] = (
            len(sequence.request.prompt_ids) + params.min_tokens
        )

    def _widen(self, count: int) -> None:
        rows, width = self._bias.ids.shape
        wider = Bias(*_no_bias(rows, 1 << (count - 1).bit_length()))
        wider.ids[:, :width], wider.values[:, :width] = self._bias.ids, self._bias.values
        wider.until[:, :width] = self._bias.until
        self._bias = wider

    def needs(self, rows: NDArray[np.int64]) -> SampleNeeds:
        """Which work the samples of these rows are."""
        logprobs = int(self.columns["logprobs"][rows].max(initial=-1))
        return SampleNeeds(
            penalties=bool(self.penalised[rows].any()),
            bias=bool(self._biased[rows].any()),
            truncation=bool(self._truncated[rows].any()),
            logprobs=None if logprobs < 0 else logprobs,
        )

    def bias(self, rows: NDArray[np.int64]) -> Bias:
        """The changes of logits that these rows ask for."""
        return Bias(self._bias.ids[rows], self._bias.values[rows], self._bias.until[rows])


def _no_bias(rows: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    return (
        np.full((rows, width), -1, np.int32),
        np.zeros((rows, width), np.float32),
        np.zeros((rows, width), np.int64),
    )
