"""The seam between what plans steps and what computes them: one step as tensors on its device."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .protocol import EngineModelInfo


@dataclass(slots=True)
class StepInput:
    """One step's input: T query tokens of B sequences, S of which get a new token.

    Attributes:
        token_ids, positions, slots: int64 [T]; a slot is page * page_size + offset.
        query_starts: int32 [B + 1].
        context_lens: int32 [B], this step's tokens included.
        block_tables: int32 [B, P].
        sampled: int64 [S], the query rows whose logits are wanted; None when they are all T in order.
        max_rows, max_context: no sequence has more tokens in this step, or in the cache; None where the
            arrays alone say so.
        logits: float32 [S, vocab], where the logits should go; None where they get memory of their own.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    query_starts: Tensor
    context_lens: Tensor
    block_tables: Tensor
    sampled: Tensor | None
    max_rows: int | None = None
    max_context: int | None = None
    logits: Tensor | None = None


class Executor(Protocol):
    """Computes steps."""

    model_info: EngineModelInfo
    num_pages: int
    """Pages of the KV cache, the null page included."""
    device: torch.device

    def execute(self, step: StepInput) -> Tensor:
        """Compute the step; float32 logits [S, vocab] of its sampled rows."""
