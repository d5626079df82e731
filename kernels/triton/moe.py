"""Mixtures of experts on the GPU: routing, and products in which each tile of rows has its own weight.

Pairs (token, expert) are put in order of their expert, each expert's rounded up to whole tiles, so that a
tile of a product has one expert. Only the device knows how many tiles this makes, so the grid has as many as
there can be, and those past the end return at once. Nothing waits for the host. Each expert's program counts
all pairs, finds where its own begin, and keeps their order, so the result is the same in every run.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activation import silu_and_mul
from .dot import dot
from .tuning import LaunchConfig, launch_of

_PAIR_BLOCK = 1024
# Of a row's inputs, loaded at once: a line of the GPU's cache, 64 elements of bfloat16.
_INNER_BYTES = 128
# The mean number of rows an expert that the deterministic tile is made for: larger ones waste decodes.
_INVARIANT_ROWS = 32


@dataclass(slots=True, frozen=True)
class TilePlan:
    """Which pairs each tile of rows has.

    Attributes:
        order: int32 [tiles * rows], pairs by tile; the number of pairs where a tile is not full. Only tiles
            that have an expert are written.
        experts: int32 [tiles], a tile's expert; -1 past the last tile that is used.
        launch: the tile and how it is run.
    """

    order: Tensor
    experts: Tensor
    launch: LaunchConfig


def route(logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    """See `kernels.moe.route`."""
    tokens, experts = logits.shape
    logits = logits.contiguous()
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    ids = torch.empty(tokens, top_k, dtype=torch.int32, device=logits.device)
    if tokens:
        _route_kernel[(tokens,)](
            logits,
            weights,
            ids,
            experts,
            top_k,
            RENORMALIZE=renormalize,
            EXPERTS=triton.next_power_of_2(experts),
            SLOTS=triton.next_power_of_2(top_k),
            num_warps=1,
            enable_fp_fusion=True,
        )
    return weights, ids


def moe_mlp(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    weights: Tensor,
    experts: Tensor,
    launch: LaunchConfig | None = None,
    *,
    deterministic: bool = False,
) -> Tensor:
    """See `kernels.moe.pack_experts` and `Experts`; the weights are contiguous; `launch`: as `plan_tiles`.

    If `deterministic`, the tile is the same for any number of tokens.
    """
    if deterministic:
        launch = launch or launch_of("moe", _INVARIANT_ROWS, x.device)
    tokens, fan = experts.shape
    y = x.new_empty(tokens, down.shape[1])
    if not tokens:
        return y
    x, weights = x.contiguous(), weights.contiguous()
    plan = plan_tiles(experts, len(gate_up), launch)
    inner = silu_and_mul(_multiply(x, gate_up, plan, tokens * fan, fan, None))
    parts = _multiply(inner, down, plan, tokens * fan, 1, weights)
    _sum_kernel[(tokens, triton.cdiv(y.shape[1], 1024))](
        parts, y, fan, y.shape[1], BLOCK=1024, enable_fp_fusion=True
    )
    return y


def plan_tiles(experts: Tensor, num_experts: int, launch: LaunchConfig | None = None) -> TilePlan:
    """Put the pairs of experts, int32 [T, k], into tiles of one expert each; by default, look `launch` up."""
    pairs = experts.numel()
    launch = launch or launch_of("moe", triton.cdiv(pairs, num_experts), experts.device)
    used = min(num_experts, pairs)
    # The most there can be: a tile for each expert that has a pair, and one more for every full tile beyond.
    # An example: 100 pairs, 8 experts, tiles of 16: 8 + 92 // 16 = 13.
    tiles = used + (pairs - used) // launch.rows
    order = torch.empty(tiles * launch.rows, dtype=torch.int32, device=experts.device)
    owners = torch.empty(tiles, dtype=torch.int32, device=experts.device)
    _plan_kernel[(num_experts,)](
        experts.contiguous(),
        order,
        owners,
        pairs,
        num_experts,
        tiles,
        ROWS=launch.rows,
        BINS=triton.next_power_of_2(num_experts + 1),
        BLOCK=_PAIR_BLOCK,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return TilePlan(order, owners, launch)


def _multiply(
    x: Tensor, weight: Tensor, plan: TilePlan, pairs: int, fan: int, scale: Tensor | None
) -> Tensor:
    """Row p of the result is row p // fan of x by the weight of pair p's expert, times scale[p]."""
    outputs, inputs = weight.shape[1:]
    y = x.new_empty(pairs, outputs)
    launch = plan.launch
    _product_kernel[(triton.cdiv(outputs, launch.columns), len(plan.experts))](
        x,
        weight,
        plan.order,
        plan.experts,
        scale,
        y,
        pairs,
        outputs,
        inputs,
        fan,
        ROWS=launch.rows,
        COLUMNS=launch.columns,
        INNER=_INNER_BYTES // x.element_size(),
        num_warps=launch.warps,
        num_stages=launch.stages,
        enable_fp_fusion=True,
    )
    return y


