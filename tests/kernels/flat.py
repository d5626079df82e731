"""Paths of a kernel called with its structs' fields as arguments, which tests vary one by one."""

from collections.abc import Callable
from functools import wraps

from torch import Tensor

from headrace.kernels.structs import AttentionOptions, Heads, PagedKV, RaggedRows

Path = Callable[..., Tensor]


def attention(path: Path) -> Path:
    @wraps(path)
    def call(
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        block_tables: Tensor,
        query_starts: Tensor,
        context_lens: Tensor,
        *,
        scale: float,
        sliding_window: int = 0,
        soft_cap: float = 0.0,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
        max_rows: int | None = None,
        max_context: int | None = None,
        deterministic: bool = False,
        **others: object,
    ) -> Tensor:
        cache = PagedKV(keys, values, k_scale, v_scale)
        rows = RaggedRows(block_tables, query_starts, context_lens, max_rows, max_context)
        return path(
            q, cache, rows, AttentionOptions(scale, sliding_window, soft_cap, deterministic), **others
        )

    return call


def rope_and_cache(path: Path) -> Path:
    @wraps(path)
    def call(
        qkv: Tensor,
        positions: Tensor,
        slots: Tensor,
        cos_sin: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        num_heads: int,
        num_kv_heads: int,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 1e-6,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
    ) -> Tensor:
        cache, heads = (
            PagedKV(keys, values, k_scale, v_scale),
            Heads(num_heads, num_kv_heads, q_norm, k_norm, eps),
        )
        return path(qkv, positions, slots, cos_sin, cache, heads)

    return call
