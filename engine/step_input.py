"""The interface between planning steps and computing them: one step as tensors on its device."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from .protocol import EngineModelInfo
from .scorer import Scorer

if TYPE_CHECKING:
    from .adapters.step import StepAdapters


@dataclass(slots=True)
class StepInput:
    """One step's input: T query tokens of B sequences, S of which get a new token.

    Attributes:
        token_ids, positions, slots: int64 [T]; a slot is page * page_size + offset.
        query_starts: int32 [B + 1].
        context_lens: int32 [B], including this step's tokens.
        block_tables: int32 [B, P].
        sampled: int64 [S], the query rows whose logits are wanted; None if they are all T in order.
        max_rows, max_context: upper bounds of any sequence's tokens in this step and in the cache; None if
            only the arrays tell.
        logits: float32 [S, vocab], where the logits should go; None if they get new memory.
        pooled: int64 [P], the query rows whose hidden states are wanted, all after the sampled ones; None if
            there are none.
        hidden: [P, hidden], where `execute` leaves their hidden states after the final norm.
        adapters: what is added to the linear maps, and for which query rows; None if no row has an adapter.
    """

    # One entry a query token, sequence after sequence.
    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    # Whose they are: sequence b has the tokens query_starts[b] to query_starts[b + 1].
    query_starts: Tensor
    context_lens: Tensor
    # Where the tokens before lie; entries past a context's pages hold anything, and are not read.
    block_tables: Tensor
    # A prompt chunk that does not end its prompt gets no token, so its logits are never computed.
    sampled: Tensor | None
    # What the host knows of the arrays above, which a kernel would have to read them for.
    max_rows: int | None = None
    max_context: int | None = None
    logits: Tensor | None = None
    pooled: Tensor | None = None
    hidden: Tensor | None = None
    adapters: "StepAdapters | None" = None


class Executor(Protocol):
    """Computes steps."""

    model_info: EngineModelInfo
    num_pages: int
    """Number of pages in the KV cache, including the null page."""
    device: torch.device
    scorer: Scorer | None
    """The head that scores; None if the model has none."""

    def execute(self, step: StepInput) -> Tensor:
        """Compute the step; return the float32 logits [S, vocab] of its sampled rows."""
