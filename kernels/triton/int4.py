"""4-bit weights times activations, read as they are packed.

Decoding reads each weight once and multiplies it by few rows, so what counts is how few instructions turn a
nibble into a factor. A nibble is masked in place and or-ed under the exponent of 2^23: as a float that is
2^23 + q * 16^j, which one multiply-add turns into q - zero, exactly; five nibbles of a word need no shift.
Integer products are summed group by group and scaled in float32, so that no scale is ever rounded.

Few rows make few tiles, so K is split among programs until the GPU is full; a second kernel adds their parts
in order, without atomics. Above `_FUSED_ROWS`, the weight is dequantised, which costs one pass over it, and
multiplied by cuBLAS.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..int4_weight import Int4Weight
from .dot import dot
from .tuning import LaunchConfig, launch_of, multiprocessors

# Up to this many rows, reading the weight takes most of the time, and four bits are a quarter of that;
# above, the products do.
_FUSED_ROWS = 64
# Parts of K; each is written and read again, in float32.
_MAX_SPLITS = 16


def int4_linear(
    x: Tensor,
    weight: Int4Weight,
    bias: Tensor | None = None,
    splits: int | None = None,
    launch: LaunchConfig | None = None,
    *,
    deterministic: bool = False,
) -> Tensor:
    """Multiply x [M, in], which is already in the weight's permutation, and add bias [out].

    `splits` is how many parts K is split into; by default what fills the GPU. `launch` is the tile; None
    looks it up. If `deterministic`, both are the same for any number of rows, so that a row's bits don't
    depend on the others. The result, [M, out], is of x's dtype.
    """
    rows, outputs = x.shape[0], weight.out_features
    if deterministic:
        splits, launch = 1, launch or launch_of("int4_linear", _FUSED_ROWS, x.device)
    elif rows > _FUSED_ROWS:
        full = dequantize(weight, x.dtype)
        return torch.mm(x, full) if bias is None else torch.addmm(bias, x, full)
    y = x.new_empty(rows, outputs)
    if not rows:
        return y
    x = x if x.stride(1) == 1 else x.contiguous()
    launch = launch or launch_of("int4_linear", rows, x.device)
    grid = (triton.cdiv(outputs, launch.columns), triton.cdiv(rows, launch.rows))
    tiles = triton.cdiv(weight.in_features, 256)
    if splits is None:
        room = 2 * multiprocessors(x.device) // (grid[0] * grid[1])
        # The power of two below: the sum is unrolled, once for each number of splits.
        splits = 1 << (min(tiles, _MAX_SPLITS, max(1, room)).bit_length() - 1)
    share = triton.cdiv(tiles, splits)
    parts = y if splits == 1 else x.new_empty(splits, rows, outputs, dtype=torch.float32)
    _linear_kernel[(*grid, splits)](
        x,
        x.stride(0),
        weight.packed,
        weight.scales,
        weight.zeros,
        bias if splits == 1 else None,
        parts,
        rows,
        outputs,
        weight.in_features,
        share,
        weight.group_size,
        GROUP=_group(weight),
        ROWS=launch.rows,
        COLUMNS=launch.columns,
        num_warps=launch.warps,
        num_stages=launch.stages,
        enable_fp_fusion=True,
    )
    if splits > 1:
        _sum_kernel[(triton.cdiv(outputs, 256), rows)](
            parts, bias, y, rows, outputs, SPLITS=splits, BLOCK=256, enable_fp_fusion=True
        )
    return y


def dequantize(weight: Int4Weight, dtype: torch.dtype) -> Tensor:
    """The full weight, [in, out], with the inputs in the permutation's order."""
    full = torch.empty(weight.in_features, weight.out_features, dtype=dtype, device=weight.packed.device)
    grid = (triton.cdiv(weight.out_features, 64), triton.cdiv(weight.in_features, 256))
    _dequantize_kernel[grid](
        weight.packed,
        weight.scales,
        weight.zeros,
        full,
        weight.out_features,
        weight.in_features,
        weight.group_size,
        GROUP=_group(weight),
        COLUMNS=64,
        enable_fp_fusion=True,
    )
    return full


