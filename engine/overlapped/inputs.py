"""A step's input, packed: it is written into one host buffer and copied to the device at once.

All arrays of a step are in one buffer, each at a multiple of 16 bytes, in a layout that depends only on the
step's shape; so a captured graph finds them where they were. Sampling's arrays come first, at offsets that
depend only on the number of samples, so that one graph samples for all widths of block tables.

The host has two buffers: while the device may still read one, the other is written. When a buffer's turn
comes again, its last copy has long been made, unless its step failed; so the copy is waited for, which
usually costs nothing.

A token that was sampled here is taken from the device's own table (`history`), since the host may not have
read it yet: the input has ~row, naming its row, in place of a token id.

Padding is a sequence like the others: row `rows` of the batch, which belongs to none. It has one known token,
the null page, and greedy sampling.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.structs import SampleNeeds
from ..batch import Batch
from ..parameters import COLUMNS
from ..sampling.rows import RowParams
from ..scheduler import ScheduledSequence
from ..step_input import StepInput
from .shapes import PaddedShapes, StepShape

Array = TypeVar("Array", NDArray[np.generic], Tensor)

# What Triton takes an address to be a multiple of when it was compiled for one: any other place would compile
# the kernel a second time. It also suits every dtype here.
_ALIGNMENT = 16


@dataclass(slots=True, frozen=True)
class Arrays(Generic[Array]):
    """A packed step's arrays, on the host or on the device; T tokens, B sequences, S samples, P pages.

    Attributes:
        rows: int64 [S], batch rows of the samples; `sampled`: int64 [S], their query rows.
        lengths: int64 [S], the positions that the new tokens will have.
        params: each of `parameters.COLUMNS`, by sample.
        token_ids: int64 [T]; ~row for a token of that row that was sampled here.
        the others: as in `SamplingTable`, by sample, and as in `StepInput`.
    """

    rows: Array
    sampled: Array
    lengths: Array
    prompt_lengths: Array
    params: dict[str, Array]
    token_ids: Array
    positions: Array
    slots: Array
    query_starts: Array
    context_lens: Array
    block_tables: Array


NAMES = (
    *("rows", "sampled", "lengths", "prompt_lengths"),
    *COLUMNS,
    *("token_ids", "positions", "slots", "query_starts", "context_lens", "block_tables"),
)
"""The names of all arrays, in the buffer's order."""

DTYPES = {"float32": torch.float32, "int32": torch.int32, "int64": torch.int64}
_INT32 = {"query_starts", "context_lens", "block_tables"}


@dataclass(slots=True, frozen=True)
class Packed:
    """A step on the device.

    Attributes:
        shape: its arrays' sizes, padding included.
        arrays: the arrays on the device.
        sampling: the chunks that get a token, in order, followed by padding.
        rows: int64 [S], the samples' rows on the host, including padding.
        needs: the work that sampling has.
        longest: the largest number of tokens that a sequence has in the cache, including this step's.
    """

    shape: StepShape
    arrays: Arrays[Tensor]
    sampling: list[ScheduledSequence]
    rows: NDArray[np.int64]
    needs: SampleNeeds
    longest: int

    def step_input(self, history: Tensor, logits: Tensor | None = None) -> StepInput:
        """The model's input; tokens sampled here are taken from `history`, int32 [rows, tokens]."""
        arrays, shape = self.arrays, self.shape
        # ~row is -1 for row 0, -2 for row 1 …: no token id is negative, so the sign tells them apart. Known
        # ids read row 0, and what they read there is not used.
        sampled_here = history[(~arrays.token_ids).clamp_(min=0), arrays.positions]
        return StepInput(
            token_ids=torch.where(arrays.token_ids < 0, sampled_here, arrays.token_ids),
            positions=arrays.positions,
            slots=arrays.slots,
            query_starts=arrays.query_starts,
            context_lens=arrays.context_lens,
            block_tables=arrays.block_tables,
            sampled=None if shape.decode else arrays.sampled,
            max_rows=1 if shape.decode else None,
            max_context=None if shape.padded else self.longest,
            logits=logits,
        )


