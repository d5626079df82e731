"""Pooling: one vector for a whole prompt, from the hidden states after the final norm.

A pooled request is a prompt like any other to the scheduler: it is computed in chunks, beside sequences that
generate, and only where a generating sequence would have its next token sampled it ends instead. `last` reads
one position, so it may begin with pages from the prefix cache. `mean` reads all of them: hidden states aren't
cached, so it computes its whole prompt, and sums each chunk on the device in float32. A preempted sequence
begins again at position 0, and so does its sum.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .request import Pooling

if TYPE_CHECKING:
    from .scheduler import ScheduledSequence
    from .sequence import Sequence


def vector_of(pooling: Pooling, total: NDArray[np.float32], tokens: int) -> NDArray[np.float32]:
    """The vector, float32 [dimensions], of a prompt, from the sum of its hidden states, float32 [hidden]."""
    vector = total[: pooling.dimensions]
    if pooling.type == "mean":
        vector = vector / np.float32(tokens)
    if pooling.normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return vector.astype(np.float32)


@dataclass(slots=True)
class PooledChunk:
    """A chunk of a pooled prompt in a launched step.

    Attributes:
        start: number of its tokens computed before.
        count: number of tokens that this chunk adds to the vector.
        last: whether the prompt ends with it.
    """

    sequence: "Sequence"
    start: int
    count: int
    last: bool

    def add(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the sum of the chunk's hidden states, float32 [hidden], to that of its sequence."""
        total, start = self.sequence.pooled, self.start
        self.sequence.pooled = values if total is None or start == 0 else total + values
        return self.sequence.pooled


@dataclass(slots=True)
class PooledRows:
    """Which of a step's query rows are pooled.

    Attributes:
        chunks: the chunks that they belong to, in order.
        rows: int64 [P], ascending.
    """

    chunks: list[PooledChunk]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, plan: list["ScheduledSequence"]) -> "PooledRows | None":
        """The rows of a plan that are pooled; None if there are none.

        An example: a decode, the first 3 tokens of a prompt to be pooled by its mean, and the last 2 of one
        to be pooled by its last token. The rows are 1, 2, 3 and 5, of two chunks.
        """
        if plan[-1].sequence.generates:  # pooled ones come last
            return None
        chunks: list[PooledChunk] = []
        rows: list[NDArray[np.int64]] = []
        at = 0
        for scheduled in plan:
            sequence, count = scheduled.sequence, scheduled.count
            begin, at = at, at + count
            if (pooling := sequence.request.pooling) is None:
                continue
            last = count == sequence.pending
            wanted = count if pooling.type == "mean" else int(last)
            if wanted:
                chunks.append(PooledChunk(sequence, sequence.computed, wanted, last))
                rows.append(np.arange(begin + count - wanted, at))
        return cls(chunks, np.concatenate(rows)) if chunks else None

    def sums(self, hidden: Tensor) -> Tensor:
        """The sum of each chunk's hidden states, float32 [chunks, hidden], from those of all rows."""
        values = hidden.to(torch.float32)
        if len(self.chunks) == len(self.rows):
            return values
        lengths = torch.tensor([chunk.count for chunk in self.chunks], device=hidden.device)
        # Unsafe: checking that the lengths add up would wait for the device.
        return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)
