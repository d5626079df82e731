"""Paged attention over a ragged mix of prompt chunks and single decode tokens.

Every sequence's keys and values are in fixed-size pages, found through its block table. There is one
operation for prefill and decode: a decode is a chunk of one token, so a step may mix both, and chunks may
have any size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import runs_triton
from .native import DTYPE_CODES, shared_library
from .structs import AttentionOptions, PagedKV, RaggedRows


def paged_attention(q: Tensor, cache: PagedKV, rows: RaggedRows, options: AttentionOptions) -> Tensor:
    """Causal attention of each query token to its own sequence's cached tokens.

    Query i of sequence b is at position `context_lens[b] - rows_b + i`, where rows_b is the number of the
    sequence's query rows, and sees all positions up to its own. Its key and value must already be in the
    cache.

    Args:
        q: [T, Hq, D] queries of all sequences, one after the other; the cache's Hkv divides Hq.
        cache: the layer's cache.
        rows: which queries belong to which sequence.
        options: how scores are computed.

    Returns:
        [T, Hq, D] in q's dtype; sums and softmax are in float32.
    """
    k_cache = cache.keys
    fp8 = k_cache.dtype == torch.float8_e4m3fn
    dtype = None if fp8 or q.device.type != "cpu" else DTYPE_CODES.get(q.dtype)
    if dtype is not None and (lib := shared_library()):
        q, out = q.contiguous(), torch.empty_like(q, memory_format=torch.contiguous_format)
        _check(q, cache, rows)
        lib.hr_paged_attention(
            q.data_ptr(),
            k_cache.data_ptr(),
            cache.values.data_ptr(),
            out.data_ptr(),
            rows.block_tables.data_ptr(),
            rows.block_tables.stride(0),
            rows.query_starts.data_ptr(),
            rows.context_lens.data_ptr(),
            rows.context_lens.shape[0],
            q.shape[1],
            k_cache.shape[1],
            q.shape[2],
            k_cache.shape[2],
            options.sliding_window,
            options.scale * cache.key_scale,
            options.soft_cap,
            dtype,
            torch.get_num_threads(),
        )
        return out if cache.value_scale == 1 else out.mul_(cache.value_scale)
    if runs_triton(q):
        from .triton import attention as gpu

        _check(q, cache, rows)
        return gpu.paged_attention(q, cache, rows, options)
    return paged_attention_torch(q, cache, rows, options)


def _check(q: Tensor, cache: PagedKV, rows: RaggedRows) -> None:
    """Refuses what compiled code, which sees bare addresses, would misread."""
    k_cache, v_cache = cache.keys, cache.values
    if q.shape[2] != k_cache.shape[3] or q.shape[1] % k_cache.shape[1] or k_cache.shape != v_cache.shape:
        raise ValueError(f"heads of q {q.shape}, k {k_cache.shape} and v {v_cache.shape} do not fit")
    if not (
        k_cache.dtype in {q.dtype, torch.float8_e4m3fn}
        and k_cache.dtype == v_cache.dtype
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
    ):
        raise ValueError("the caches must be contiguous and of q's dtype, or float8_e4m3fn")
    block_tables, query_starts, context_lens = rows.block_tables, rows.query_starts, rows.context_lens
    for name, x in (("tables", block_tables), ("query_starts", query_starts), ("context_lens", context_lens)):
        if x.dtype != torch.int32 or x.stride(-1) != 1:
            raise ValueError(f"{name} must be int32 with adjacent elements, not {x.dtype}, {x.stride()}")
    B = context_lens.shape[0]
    if query_starts.shape[0] != B + 1 or block_tables.shape[0] != B:
        raise ValueError(f"{B} context_lens do not fit {query_starts.shape} and tables {block_tables.shape}")


def paged_attention_torch(q: Tensor, cache: PagedKV, rows: RaggedRows, options: AttentionOptions) -> Tensor:
    """`paged_attention` in torch operations, for any device: gathers the pages, pads and masks.

    Decodes and prompt chunks are computed apart, so that decodes aren't padded to the longest chunk.
    """
    starts = rows.query_starts.long()
    counts = starts[1:] - starts[:-1]
    out = torch.empty_like(q)
    # Rows of padding have no tokens, and are in neither group.
    for group in (counts == 1, counts > 1):
        members = group.nonzero().squeeze(1)
        if members.numel() == 0:
            continue
        n = counts[members]
        offset = torch.arange(int(n.max()), device=q.device)
        valid = offset < n[:, None]
        index = torch.where(valid, starts[members][:, None] + offset, 0)
        # The step's tokens are the last of the context: with 10 in the cache, 3 of them of this step, they
        # stand at 7, 8 and 9.
        context = rows.context_lens[members].long()
        positions = (context - n)[:, None] + offset
        padded = _padded_attention(q[index], cache, rows.block_tables[members], positions, context, options)
        out[index[valid]] = padded[valid] if cache.value_scale == 1 else padded[valid] * cache.value_scale
    return out


def _padded_attention(
    q: Tensor,
    cache: PagedKV,
    block_tables: Tensor,
    positions: Tensor,
    context_lens: Tensor,
    options: AttentionOptions,
) -> Tensor:
    """Attention of q [B, M, Hq, D], at positions [B, M], to the gathered pages; returns [B, M, Hq, D]."""
    k_cache, v_cache, scale = cache.keys, cache.values, options.scale * cache.key_scale
    sliding_window, soft_cap = options.sliding_window, options.soft_cap
    B, M, Hq, D = q.shape
    Hkv, page_size = k_cache.shape[1:3]
    pages = block_tables[:, : -(-int(context_lens.max()) // page_size)].long()
    S = pages.shape[1] * page_size
    key_positions = torch.arange(S, device=q.device)
    # Slots no token was written to may hold NaN, which no mask takes back out of a sum. Entries past a row's
    # own table may be anything, so they are turned to page 0 before the gather.
    held = key_positions < context_lens[:, None]
    pages = torch.where(held[:, ::page_size], pages, 0)
    unwritten = ~held[:, None, :, None]
    k = k_cache[pages].to(q.dtype).transpose(1, 2).reshape(B, Hkv, S, D).masked_fill(unwritten, 0)
    v = v_cache[pages].to(q.dtype).transpose(1, 2).reshape(B, Hkv, S, D).masked_fill(unwritten, 0)

    visible = key_positions <= positions[:, :, None]
    if sliding_window:
        visible = visible & (key_positions > positions[:, :, None] - sliding_window)
    # The query heads that share a kv head become further rows of it: no copy of the keys per query head.
    group = Hq // Hkv
    rows = q.view(B, M, Hkv, group, D).permute(0, 2, 3, 1, 4).reshape(B, Hkv, group * M, D)
    visible = visible[:, None, None].expand(B, 1, group, M, S).reshape(B, 1, group * M, S)
    if soft_cap:
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = soft_cap * torch.tanh((rows.to(wide) @ k.to(wide).mT) * (scale / soft_cap))
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        out = (weights @ v.to(wide)).to(q.dtype)
    else:
        out = F.scaled_dot_product_attention(rows, k, v, attn_mask=visible, scale=scale)
    return out.view(B, Hkv, group, M, D).permute(0, 3, 1, 2, 4).reshape(B, M, Hq, D)


def paged_attention_reference(
    q: Tensor, cache: PagedKV, rows: RaggedRows, options: AttentionOptions
) -> Tensor:
    """The definition of `paged_attention`, row by row, in the precision of its inputs."""
    out = torch.empty_like(q)
    group = q.shape[1] // cache.keys.shape[1]
    page_size = cache.keys.shape[2]
    for b, context in enumerate(rows.context_lens.tolist()):
        first, last = rows.query_starts[b : b + 2].tolist()
        for row in range(first, last):
            position = context - last + row
            lowest = max(0, position - options.sliding_window + 1) if options.sliding_window else 0
            seen = torch.arange(lowest, position + 1)
            page = rows.block_tables[b].long()[seen // page_size]
            k = cache.keys[page, :, seen % page_size].repeat_interleave(group, dim=1)
            v = cache.values[page, :, seen % page_size].repeat_interleave(group, dim=1)
            scores = torch.einsum("hd,shd->hs", q[row], k) * (options.scale * cache.key_scale)
            if options.soft_cap:
                scores = options.soft_cap * torch.tanh(scores / options.soft_cap)
            out[row] = torch.einsum("hs,shd->hd", scores.softmax(-1), v) * cache.value_scale
    return out
