"""From logits to tokens: one batched pass, in which each kind of request pays for itself alone.

Order, as in vLLM and transformers: penalties, bias, minimum length; temperature; top-k, top-p, min-p; then
Gumbel-max with noise that is a function of (seed, position, token id). Every operation works on each row by
itself, so a row's token does not depend on its neighbours. Log-probabilities are those of the plain logits.

A row whose logits hold NaN or +infinity, or nothing above -infinity, gets -1. No pass looks for that: NaN and
+infinity survive every step of the way and are met where the largest logit is searched.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.sampling import argmax, gumbel_argmax
from ..batch import Batch
from ..request import LEAST_LOGPROB, TokenLogprobs
from ..sequence import Sequence


@dataclass(slots=True)
class Sampled:
    """New tokens, int64 [S], and the log-probabilities of the rows that asked (else None), in order.

    A token of -1 stands for none: there was nothing to choose from.
    """

    token_ids: NDArray[np.int64]
    logprobs: list[TokenLogprobs | None] | None


class Sampler:
    """Sampling parameters by batch row, and the pass over a step's logits.

    Attributes:
        eos_token_ids: held back before `min_tokens`.
    """

    def __init__(self, rows: int, eos_token_ids: frozenset[int], device: torch.device) -> None:
        self._device = device
        self.eos_token_ids = eos_token_ids
        self._temperature = np.ones(rows, np.float32)
        self._top_k = np.zeros(rows, np.int64)
        self._top_p = np.ones(rows, np.float32)
        self._min_p = np.zeros(rows, np.float32)
        self._presence = np.zeros(rows, np.float32)
        self._frequency = np.zeros(rows, np.float32)
        self._repetition = np.ones(rows, np.float32)
        self._seed = np.zeros(rows, np.int64)
        self._logprobs = np.full(rows, -1, np.int64)
        self._min_length = np.zeros(rows, np.int64)
        self._adjusted = np.zeros(rows, np.bool_)
        self._bias: list[tuple[Tensor, Tensor] | None] = [None] * rows
        self._ends: list[Tensor | None] = [None] * rows

    def set_row(self, sequence: Sequence) -> None:
        """Take over the parameters (`parameters.computable`) of the sequence that a row now belongs to."""
        row, params = sequence.row, sequence.request.params
        self._temperature[row] = params.temperature
        self._top_k[row] = params.top_k
        self._top_p[row] = params.top_p
        self._min_p[row] = params.min_p
        self._presence[row] = params.presence_penalty
        self._frequency[row] = params.frequency_penalty
        self._repetition[row] = params.repetition_penalty
        self._seed[row] = params.seed
        self._logprobs[row] = -1 if params.logprobs is None else params.logprobs
        self._min_length[row] = len(sequence.request.prompt_ids) + params.min_tokens
        self._bias[row] = self._ends[row] = None
        if params.logit_bias:
            ids = torch.tensor(list(params.logit_bias), device=self._device)
            values = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=self._device)
            self._bias[row] = ids, values
        self._adjusted[row] = bool(params.logit_bias or params.min_tokens)
        if params.min_tokens:
            ends = {*params.stop_token_ids, *(() if params.ignore_eos else self.eos_token_ids)}
            self._ends[row] = torch.tensor(sorted(ends), dtype=torch.int64, device=self._device)

    @torch.inference_mode()
    def sample(self, logits: Tensor, rows: NDArray[np.int64], batch: Batch) -> Sampled:
        """The next token of each of `rows`, from float32 logits [S, V] (which are used up)."""
        wanted = self._logprobs[rows]
        plain = logits.clone() if (wanted >= 0).any() else None
        self._penalise(logits, rows, batch)
        self._adjust(logits, rows, batch)
        token_ids = argmax(logits)
        noisy = np.flatnonzero(self._temperature[rows] > 0)
        if noisy.size:
            chosen = self._draw(logits[self._index(noisy)], rows[noisy], batch)
            token_ids[self._index(noisy)] = chosen
        drawn = token_ids.cpu().numpy()
        logprobs = None if plain is None else _logprobs(plain, token_ids, np.where(drawn < 0, -1, wanted))
        return Sampled(drawn, logprobs)

    def _index(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _column(self, values: NDArray[np.generic], rows: NDArray[np.int64]) -> Tensor:
        return self._index(values[rows]).unsqueeze(1)

    def _penalise(self, logits: Tensor, rows: NDArray[np.int64], batch: Batch) -> None:
        active = (self._presence[rows] != 0) | (self._frequency[rows] != 0) | (self._repetition[rows] != 1)
        picked = np.flatnonzero(active)
        if not picked.size:
            return
        rows, index = rows[picked], self._index(picked)
        lengths = batch.lengths[rows]
        history = self._index(batch.tokens[rows, : int(lengths.max())])
        places = torch.arange(history.shape[1], device=self._device)
        known = places < self._column(batch.lengths, rows)
        output = known & (places >= self._column(batch.prompt_lengths, rows))
        mine = logits[index]
        seen = torch.zeros_like(mine).scatter_add_(1, history, known.float()) > 0
        counts = torch.zeros_like(mine).scatter_add_(1, history, output.float())
        repetition = self._column(self._repetition, rows)
        scaled = torch.where(mine > 0, mine / repetition, mine * repetition)
        mine = torch.where(seen, scaled, mine)
        mine -= counts * self._column(self._frequency, rows)
        mine -= (counts > 0) * self._column(self._presence, rows)
        logits[index] = mine

    def _adjust(self, logits: Tensor, rows: NDArray[np.int64], batch: Batch) -> None:
        """Bias and minimum length touch a few tokens of the few rows that have them."""
        for place in np.flatnonzero(self._adjusted[rows]):
            row = rows[place]
            if (bias := self._bias[row]) is not None:
                logits[place, bias[0]] += bias[1]
            if (ends := self._ends[row]) is not None and batch.lengths[row] < self._min_length[row]:
                logits[place, ends] += float("-inf")  # so that NaN stays what it is

    def _draw(self, logits: Tensor, rows: NDArray[np.int64], batch: Batch) -> Tensor:
        logits = logits / self._column(self._temperature, rows)
        self._truncate(logits, rows)
        return gumbel_argmax(logits, self._index(self._seed[rows]), self._index(batch.lengths[rows]))

    def _truncate(self, logits: Tensor, rows: NDArray[np.int64]) -> None:
        """Mask what top-k, top-p and min-p leave out."""
        picked = np.flatnonzero(self._top_k[rows] > 0)
        if picked.size:
            index, ks = self._index(picked), self._top_k[rows[picked]]
            mine = logits[index]
            best = mine.topk(int(ks.max())).values
            least = best.gather(1, self._index(ks - 1).unsqueeze(1))
            logits[index] = mine.masked_fill(mine < least, float("-inf"))
        picked = np.flatnonzero(self._top_p[rows] < 1)
        if picked.size:
            index = self._index(picked)
            logits[index] = _keep_top_p(logits[index], self._column(self._top_p, rows[picked]))
        picked = np.flatnonzero(self._min_p[rows] > 0)
        if picked.size:
            index = self._index(picked)
            mine = logits[index]
            floor = mine.amax(1, keepdim=True) + self._column(self._min_p, rows[picked]).log()
            logits[index] = mine.masked_fill(mine < floor, float("-inf"))


_NUCLEUS = 512
"""The nucleus is looked for among this many most likely tokens before the whole vocabulary is sorted."""


def _keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Mask all but the smallest set of most likely tokens whose probability reaches top_p, row by row.

    Of tokens equally likely as the last one kept, those of the highest ids stay: so it is in transformers and
    vLLM, as far as their sorts keep the order of equals.
    """
    top, vocab = logits.amax(1, keepdim=True), logits.shape[1]
    target = top_p * (logits - top).exp_().sum(1, keepdim=True)
    for size in (min(_NUCLEUS, vocab), vocab):
        best = logits.topk(size).values
        reached = (best - top).exp_().cumsum(1)
        kept = 1 + (reached[:, :-1] < target).sum(1, keepdim=True)
        if size == vocab or not bool((kept == size).any()):
            break
    least = best.gather(1, kept - 1)
    following = best.gather(1, kept.clamp(max=size - 1))
    for row in torch.nonzero((kept < size) & (following == least))[:, 0].tolist():
        tied = torch.nonzero(logits[row] == least[row])[:, 0]
        spare = int((logits[row] >= least[row]).sum() - kept[row])
        logits[row, tied[:spare]] = float("-inf")
    return logits.masked_fill(logits < least, float("-inf"))


def _logprobs(logits: Tensor, token_ids: Tensor, wanted: NDArray[np.int64]) -> list[TokenLogprobs | None]:
    picked = np.flatnonzero(wanted >= 0)
    index = torch.from_numpy(picked).to(logits.device)
    logprobs = logits[index].log_softmax(-1).clamp_(min=LEAST_LOGPROB)
    chosen = token_ids[index]
    own = logprobs.gather(1, chosen.unsqueeze(1)).squeeze(1).tolist()
    best = logprobs.topk(max(1, int(wanted.max())))
    values, ids = best.values.tolist(), best.indices.tolist()
    entries: list[TokenLogprobs | None] = [None] * len(wanted)
    for at, place in enumerate(picked):
        count = int(wanted[place])
        top = list(zip(ids[at][:count], values[at][:count], strict=True))
        entries[place] = TokenLogprobs(int(chosen[at]), own[at], top)
    return entries
