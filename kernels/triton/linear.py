"""Batch-invariant products on the GPU: one tile for any number of rows, and K never divided.

A result is the sum over K in the order of the tile's loop. Its row's place in the tile and the other rows
don't enter it, so it has the same bits in every batch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dot import dot
from .tuning import LaunchConfig, launch_of

# Of a row's inputs, loaded at once: a line of the GPU's cache, 64 elements of bfloat16.
_INNER_BYTES = 128


def invariant_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, launch: LaunchConfig | None = None
) -> Tensor:
    """See `kernels.invariant_linear`: x [M, in] times weight [out, in], all contiguous and of one dtype.

    `launch` is the tile, by default that of the element's size; the same one must be used for all rows.
    """
    rows, inputs = x.shape
    outputs = len(weight)
    y = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    if not rows:
        return y
    launch = launch or launch_of("linear", x.element_size(), x.device)
    _invariant_kernel[(triton.cdiv(outputs, launch.columns), triton.cdiv(rows, launch.rows))](
        x,
        weight,
        bias,
        y,
        rows,
        outputs,
        inputs,
        ROWS=launch.rows,
        COLUMNS=launch.columns,
        INNER=_INNER_BYTES // x.element_size(),
        num_warps=launch.warps,
        num_stages=launch.stages,
        enable_fp_fusion=True,
    )
    return y


# Not specialised by the number of rows: a kernel compiled for one row could sum otherwise.
@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["x"])
def _invariant_kernel(
    x,
    weight,
    bias,
    y,
    rows,
    outputs,
    inputs,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inner = tl.arange(0, INNER)
    held, inside = row < rows, column < outputs
    x_row = x + row.to(tl.int64)[:, None] * inputs
    w_column = weight + column.to(tl.int64)[None, :] * inputs
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, inputs, INNER):
        k = start + inner
        a = tl.load(x_row + k[None, :], mask=held[:, None] & (k < inputs)[None, :], other=0.0)
        b = tl.load(w_column + k[:, None], mask=inside[None, :] & (k < inputs)[:, None], other=0.0)
        acc = dot(a, b, acc)
    if bias is not None:
        acc += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    at = row.to(tl.int64)[:, None] * outputs + column[None, :]
    tl.store(y + at, acc.to(y.dtype.element_ty), mask=held[:, None] & inside[None, :])
