"""Rotary embedding, optional per-head query/key norm, and the write into the paged cache, in one pass.

The fused projection's output is read once: q is returned rotated, k and v go straight to their slots.
"""

import torch
from torch import Tensor

from .dispatch import runs_triton
from .native import DTYPE_CODES, shared_library
from .norm import rms_norm_torch
from .structs import Heads, PagedKV


def rope_and_cache(
    qkv: Tensor, positions: Tensor, slots: Tensor, cos_sin: Tensor, cache: PagedKV, heads: Heads
) -> Tensor:
    """Rotate q and k by their positions, write k and v to their slots, and return q.

    Args:
        qkv: [T, (Hq + 2 * Hkv) * D], the query, key and value heads of each token.
        positions: int64 [T].
        slots: int64 [T], page * page_size + offset in the page; all different.
        cos_sin: float32 [max_positions, D], the cosines of D/2 angles, then their sines. Element i of a head
            is rotated together with element i + D/2.
        cache: written at `slots`.
        heads: the layout of qkv.

    Returns:
        q [T, Hq, D], in qkv's dtype; the rotation is in float32 and rounded once.

    Raises:
        IndexError: a position or slot is outside its table; nothing was written. A GPU, which isn't waited
            for, skips such a token instead, so a slot of -1 means that nothing is written.
    """
    k_cache, q_norm, k_norm = cache.keys, heads.q_norm, heads.k_norm
    fp8 = k_cache.dtype == torch.float8_e4m3fn
    dtype = None if fp8 or qkv.device.type != "cpu" else DTYPE_CODES.get(qkv.dtype)
    if dtype is not None and (lib := shared_library()):
        num_pages, _, page_size, D = k_cache.shape
        qkv, q = qkv.contiguous(), qkv.new_empty(qkv.shape[0], heads.queries, D)
        _check(qkv, positions, slots, cos_sin, cache, heads)
        refused = lib.hr_rope_and_cache(
            qkv.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            cos_sin.data_ptr(),
            q.data_ptr(),
            k_cache.data_ptr(),
            cache.values.data_ptr(),
            None if q_norm is None else q_norm.data_ptr(),
            None if k_norm is None else k_norm.data_ptr(),
            qkv.shape[0],
            cos_sin.shape[0],
            num_pages * page_size,
            heads.queries,
            heads.keys,
            D,
            page_size,
            heads.eps,
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

        _check(qkv, positions, slots, cos_sin, cache, heads)
        return gpu.rope_and_cache(qkv, positions, slots, cos_sin, cache, heads)
    return rope_and_cache_torch(qkv, positions, slots, cos_sin, cache, heads)


def _check(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: PagedKV,
    heads: Heads,
) -> None:
    """Refuse what compiled code, which only sees addresses, would misread."""
    k_cache, v_cache = cache.keys, cache.values
    count, D = heads.queries + 2 * heads.keys, k_cache.shape[3]
    if qkv.shape[1] != count * D or k_cache.shape[1] != heads.keys or k_cache.shape != v_cache.shape or D % 2:
        raise ValueError(f"qkv {qkv.shape}, k {k_cache.shape} and v {v_cache.shape} do not fit {count} heads")
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
    qkv: Tensor, positions: Tensor, slots: Tensor, cos_sin: Tensor, cache: PagedKV, heads: Heads
) -> Tensor:
    """`rope_and_cache` in torch operations, for any device; with float64 inputs, it is the reference."""
    k_cache, v_cache = cache.keys, cache.values
    D, page_size = k_cache.shape[3], k_cache.shape[2]
    each = qkv.view(qkv.shape[0], heads.queries + 2 * heads.keys, D)
    q, k, v = torch.split(each, [heads.queries, heads.keys, heads.keys], dim=1)
    if heads.q_norm is not None:
        q = rms_norm_torch(q, heads.q_norm, heads.eps)
    if heads.k_norm is not None:
        k = rms_norm_torch(k, heads.k_norm, heads.eps)
    cos, sin = cos_sin[positions][:, None].chunk(2, dim=-1)
    page, offset = slots // page_size, slots % page_size
    k_cache[page, :, offset] = _stored(_rotate(k, cos, sin), k_cache.dtype, cache.key_scale)
    v_cache[page, :, offset] = _stored(v, v_cache.dtype, cache.value_scale)
    return _rotate(q, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def _stored(x: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """Keys or values as a cache with this dtype stores them."""
    if dtype != torch.float8_e4m3fn:
        return x.to(dtype)
    # 448. Without the clamp, what is larger would become NaN: the type has no infinity.
    limit = torch.finfo(dtype).max
    return (x.to(torch.promote_types(x.dtype, torch.float32)) * (1 / scale)).clamp(-limit, limit).to(dtype)