class PackedInputs:
    """Packs plans for the device. Its batch and parameters have one more row than sequences can own."""

    def __init__(
        self,
        batch: Batch,
        params: RowParams,
        shapes: PaddedShapes,
        *,
        max_step_tokens: int,
        page_size: int,
        device: torch.device,
    ) -> None:
        self._batch, self._params, self._shapes, self._page_size = batch, params, shapes, page_size
        # Known length 1: padding's token at position 0 counts as known, and is read from the batch (a 0).
        self._null_row = len(batch.lengths) - 1
        batch.lengths[self._null_row] = 1
        room = buffer_bytes(shapes, max_step_tokens)
        pinned = device.type == "cuda"
        self._host = [torch.zeros(room, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._device = torch.zeros(room, dtype=torch.uint8, device=device)
        self._copied = [torch.cuda.Event() for _ in self._host] if pinned else []  # type: ignore[no-untyped-call]
        self._turn = 0
        self._views: dict[StepShape, _Views] = {}

    def pack(self, plan: list[ScheduledSequence]) -> Packed:
        """Write the plan (decodes first) to the device; all of its rows must be in sync."""
        count = len(plan)
        rows = np.fromiter((scheduled.sequence.row for scheduled in plan), np.int64, count)
        starts = np.fromiter((scheduled.sequence.computed for scheduled in plan), np.int64, count)
        counts = np.fromiter((scheduled.count for scheduled in plan), np.int64, count)
        sampling = [scheduled for scheduled in plan if scheduled.samples]
        # Examples, for 2 decodes and a chunk of 50: padded to 64 tokens, the padding of 12 is a fourth
        # sequence, the null row's. 5 decodes: padded to 8 sequences, three of which are the null row's, with
        # a token each.
        tokens, pages = int(counts.sum()), -(-int((starts + counts).max()) // self._page_size)
        if len(sampling) < tokens:
            places = np.array([place for place, scheduled in enumerate(plan) if scheduled.samples], np.int64)
            # Steps that pool aren't padded: pooled rows come after all that are sampled, padding's too.
            padded = self._shapes.chunks(tokens, pages) if plan[-1].sequence.generates else None
            if padded is None:
                shape = StepShape(tokens, count, len(places), pages)
                return self._write(shape, sampling, rows, starts, counts, places)
            rows, starts = _pad(rows, padded.sequences, self._null_row), _pad(starts, padded.sequences, 0)
            counts = _pad(counts, padded.sequences, 0)
            # All padding tokens are the first padding sequence's; the others have none, and thus no rows.
            counts[count] = padded.tokens - tokens
            return self._write(padded, sampling, rows, starts, counts, _pad(places, padded.samples, count))
        shape = self._shapes.decodes(count, pages)
        rows = _pad(rows, shape.sequences, self._null_row)
        starts, counts = _pad(starts, shape.sequences, 0), _pad(counts, shape.sequences, 1)
        return self._write(shape, sampling, rows, starts, counts, np.arange(shape.sequences))

    def idle(self, shape: StepShape, start: int = 0) -> Packed:
        """A step of nothing but padding, each sequence from `start` on; it changes nothing that is read."""
        rows = np.full(shape.sequences, self._null_row, np.int64)
        counts = np.full(shape.sequences, shape.tokens // shape.sequences, np.int64)
        counts[: shape.tokens % shape.sequences] += 1
        return self._write(shape, [], rows, np.full_like(rows, start), counts, np.arange(shape.samples))

    def _write(
        self,
        shape: StepShape,
        sampling: list[ScheduledSequence],
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> Packed:
        """Send sequences on `rows` with `counts` tokens from `starts` on; those at `places` get a token."""
        views, batch, size = self._views_of(shape), self._batch, self._page_size
        host = views.host[self._turn]
        if self._copied:
            self._copied[self._turn].synchronize()
        ends, contexts = counts.cumsum(), starts + counts
        if shape.decode:
            query_rows, positions = rows, starts
        else:
            query_rows = rows.repeat(counts)
            # Sequence b's query i stands at starts[b] + i, and in the step at ends[b] - counts[b] + i. The
            # difference of both is contexts[b] - ends[b].
            positions = np.arange(shape.tokens) + (contexts - ends).repeat(counts)
        # The host knows the first `lengths` tokens of a row; the one after was sampled by the step before.
        known = positions < batch.lengths[query_rows]
        host.token_ids[:] = np.where(known, batch.tokens[query_rows, positions], ~query_rows)
        host.positions[:] = positions
        pages = batch.block_tables[query_rows, positions // size].astype(np.int64)
        host.slots[:] = pages * size + positions % size
        host.query_starts[0], host.query_starts[1:] = 0, ends
        host.context_lens[:] = contexts
        longest = int(contexts.max())
        used = -(-longest // size)
        host.block_tables[:, :used] = batch.block_tables[rows, :used]

        rows = rows[places]
        host.rows[:], host.sampled[:], host.lengths[:] = rows, ends[places] - 1, contexts[places]
        # mode="clip" because with the default numpy buffers `out`, a copy more; all rows are inside anyway.
        self._params.prompt_lengths.take(rows, out=host.prompt_lengths, mode="clip")
        for name, column in self._params.columns.items():
            column.take(rows, out=host.params[name], mode="clip")
        source = self._host[self._turn][: views.size]
        self._device[: views.size].copy_(source, non_blocking=True)
        if self._copied:
            self._copied[self._turn].record()
        self._turn ^= 1
        return Packed(shape, views.device, sampling, rows, self._params.needs(rows), longest)

    def _views_of(self, shape: StepShape) -> "_Views":
        views = self._views.get(shape)
        if views is None:
            views = _Views(
                packed_bytes(shape),
                _arrays(_split(self._device, shape)),
                tuple(
                    _arrays({name: view.numpy() for name, view in _split(host, shape).items()})
                    for host in self._host
                ),
            )
            if shape.padded:  # there are as many of the others as plans
                self._views[shape] = views
        return views


@dataclass(slots=True, frozen=True)
class _Views:
    """A shape's arrays in the device's buffer and in both of the host's, and the number of bytes to copy."""

    size: int
    device: Arrays[Tensor]
    host: tuple[Arrays[NDArray[np.generic]], ...]


def buffer_bytes(shapes: PaddedShapes, max_step_tokens: int) -> int:
    """Size of a buffer that every step's input fits, in bytes."""
    rows = shapes.sizes[-1]
    return packed_bytes(StepShape(max(rows, max_step_tokens), rows + 1, rows, shapes.widths[-1]))


def packed_bytes(shape: StepShape) -> int:
    """Size of a packed step of this shape, in bytes."""
    return sum(_room(name, shape) for name in NAMES)


def _arrays(views: dict[str, Array]) -> Arrays[Array]:
    params = {name: views.pop(name) for name in COLUMNS}
    return Arrays(params=params, **views)


def _split(buffer: Tensor, shape: StepShape) -> dict[str, Tensor]:
    views, offset = {}, 0
    for name in NAMES:
        dtype, count = _dtype(name), _count(name, shape)
        views[name] = buffer[offset : offset + count * dtype.itemsize].view(dtype)
        offset += _room(name, shape)
    views["block_tables"] = views["block_tables"].view(shape.sequences, shape.pages)
    return views


def _room(name: str, shape: StepShape) -> int:
    return -(-_count(name, shape) * _dtype(name).itemsize // _ALIGNMENT) * _ALIGNMENT


def _count(name: str, shape: StepShape) -> int:
    match name:
        case "token_ids" | "positions" | "slots":
            return shape.tokens
        case "query_starts":
            return shape.sequences + 1
        case "context_lens":
            return shape.sequences
        case "block_tables":
            return shape.sequences * shape.pages
        case _:
            return shape.samples


def _dtype(name: str) -> torch.dtype:
    if name in COLUMNS:
        return DTYPES[COLUMNS[name].dtype]
    return torch.int32 if name in _INT32 else torch.int64


def _pad(values: NDArray[np.int64], count: int, value: int) -> NDArray[np.int64]:
    padded = np.full(count, value, np.int64)
    padded[: len(values)] = values
    return padded
