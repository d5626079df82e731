"""How planned steps become tokens: they are launched, then read when they have ended.

A device that computes on the host's own cores gains nothing from planning ahead: `PlainLauncher` computes a
step to its end in `launch`. `overlapped.step` launches the next step before the last one is read.
"""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.sample import sample
from ..kernels.score import score
from .adapters.step import adapters_of
from .batch import Batch
from .config import EngineConfig
from .pooling import PooledChunk, PooledRows
from .request import TokenLogprobs
from .sampling.bad_words import forbid
from .sampling.rows import RowParams
from .sampling.sampled import Sampled, sampled
from .sampling.scored import Scoring, scoring_of
from .scheduler import ScheduledSequence
from .sequence import Sequence
from .step_input import Executor


class Flight(Protocol):
    """A launched step.

    Attributes:
        sequences: the sequences that get a token, in order.
        tokens: number of tokens that the step computes.
        pooled: the chunks whose hidden states are summed, in order.
    """

    sequences: list[Sequence]
    tokens: int
    pooled: list[PooledChunk]

    def draw(self) -> None:
        """Choose those tokens whose constraints had to be told the tokens of the step before."""

    def read(self) -> Sampled:
        """Wait for the new tokens of `sequences` and the sums of `pooled`."""


class StepLauncher(Protocol):
    """Launches steps.

    Attributes:
        overlapped: whether a step is launched before the last one is read (but never before the last but one
            is).
        device_s: seconds that the host has spent computing the model, or waiting for the device that does.
    """

    overlapped: bool
    device_s: float

    def launch(self, plan: list[ScheduledSequence]) -> Flight:
        """Start a planned step. If it raises, the sequences are unchanged."""

    def end_at(self, eos_token_ids: frozenset[int]) -> None:
        """Hold these tokens back before `min_tokens`, instead of those it was made with."""

    def probe(self) -> None:
        """Compute a token that belongs to no sequence, while no step is in flight."""


@dataclass(slots=True)
class _Done:
    sequences: list[Sequence]
    tokens: int
    pooled: list[PooledChunk]
    sampled: Sampled

    def draw(self) -> None:
        """Nothing is left to choose."""

    def read(self) -> Sampled:
        return self.sampled


class PlainLauncher:
    """Steps that are computed when they are launched."""

    overlapped = False

    def __init__(
        self, executor: Executor, config: EngineConfig, capacity_tokens: int, eos_token_ids: frozenset[int]
    ) -> None:
        self._executor, rows = executor, config.max_batch_size
        self._batch = Batch(rows, capacity_tokens, config.page_size, executor.device)
        self._params = RowParams(rows, executor.model_info.vocab_size, eos_token_ids)
        self.device_s = 0.0

    def launch(self, plan: list[ScheduledSequence]) -> Flight:
        """Compute a planned step. If it raises, the sequences are unchanged."""
        for scheduled in plan:
            self._batch.sync(scheduled.sequence, self._params.set_row)
        scoring = scoring_of(plan)
        step, sampling = self._batch.step_input(plan, None if scoring is None else scoring.places)
        if pooled := PooledRows.of(plan):
            step.pooled = torch.from_numpy(pooled.rows).to(self._executor.device)
        step.adapters = adapters_of(plan, self._executor.device)
        rows = np.fromiter((scheduled.sequence.row for scheduled in sampling), np.int64, len(sampling))
        self._params.follow(rows)
        started = time.perf_counter()
        logits = self._executor.execute(step)
        made = Sampled(np.zeros(0, np.int64), None)
        scores = self._score(logits[len(sampling) :], scoring) if scoring is not None else []
        if sampling:
            made = self._sample(logits[: len(sampling)], rows)
            self._batch.append(rows, made.token_ids.clip(min=0))
        if pooled:
            assert step.hidden is not None
            made.pooled = pooled.sums(step.hidden).cpu().numpy()
        made.scores = scores
        self.device_s += time.perf_counter() - started
        chunks = pooled.chunks if pooled else []
        return _Done([scheduled.sequence for scheduled in sampling], len(step.token_ids), chunks, made)

    @torch.inference_mode()
    def _sample(self, logits: Tensor, rows: NDArray[np.int64]) -> Sampled:
        """The next token of each of `rows`, from float32 logits [S, V], which are overwritten."""
        needs, lengths = self._params.needs(rows), self._batch.lengths[rows]
        tokens = self._batch.tokens[rows, : int(lengths.max()) if needs.penalties else 0]
        table = self._params.table(rows, needs, tokens, lengths, logits.device)
        if (words := self._params.bad_words.of(rows)) is not None:
            known, mine = torch.from_numpy(self._batch.tokens), torch.from_numpy(rows)
            ends, beginnings = map(torch.from_numpy, words)
            table = forbid(table, ends, beginnings, known, mine)
        made = sample(logits, torch.arange(len(rows), device=logits.device), table, needs)
        parts = (made.tokens, made.logprobs, made.top_ids, made.top_logprobs)
        return sampled(self._params.wanted(rows), *(part.cpu().numpy() for part in parts if part is not None))

    @torch.inference_mode()
    def _score(self, logits: Tensor, scoring: Scoring) -> list[tuple[Sequence, list[TokenLogprobs]]]:
        """The log-probabilities of the prompts' next tokens, from float32 logits [R, V]."""
        there = logits.device
        tokens, wanted = (
            torch.from_numpy(scoring.tokens).to(there),
            torch.from_numpy(scoring.wanted).to(there),
        )
        made = score(logits, tokens, wanted, int(scoring.wanted.max()))
        parts = (made.logprobs, made.top_ids, made.top_logprobs)
        return scoring.split(*(part.cpu().numpy() for part in parts if part is not None))

    def end_at(self, eos_token_ids: frozenset[int]) -> None:
        """Hold these tokens back before `min_tokens`, instead of those it was made with."""
        self._params.eos_token_ids = eos_token_ids

    def probe(self) -> None:
        """Compute a token on the null page, which belongs to no sequence."""
        self._executor.execute(self._batch.nobodys_step())