@triton.jit
def _route_kernel(
    logits,
    weights,
    ids,
    experts,
    top_k,
    RENORMALIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    expert, slot = tl.arange(0, EXPERTS), tl.arange(0, SLOTS)
    x = tl.load(logits + token * experts + expert, mask=expert < experts, other=float("-inf")).to(tl.float32)
    x = tl.exp(x - tl.max(x, 0))
    total = tl.sum(x, 0)
    # Below every exponential, so that padding is chosen last; what was chosen goes below that.
    left = tl.where(expert < experts, x, -1.0)
    chosen = tl.zeros((SLOTS,), tl.float32)
    chosen_ids = tl.zeros((SLOTS,), tl.int32)
    for place in range(top_k):
        best = tl.max(left, 0)
        best_id = tl.min(tl.where(left == best, expert, experts - 1), 0)
        chosen = tl.where(slot == place, best, chosen)
        chosen_ids = tl.where(slot == place, best_id, chosen_ids)
        left = tl.where(expert == best_id, -2.0, left)
    if RENORMALIZE:
        total = tl.sum(chosen, 0)
    tl.store(weights + token * top_k + slot, chosen / total, mask=slot < top_k)
    tl.store(ids + token * top_k + slot, chosen_ids, mask=slot < top_k)


@triton.jit(do_not_specialize=["pairs", "tiles"])
def _plan_kernel(
    experts,
    order,
    owners,
    pairs,
    num_experts,
    tiles,
    ROWS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One expert's tiles. The bin past the experts takes what is loaded past the pairs."""
    expert = tl.program_id(0)
    bins = tl.arange(0, BINS)
    counts = tl.zeros((BINS,), tl.int32)
    for start in range(0, pairs, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        counts += tl.histogram(tl.load(experts + pair, mask=pair < pairs, other=num_experts), BINS)
    # Tiles by expert: with tiles of 16, the counts 20, 0, 5 are 2, 0, 1 tiles, and the third expert's begin
    # at 2.
    sizes = tl.where(bins < num_experts, (counts + ROWS - 1) // ROWS, 0)
    first = tl.sum(tl.where(bins < expert, sizes, 0), 0)
    size = tl.sum(tl.where(bins == expert, sizes, 0), 0)
    found = 0
    for start in range(0, pairs, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        mine = tl.load(experts + pair, mask=pair < pairs, other=num_experts) == expert
        place = found + tl.cumsum(mine.to(tl.int32), 0) - 1
        tl.store(order + first * ROWS + place, pair, mask=mine)
        found += tl.sum(mine.to(tl.int32), 0)
    row = tl.arange(0, ROWS)
    tl.store(order + first * ROWS + found + row, row * 0 + pairs, mask=found + row < size * ROWS)
    # The last expert's program also marks the tiles that aren't used.
    end = tl.where(expert == num_experts - 1, tiles, first + size)
    for start in range(first, end, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        tl.store(owners + tile, tl.where(tile < first + size, expert, -1), mask=tile < end)


@triton.jit(do_not_specialize=["pairs"])
def _product_kernel(
    x,
    weight,
    order,
    owners,
    scale,
    y,
    pairs,
    outputs,
    inputs,
    fan,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    expert = tl.load(owners + tl.program_id(1)).to(tl.int64)
    if expert >= 0:
        pair = tl.load(order + tl.program_id(1) * ROWS + tl.arange(0, ROWS))
        column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        inner = tl.arange(0, INNER)
        real, inside = pair < pairs, column < outputs
        x_row = x + (pair // fan).to(tl.int64)[:, None] * inputs
        w_column = weight + expert * outputs * inputs + column.to(tl.int64)[None, :] * inputs
        acc = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, inputs, INNER):
            k = start + inner
            a = tl.load(x_row + k[None, :], mask=real[:, None] & (k < inputs)[None, :], other=0.0)
            b = tl.load(w_column + k[:, None], mask=inside[None, :] & (k < inputs)[:, None], other=0.0)
            acc = dot(a, b, acc)
        if scale is not None:
            acc *= tl.load(scale + pair, mask=real, other=0.0)[:, None]
        at = pair.to(tl.int64)[:, None] * outputs + column[None, :]
        tl.store(y + at, acc.to(y.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
def _sum_kernel(parts, y, fan, width, BLOCK: tl.constexpr):
    """Adds up the `fan` successive rows of each token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for place in range(fan):
        at = (token * fan + place) * width + column
        total += tl.load(parts + at, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y + token * width + column, total.to(y.dtype.element_ty), mask=column < width)
