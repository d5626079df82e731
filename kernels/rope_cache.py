"""Rotary embedding, optional per-head query/key norm, and the write into the paged cache, in one pass.

The fused projection's output is read once: q leaves rotated, k and v go straight to their slots.
"""

import torch
from torch import Tensor

from .norm import rms_norm_torch


def rope_and_cache(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Rotates q and k by their positions, writes k and v to their slots, returns q.

    Args:
        qkv: [T, (Hq + 2 * Hkv) * D], the query, key and value heads of each token.
        positions: int64 [T].
        slots: int64 [T], page * page_size + offset in the page; each names a slot of its own.
        cos_sin: float32 [max_positions, D], the cosines of D/2 angles, then their sines. Element i of a head
            is rotated together with element i + D/2.
        k_cache: [pages, Hkv, page_size, D], contiguous, of qkv's dtype; written at slots.
        v_cache: like k_cache.
        num_heads: Hq.
        num_kv_heads: Hkv.
        q_norm: [D] weight of an RMS norm over each query head, before the rotation.
        k_norm: likewise for the key heads.
        eps: of these norms.

    Returns:
        q [T, Hq, D], in qkv's dtype; the rotation is in float32 and rounded once.
    """
    return rope_and_cache_torch(
        qkv,
        positions,
        slots,
        cos_sin,
        k_cache,
        v_cache,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        q_norm=q_norm,
        k_norm=k_norm,
        eps=eps,
    )


def rope_and_cache_torch(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """`rope_and_cache` from torch operations, for any device; with float64 inputs it is the reference."""
    D, page_size = k_cache.shape[3], k_cache.shape[2]
    heads = qkv.view(qkv.shape[0], num_heads + 2 * num_kv_heads, D)
    q, k, v = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], dim=1)
    if q_norm is not None:
        q = rms_norm_torch(q, q_norm, eps)
    if k_norm is not None:
        k = rms_norm_torch(k, k_norm, eps)
    cos, sin = cos_sin[positions][:, None].chunk(2, dim=-1)
    page, offset = slots // page_size, slots % page_size
    k_cache[page, :, offset] = _rotate(k, cos, sin)
    v_cache[page, :, offset] = v
    return _rotate(q, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
