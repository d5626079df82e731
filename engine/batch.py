"""The batch's state by row, updated as sequences come, go and grow, and never rebuilt.

A row belongs to one running sequence. What a step needs of all rows at once is kept in arrays, so a decode
step is a handful of vectorised operations however many sequences it has.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .scheduler import ScheduledSequence
from .sequence import Sequence
from .step_input import StepInput


class Batch:
    """Rows of running sequences.

    Attributes:
        tokens: int64 [rows, max_tokens], known tokens.
        lengths: int64 [rows], how many are known.
        prompt_lengths: int64 [rows].
        block_tables: int32 [rows, pages], page ids.
    """

    def __init__(self, rows: int, max_tokens: int, page_size: int, device: torch.device) -> None:
        self._page_size, self._device = page_size, device
        self.tokens: NDArray[np.int64] = np.zeros((rows, max_tokens + 1), np.int64)
        self.lengths: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.prompt_lengths: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.block_tables: NDArray[np.int32] = np.zeros((rows, -(-max_tokens // page_size)), np.int32)
        self._pages = np.zeros(rows, np.int64)

    def sync(self, sequence: Sequence, begin: Callable[[Sequence], None]) -> None:
        """Bring a sequence's row up to date.

        `begin` does the rest when the row is newly the sequence's. If it raises, the row doesn't belong to
        the sequence yet, and everything is done again at the next try.
        """
        row = sequence.row
        if not sequence.has_row:
            self.tokens[row, : len(sequence.tokens)] = sequence.tokens
            self.lengths[row] = len(sequence.tokens)
            self.prompt_lengths[row] = len(sequence.request.prompt_ids)
            self._pages[row] = 0
            self._write_pages(sequence)
            begin(sequence)
            sequence.has_row = True
        elif self._pages[row] < len(sequence.pages):
            self._write_pages(sequence)

    def _write_pages(self, sequence: Sequence) -> None:
        known, now = int(self._pages[sequence.row]), len(sequence.pages)
        # Only new pages: a sequence's block table is append-only while it has its row.
        self.block_tables[sequence.row, known:now] = [page.id for page in sequence.pages[known:]]
        self._pages[sequence.row] = now

    def append(self, rows: NDArray[np.int64], token_ids: NDArray[np.int64]) -> None:
        """Append one new token to each of `rows`."""
        self.tokens[rows, self.lengths[rows]] = token_ids
        self.lengths[rows] += 1

    def step_input(
        self, plan: list[ScheduledSequence], scored: NDArray[np.int64] | None = None
    ) -> tuple[StepInput, list[ScheduledSequence]]:
        """Return the arrays for a plan (decodes first), and its chunks that get a new token, in order.

        An example, with pages of 4: A (row 0, pages 7 and 5) decodes its token at position 6; B (row 2, pages
        9 and 3) has 5 prompt tokens, of which this step computes the last 2. Then

            query_starts 0 1 3      positions 6 3 4      slots 22 39 12     (5·4 + 2, 9·4 + 3, 3·4 + 0)
            context_lens 7 5        block_tables 7 5 / 9 3                  sampled 0 2

        The logits of the query rows `scored` follow those of the chunks that get a token.
        """
        counts = np.fromiter((scheduled.count for scheduled in plan), np.int64, len(plan))
        rows = np.fromiter((scheduled.sequence.row for scheduled in plan), np.int64, len(plan))
        starts = np.fromiter((scheduled.sequence.computed for scheduled in plan), np.int64, len(plan))
        query_starts = np.zeros(len(plan) + 1, np.int32)
        np.cumsum(counts, out=query_starts[1:])
        # A token each: nothing has to be repeated.
        if counts.max() == 1:
            query_rows, positions = rows, starts
        else:
            query_rows = np.repeat(rows, counts)
            # 0, 1, 2 … within each sequence: the position in the step less where the sequence begins in it.
            offsets = np.arange(query_starts[-1]) - np.repeat(query_starts[:-1], counts)
            positions = np.repeat(starts, counts) + offsets
        token_ids = self.tokens[query_rows, positions]
        pages = self.block_tables[query_rows, positions // self._page_size].astype(np.int64)
        slots = pages * self._page_size + positions % self._page_size
        context_lens = (starts + counts).astype(np.int32)
        # Columns past the longest context would only be copied.
        widest = -(-int(context_lens.max()) // self._page_size)
        sampling = [scheduled for scheduled in plan if scheduled.samples]
        ends = None
        if len(sampling) != query_starts[-1]:
            chosen = [index for index, scheduled in enumerate(plan) if scheduled.samples]
            rows_wanted = query_starts[1:][chosen].astype(np.int64) - 1
            ends = self._to_device(rows_wanted if scored is None else np.concatenate([rows_wanted, scored]))
        step = StepInput(
            token_ids=self._to_device(token_ids),
            positions=self._to_device(positions),
            slots=self._to_device(slots),
            query_starts=self._to_device(query_starts),
            context_lens=self._to_device(context_lens),
            block_tables=self._to_device(self.block_tables[rows, :widest]),
            sampled=ends,
        )
        return step, sampling

    def nobodys_step(self) -> StepInput:
        """A step of one token on the null page, which changes nothing that is ever read."""
        zero, one = np.zeros(1, np.int64), np.ones(1, np.int32)
        return StepInput(
            token_ids=self._to_device(zero),
            positions=self._to_device(zero),
            slots=self._to_device(zero),
            query_starts=self._to_device(np.array([0, 1], np.int32)),
            context_lens=self._to_device(one),
            block_tables=self._to_device(np.zeros((1, 1), np.int32)),
            sampled=None,
        )

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