def _group(weight: Int4Weight) -> int:
    """How many successive k of a tile share a scale: 256 for groups of whole tiles, or for a single one."""
    if weight.group_size >= weight.in_features or weight.group_size % 256 == 0:
        return 256
    if weight.group_size not in {32, 64, 128}:
        raise ValueError(f"groups of {weight.group_size} inputs: the kernel knows 32, 64, 128 and -1")
    return weight.group_size


@triton.jit(do_not_specialize=["rows", "share"])
def _linear_kernel(
    x,
    x_stride,
    packed,
    scales,
    zeros,
    bias,
    out,
    rows,
    outputs,
    inputs,
    share,
    group_size,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of the product over a split's `share` of K's tiles; out is [splits, rows, outputs]."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(2)
    inside = column < outputs
    lane = tl.arange(0, 32)
    x_row = x + row.to(tl.int64)[:, None] * x_stride
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(split * share, tl.minimum((split + 1) * share, tl.cdiv(inputs, 256))):
        at = (tile * 32 + lane).to(tl.int64)[:, None] * outputs + column[None, :]
        words = tl.load(packed + at, mask=inside[None, :], other=0)
        part = tl.zeros((ROWS, COLUMNS), tl.float32)
        zero = tl.zeros((COLUMNS,), tl.float32)
        scale = tl.zeros((COLUMNS,), tl.float32)
        for place in tl.static_range(8):
            first = tile * 256 + place * 32
            if (place * 32) % GROUP == 0:
                zero, scale = _group_of(scales, zeros, first, inputs, group_size, outputs, column)
                part = tl.zeros((ROWS, COLUMNS), tl.float32)
            k = first + lane
            taken = (row < rows)[:, None] & (k < inputs)[None, :]
            factor = tl.load(x_row + k[None, :], mask=taken, other=0.0)
            q = _centred(words, place, zero).to(factor.dtype)
            part = dot(factor, q, part)
            if (place * 32 + 32) % GROUP == 0:
                total += part * scale[None, :]
    if bias is not None:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    at = (split * rows + row).to(tl.int64)[:, None] * outputs + column[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["rows"])
def _sum_kernel(parts, bias, out, rows, outputs, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1).to(tl.int64)
    inside = column < outputs
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + (split * rows + row) * outputs + column, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * outputs + column, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _dequantize_kernel(
    packed,
    scales,
    zeros,
    out,
    outputs,
    inputs,
    group_size,
    GROUP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    tile = tl.program_id(1)
    inside = column < outputs
    lane = tl.arange(0, 32)
    at = (tile * 32 + lane).to(tl.int64)[:, None] * outputs + column[None, :]
    words = tl.load(packed + at, mask=inside[None, :], other=0)
    zero = tl.zeros((COLUMNS,), tl.float32)
    scale = tl.zeros((COLUMNS,), tl.float32)
    for place in tl.static_range(8):
        first = tile * 256 + place * 32
        if (place * 32) % GROUP == 0:
            zero, scale = _group_of(scales, zeros, first, inputs, group_size, outputs, column)
        k = first + lane
        w = _centred(words, place, zero) * scale[None, :]
        at = k.to(tl.int64)[:, None] * outputs + column[None, :]
        tl.store(out + at, w.to(out.dtype.element_ty), mask=(k < inputs)[:, None] & inside[None, :])


@triton.jit
def _group_of(scales, zeros, first, inputs, group_size, outputs, column):
    """Zero and scale of the group of input `first`; past the last input, where all factors are 0, any."""
    at = (tl.minimum(first, inputs - 1) // group_size).to(tl.int64) * outputs + column
    inside = column < outputs
    zero = tl.load(zeros + at, mask=inside, other=0).to(tl.float32)
    return zero, tl.load(scales + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _centred(words, place: tl.constexpr, zero):
    """Q - zero of the nibbles in a place, exactly, in float32."""
    # The bits of 2^23 leave a mantissa of 23 bits: five nibbles are 20. The upper three are moved down.
    inner: tl.constexpr = place if place < 5 else place - 5
    unit: tl.constexpr = 1 << (4 * inner)
    words = words if place < 5 else words >> 20
    # 0x4B000000 is 2^23 as a float, where the last bit of the mantissa is worth 1.
    raised = ((words & (15 * unit)) | 0x4B000000).to(tl.float32, bitcast=True)
    return raised * (1.0 / unit) - (8388608.0 / unit + zero)[None, :]
