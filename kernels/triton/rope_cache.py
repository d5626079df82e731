"""Rotary embedding, query/key norm and the write into the paged cache on the GPU, in one launch.

A program handles some heads of one token. Queries, keys and values differ only in the weight that they are
multiplied by, whether they are rotated, and where they go. A head is kept as its two halves, which the
rotation combines element by element.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..structs import Heads, PagedKV
from .fp8 import narrow

_ELEMENTS = 2048
"""Number of elements per program: 16 per thread."""


def rope_and_cache(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: PagedKV,
    heads: Heads,
) -> Tensor:
    """See `kernels.rope_cache.rope_and_cache`; a position or slot outside its table is passed over."""
    qkv = qkv.contiguous()
    k_cache, v_cache = cache.keys, cache.values
    pages, _, page_size, D = k_cache.shape
    q = qkv.new_empty(qkv.shape[0], heads.queries, D)
    if k_cache.dtype == torch.float8_e4m3fn:
        k_cache, v_cache = k_cache.view(torch.uint8), v_cache.view(torch.uint8)
    count = heads.queries + 2 * heads.keys
    half = triton.next_power_of_2(D // 2)
    block = min(max(_ELEMENTS // (2 * half), 1), triton.next_power_of_2(count))
    if qkv.shape[0]:
        _rope_cache_kernel[(qkv.shape[0], triton.cdiv(count, block))](
            qkv,
            positions,
            slots,
            cos_sin,
            q,
            k_cache,
            v_cache,
            heads.q_norm,
            heads.k_norm,
            heads.eps,
            1.0 / cache.key_scale,
            1.0 / cache.value_scale,
            cos_sin.shape[0],
            pages * page_size,
            HEADS=heads.queries,
            KV_HEADS=heads.keys,
            DIM=D,
            HALF=half,
            PAGE_SIZE=page_size,
            BLOCK=block,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return q


@triton.jit(do_not_specialize=["num_positions", "num_slots"])
def _rope_cache_kernel(
    qkv_ptr,
    positions_ptr,
    slots_ptr,
    cos_sin_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    q_norm_ptr,
    k_norm_ptr,
    eps,
    k_factor,
    v_factor,
    num_positions,
    num_slots,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    i = tl.arange(0, HALF)
    inside = (i < DIM // 2)[None, :]
    is_q = head < HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    low_at = head[:, None] * DIM + i[None, :]
    high_at = low_at + DIM // 2
    mask = (head < HEADS + 2 * KV_HEADS)[:, None] & inside
    row_ptr = qkv_ptr + token * ((HEADS + 2 * KV_HEADS) * DIM)
    low = tl.load(row_ptr + low_at, mask=mask, other=0.0)
    high = tl.load(row_ptr + high_at, mask=mask, other=0.0)

    if q_norm_ptr is not None:
        low, high = _norm(low, high, q_norm_ptr, is_q, i, inside, eps, DIM)
    if k_norm_ptr is not None:
        low, high = _norm(low, high, k_norm_ptr, is_k, i, inside, eps, DIM)

    position = tl.load(positions_ptr + token)
    known = (position >= 0) & (position < num_positions)
    angle_ptr = cos_sin_ptr + position * DIM + i
    angles = tl.where(known, DIM // 2, 0)
    cos = tl.load(angle_ptr, mask=i < angles, other=0.0)[None, :]
    sin = tl.load(angle_ptr + DIM // 2, mask=i < angles, other=0.0)[None, :]
    a = low.to(tl.float32)
    b = high.to(tl.float32)
    low = tl.where(is_v[:, None], low, (a * cos - b * sin).to(low.dtype))
    high = tl.where(is_v[:, None], high, (b * cos + a * sin).to(high.dtype))

    q_row_ptr = q_ptr + token * (HEADS * DIM)
    tl.store(q_row_ptr + low_at, low, mask=is_q[:, None] & inside)
    tl.store(q_row_ptr + high_at, high, mask=is_q[:, None] & inside)

    slot = tl.load(slots_ptr + token)
    if known & (slot >= 0) & (slot < num_slots):
        page_at = slot // PAGE_SIZE * (KV_HEADS * PAGE_SIZE) + slot % PAGE_SIZE
        k_at = (page_at + (head - HEADS) * PAGE_SIZE)[:, None] * DIM + i[None, :]
        # Values come KV_HEADS heads after the keys, and lie at the same place of their own cache.
        v_at = k_at - KV_HEADS * PAGE_SIZE * DIM
        _write(k_ptr, k_at, low, high, k_factor, is_k[:, None] & inside, DIM)
        _write(v_ptr, v_at, low, high, v_factor, is_v[:, None] & inside, DIM)


@triton.jit
def _norm(low, high, weight_ptr, chosen, i, inside, eps, DIM: tl.constexpr):
    """RMS norm of the chosen heads, rounded as `rms_norm` rounds: before the weight, and after."""
    a = low.to(tl.float32)
    b = high.to(tl.float32)
    factor = tl.rsqrt(tl.sum(a * a + b * b, 1) / DIM + eps)[:, None]
    low_weight = tl.load(weight_ptr + i[None, :], mask=inside, other=0.0).to(tl.float32)
    high_weight = tl.load(weight_ptr + DIM // 2 + i[None, :], mask=inside, other=0.0).to(tl.float32)
    a = ((a * factor).to(low.dtype).to(tl.float32) * low_weight).to(low.dtype)
    b = ((b * factor).to(high.dtype).to(tl.float32) * high_weight).to(high.dtype)
    return tl.where(chosen[:, None], a, low), tl.where(chosen[:, None], b, high)


@triton.jit
def _write(cache_ptr, at, low, high, factor, mask, DIM: tl.constexpr):
    if cache_ptr.dtype.element_ty == tl.uint8:
        low = narrow(low.to(tl.float32) * factor)
        high = narrow(high.to(tl.float32) * factor)
    tl.store(cache_ptr + at, low, mask=mask)
    tl.store(cache_ptr + at + DIM // 2, high, mask=mask)
