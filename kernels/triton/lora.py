"""Low-rank additions to the rows of many adapters: two launches a map, however many adapters there are.

Rows are taken adapter by adapter, in tiles of up to 16 rows of one adapter. A tile finds its adapter's
weights by their addresses, in a table that the step uploads once for all maps. A row's sums run in the same
order whatever other rows there are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dot import dot

# As kernels.lora says, which chooses this path and so can't be imported here.
ROWS, PARTS = 16, 3
FIELDS = 2 + 5 * PARTS

INNER = PARTS * 64
_DOWN, _OUTPUTS, _STEP = 64, 64, 64


def add_lora(x: Tensor, y: Tensor, rows: Tensor, tiles: Tensor, table: Tensor) -> None:
    """Add to y [T, out] what the adapters add for x [T, in]; x is contiguous, and y's rows are.

    Args:
        x: the map's input.
        y: its output, of the same dtype.
        rows: int64 [N], the rows that have an adapter, adapter by adapter.
        tiles: int32 [tiles, 3]: each tile's adapter, its first place in `rows`, and the place after its last.
        table: int64 [adapters, FIELDS], a map of each adapter, see `kernels.lora.FIELDS`.
    """
    inner = torch.empty(len(rows), INNER, dtype=torch.float32, device=x.device)
    count = len(tiles)
    _lora_down_kernel[(count, triton.cdiv(INNER, _DOWN))](
        x,
        rows,
        tiles,
        table,
        inner,
        x.shape[1],
        FIELDS=FIELDS,
        INNER=INNER,
        ROWS=ROWS,
        COLUMNS=_DOWN,
        STEP=_STEP,
    )
    _lora_up_kernel[(count, triton.cdiv(y.shape[1], _OUTPUTS))](
        inner,
        rows,
        tiles,
        table,
        y,
        y.shape[1],
        FIELDS=FIELDS,
        INNER=INNER,
        PARTS=PARTS,
        ROWS=ROWS,
        COLUMNS=_OUTPUTS,
    )


@triton.jit(do_not_specialize_on_alignment=["x"])
def _lora_down_kernel(
    x,
    rows,
    tiles,
    table,
    inner,
    inputs,
    FIELDS: tl.constexpr,
    INNER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    tile = tiles + tl.program_id(0) * 3
    fields = table + tl.load(tile) * FIELDS
    place = tl.load(tile + 1) + tl.arange(0, ROWS)
    held = place < tl.load(tile + 2)
    width = tl.load(fields + 1)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if tl.program_id(1) * COLUMNS < width:
        weight = tl.load(fields).to(tl.pointer_type(x.dtype.element_ty))
        row = tl.load(rows + place, mask=held, other=0)
        acc = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, inputs, STEP):
            k = start + tl.arange(0, STEP)
            a = tl.load(
                x + row[:, None] * inputs + k[None, :], mask=held[:, None] & (k < inputs)[None, :], other=0.0
            )
            b = tl.load(
                weight + column[None, :] * inputs + k[:, None],
                mask=(column < width)[None, :] & (k < inputs)[:, None],
                other=0.0,
            )
            acc = dot(a, b, acc)
        at = place.to(tl.int64)[:, None] * INNER + column[None, :]
        tl.store(inner + at, acc, mask=held[:, None] & (column < width)[None, :])


@triton.jit(do_not_specialize_on_alignment=["y"])
def _lora_up_kernel(
    inner,
    rows,
    tiles,
    table,
    y,
    outputs,
    FIELDS: tl.constexpr,
    INNER: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    tile = tiles + tl.program_id(0) * 3
    fields = table + tl.load(tile) * FIELDS
    place = tl.load(tile + 1) + tl.arange(0, ROWS)
    held = place < tl.load(tile + 2)
    row = tl.load(rows + place, mask=held, other=0)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    rank = tl.arange(0, 64)
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    covered = column < 0
    for part in tl.static_range(PARTS):
        mine = fields + 2 + 5 * part
        ranks, output, width = tl.load(mine + 2), tl.load(mine + 3), tl.load(mine + 4)
        if (first + COLUMNS > output) & (first < output + width):
            inside = (column >= output) & (column < output + width)
            weight = tl.load(mine).to(tl.pointer_type(y.dtype.element_ty))
            at = place.to(tl.int64)[:, None] * INNER + (tl.load(mine + 1) + rank)[None, :]
            a = tl.load(inner + at, mask=held[:, None] & (rank < ranks)[None, :], other=0.0)
            b = tl.load(
                weight + (column - output)[None, :] * ranks + rank[:, None],
                mask=inside[None, :] & (rank < ranks)[:, None],
                other=0.0,
            )
            acc = dot(a.to(y.dtype.element_ty), b, acc)
            covered = covered | inside
    at = row[:, None] * outputs + column[None, :]
    known = held[:, None] & covered[None, :]
    before = tl.load(y + at, mask=known, other=0.0).to(tl.float32)
    tl.store(y + at, (before + acc).to(y.dtype.element_ty), mask=known)
