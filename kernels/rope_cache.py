"""Rotary embedding, optional per-head query/key norm, and the write into the paged cache, in one pass.

The fused projection's output is read once: q leaves rotated, k and v go straight to their slots.
"""

import torch
from torch import Tensor

from .dispatch import runs_triton
from .native import DTYPE_CODES, shared_library
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
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> Tensor:
    """Rotates q and k by their positions, writes k and v to their slots, returns q.

    Args:
        qkv: [T, (Hq + 2 * Hkv) * D], the query, key and value heads of each token.
        positions: int64 [T].
        slots: int64 [T], page * page_size + offset in the page; each names a slot of its own.
        cos_sin: float32 [max_positions, D], the cosines of D/2 angles, then their sines. Element i of a head
            is rotated together with element i + D/2.
        k_cache: [pages, Hkv, page_size, D], contiguous, of qkv's dtype or float8_e4m3fn; written at slots.
        v_cache: like k_cache.
        num_heads: Hq.
        num_kv_heads: Hkv.
        q_norm: [D] weight of an RMS norm over each query head, before the rotation.
        k_norm: likewise for the key heads.
        eps: of these norms.
        k_scale: a float8 cache holds the keys divided by this, no further from zero than 448.
        v_scale: likewise for the values.

    Returns:
        q [T, Hq, D], in qkv's dtype; the rotation is in float32 and rounded once.

    Raises:
        IndexError: a position or slot lies outside its table; nothing was written. A GPU, which nobody waits
            for, passes over such a token instead: a slot of -1 is how to write nothing.
    """
    fp8 = k_cache.dtype == torch.float8_e4m3fn
    dtype = None if fp8 or qkv.device.type != "cpu" else DTYPE_CODES.get(qkv.dtype)
    if dtype is not None and (lib := shared_library()):
        num_pages, _, page_size, D = k_cache.shape
        qkv, q = qkv.contiguous(), qkv.new_empty(qkv.shape[0], num_heads, D)
        _check(qkv, positions, slots, cos_sin, k_cache, v_cache, num_heads, num_kv_heads)
        refused = lib.hr_rope_and_cache(
            qkv.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            cos_sin.data_ptr(),
            q.data_ptr(),
            k_cache.data_ptr(),
            v_cache.data_ptr(),
            None if q_norm is None else q_norm.data_ptr(),
            None if k_norm is None else k_norm.data_ptr(),
            qkv.shape[0],
            cos_sin.shape[0],
            num_pages * page_size,
            num_heads,
            num_kv_heads,
            D,
            page_size,
            eps,
            dtype,
            torch.get_num_threads(),
        )
        if refused >= 0:
            raise IndexError(
                f"token {refused}: position {positions[refused]} of {cos_sin.shape[0]}, "
                f"slot {slots[refused]} of {num_pages * page_size}"
            )
        return q
    if runs_triton(qkv):
        from .triton import rope_cache as gpu

        _check(qkv, positions, slots, cos_sin, k_cache, v_cache, num_heads, num_kv_heads)
        return gpu.rope_and_cache(
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
            k_scale=k_scale,
            v_scale=v_scale,
        )
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
        k_scale=k_scale,
        v_scale=v_scale,
    )


def _check(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> None:
    """Refuses what compiled code, which sees bare addresses, would misread."""
    heads, D = num_heads + 2 * num_kv_heads, k_cache.shape[3]
    if (
        qkv.shape[1] != heads * D
        or k_cache.shape[1] != num_kv_heads
        or k_cache.shape != v_cache.shape
        or D % 2
    ):
        raise ValueError(f"qkv {qkv.shape}, k {k_cache.shape} and v {v_cache.shape} do not fit {heads} heads")
    if not (
        k_cache.dtype in {qkv.dtype, torch.float8_e4m3fn}
        and k_cache.dtype == v_cache.dtype
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
    ):
        raise ValueError("the caches must be contiguous and of qkv's dtype, or float8_e4m3fn")
    if cos_sin.dtype != torch.float32 or cos_sin.shape[1] != D or not cos_sin.is_contiguous():
        raise ValueError(
            f"cos_sin must be contiguous float32 [positions, {D}], not {cos_sin.dtype} {cos_sin.shape}"
        )
    for name, x in (("positions", positions), ("slots", slots)):
        if x.dtype != torch.int64 or x.shape != qkv.shape[:1] or not x.is_contiguous():
            raise ValueError(f"{name} must be contiguous int64 [{qkv.shape[0]}], not {x.dtype} {x.shape}")


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
    k_scale: float = 1.0,
    v_scale: float = 1.0,
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
    k_cache[page, :, offset] = _stored(_rotate(k, cos, sin), k_cache.dtype, k_scale)
    v_cache[page, :, offset] = _stored(v, v_cache.dtype, v_scale)
    return _rotate(q, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def _stored(x: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """Keys or values as a cache of this dtype holds them."""
    if dtype != torch.float8_e4m3fn:
        return x.to(dtype)
    limit = torch.finfo(dtype).max
    return (x.to(torch.promote_types(x.dtype, torch.float32)) * (1 / scale)).clamp(-limit, limit).to(dtype)
