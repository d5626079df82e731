"""Paged attention on the GPU: prompt chunks and decodes in one launch.

A program computes a tile of query rows of one sequence, times the query heads that share one kv head: these
are further rows of the same matrix product, so that keys are read once for all of them. The grid must be
known without asking the device. Sequence b's tiles are numbered from starts[b] // ROWS + b on: ranges of at
least ceil(rows / ROWS), so T // ROWS + B programs are enough, a tile's sequence is found by bisection, and at
most one program per sequence has nothing to do.

Keys that every row of a tile sees take a loop without masks, the others (the window's edge, the diagonal) the
same loop with them. Softmax is online, in float32 and to base 2. If there are few programs for long contexts,
each sequence's keys are divided among several, and a second kernel weighs their results. A row's result
depends only on the tile's shape and the splits, because a tile of keys that a row doesn't see adds exact
zeros. These are what `deterministic` fixes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..structs import AttentionOptions, PagedKV, RaggedRows
from .dot import dot
from .fp8 import widen
from .tuning import LaunchConfig, launch_of, multiprocessors

_LOG2E = 1.4426950408889634
_PROGRAMS_PER_MULTIPROCESSOR = 8
"""Number of programs to aim at by splitting; several rounds of them even out contexts of different
lengths."""
_MIN_SPLIT_TOKENS = 512
# The merge holds all parts of a row and head in one program's registers: at 128 dimensions, 4,096 floats.
_MAX_SPLITS = 32


def paged_attention(
    q: Tensor,
    cache: PagedKV,
    ragged: RaggedRows,
    options: AttentionOptions,
    *,
    splits: int | None = None,
    launch: LaunchConfig | None = None,
) -> Tensor:
    """See `kernels.attention.paged_attention`; never waits for the device.

    `splits` is the number of programs, at most 32, among which each context is divided; None chooses it.
    `launch` is the tile; None looks it up.
    """
    q = q.contiguous()
    out = torch.empty_like(q)
    T, heads, D = q.shape
    _, kv_heads, page_size, _ = cache.keys.shape
    tables, max_rows = ragged.block_tables, ragged.max_rows
    B, group = len(ragged.context_lens), heads // kv_heads
    if T == 0:
        return out
    k_cache, v_cache = _fp8_as_bytes(cache.keys), _fp8_as_bytes(cache.values)
    scale, window, soft_cap = options.scale * cache.key_scale, options.sliding_window, options.soft_cap
    # Triton's tiles have sides that are powers of two, and a product's inner side is 16 at least.
    padded_dim = max(16, triton.next_power_of_2(D))
    if launch is None:
        operation = _operation(q, k_cache, decode=T <= B and not options.deterministic)
        launch = launch_of(operation, padded_dim, q.device)
    # Examples: 8 query heads a kv head and tiles of 128 are 16 query rows a program; of a decode's tile of
    # 16, 8 rows are that one query's heads and 8 are masked.
    tile = max(launch.rows, triton.next_power_of_2(group))
    # With one row per sequence, a tile's number is the sequence's number.
    rows = 1 if max_rows == 1 else tile // group
    tiles = B if max_rows == 1 else T // rows + B
    if splits is None:
        widest = tables.shape[1] * page_size
        bound = min(ragged.max_context or widest, widest)
        bound = min(bound, window + rows) if window else bound
        # Of T // rows + B programs as many as there are tokens have work at most.
        splits = 1 if options.deterministic else _splits(min(tiles, T) * kv_heads, bound, q.device)
    shape = (T, heads, splits)
    parts = q.new_empty((*shape, D), dtype=torch.float32) if splits > 1 else out
    sums = q.new_empty((*shape, 2), dtype=torch.float32) if splits > 1 else out
    _attention_kernel[(tiles, kv_heads, splits)](
        q,
        k_cache,
        v_cache,
        parts,
        sums,
        tables,
        tables.stride(0),
        ragged.query_starts,
        ragged.context_lens,
        B,
        splits,
        scale / soft_cap if soft_cap else 1.0,
        (soft_cap or scale) * _LOG2E,
        float(cache.value_scale),
        GROUP=group,
        KV_HEADS=kv_heads,
        PAGE_SIZE=page_size,
        DIM=D,
        PADDED_DIM=padded_dim,
        TILE=tile,
        ROWS=rows,
        ONE_ROW=max_rows == 1,
        KEYS=launch.columns,
        WINDOW=window,
        CAPPED=soft_cap != 0.0,
        SPLIT=splits > 1,
        num_warps=launch.warps,
        num_stages=launch.stages,
        enable_fp_fusion=True,
    )
    if splits > 1:
        _merge_kernel[(T * heads,)](
            parts,
            sums,
            out,
            splits,
            DIM=D,
            PADDED_DIM=padded_dim,
            MAX_SPLITS=_MAX_SPLITS,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


def _operation(q: Tensor, cache: Tensor, *, decode: bool) -> str:
    """The name of the launch parameters for these types and rows."""
    if q.dtype == torch.float32:
        return "attention_float32"
    if decode:
        return "attention_decode"
    return "attention_prefill_fp8" if cache.element_size() == 1 else "attention_prefill"


def _fp8_as_bytes(cache: Tensor) -> Tensor:
    """An fp8 cache as bytes, unless the GPU converts that type itself."""
    if cache.dtype != torch.float8_e4m3fn:
        return cache
    native = (
        cache.is_cuda and not torch.version.hip and torch.cuda.get_device_capability(cache.device) >= (8, 9)
    )
    return cache if native else cache.view(torch.uint8)


def _splits(programs: int, max_context: int, device: torch.device) -> int:
    """The number of parts to divide each context into, judging by what the host knows."""
    wanted = multiprocessors(device) * _PROGRAMS_PER_MULTIPROCESSOR // programs
    useful = max_context // _MIN_SPLIT_TOKENS
    return max(1, min(wanted, useful, _MAX_SPLITS))


@triton.jit(
    do_not_specialize=["table_stride", "num_sequences", "splits"],
    do_not_specialize_on_alignment=["tables_ptr", "starts_ptr", "contexts_ptr"],
)
def _attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    sums_ptr,
    tables_ptr,
    table_stride,
    starts_ptr,
    contexts_ptr,
    num_sequences,
    splits,
    cap_scale,
    score_scale,
    v_scale,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    ONE_ROW: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SPLIT: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    sequence = tile
    first_row = 0
    if not ONE_ROW:
        sequence = 0
        end = num_sequences
        # An example, with tiles of 4 rows and sequences of 6, 1 and 9 rows: starts 0 6 7 16, so tiles are
        # numbered from 0, 1 + 1 = 2 and 1 + 2 = 3 on. Tiles 0 and 1 are the first sequence's, 2 the second's,
        # 3 to 5 the third's; T // 4 + B = 7 programs, and the last has nothing to do.
        while end - sequence > 1:
            middle = (sequence + end) // 2
            begins = tl.load(starts_ptr + middle) // ROWS + middle
            sequence = tl.where(begins <= tile, middle, sequence)
            end = tl.where(begins <= tile, end, middle)
        first_row = (tile - tl.load(starts_ptr + sequence) // ROWS - sequence) * ROWS
    start = tl.load(starts_ptr + sequence)
    rows = tl.load(starts_ptr + sequence + 1) - start
    if first_row >= rows:
        return
    before = tl.load(contexts_ptr + sequence) - rows

    m = tl.arange(0, TILE)
    d = tl.arange(0, PADDED_DIM)
    # A tile's rows are query rows times heads, the heads of one query next to each other.
    row = first_row + m // GROUP
    held = (m // GROUP < ROWS) & (row < rows)
    positions = before + row
    vector = (start + row).to(tl.int64) * (GROUP * KV_HEADS) + head * GROUP + m % GROUP
    element = vector[:, None] * DIM + d[None, :]
    mask = held[:, None] & (d < DIM)[None, :]
    q = tl.load(q_ptr + element, mask=mask, other=0.0)

    # Some row sees the keys [lowest, highest); every row sees [inner, outer).
    outer = before + first_row + 1
    highest = before + tl.minimum(first_row + ROWS, rows)
    lowest = tl.maximum(outer - WINDOW, 0) if WINDOW else 0
    inner = tl.maximum(highest - WINDOW, 0) if WINDOW else 0
    begin = lowest // KEYS * KEYS
    end = highest
    if SPLIT:
        part = tl.cdiv(tl.cdiv(highest - begin, KEYS), splits) * KEYS
        begin += split * part
        end = tl.minimum(begin + part, highest)
    # Of these, the tiles that need no mask.
    full = tl.minimum(tl.maximum(tl.cdiv(inner, KEYS) * KEYS, begin), end)
    edge = tl.maximum(tl.minimum(outer, end) // KEYS * KEYS, full)

    table_ptr = tables_ptr + sequence.to(tl.int64) * table_stride
    k_ptr += head * (PAGE_SIZE * DIM)
    v_ptr += head * (PAGE_SIZE * DIM)
    # Finite: -inf minus -inf would be NaN in a row that sees none of its first keys.
    peak = tl.full([TILE], -1e38, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, PADDED_DIM], tl.float32)
    if WINDOW:
        acc, total, peak = _attend(
            acc, total, peak, q, k_ptr, v_ptr, table_ptr, begin, full, lowest, highest, positions,
            cap_scale, score_scale, KV_HEADS, PAGE_SIZE, DIM, PADDED_DIM, KEYS, WINDOW, CAPPED, True,
        )  # fmt: skip
    acc, total, peak = _attend(
        acc, total, peak, q, k_ptr, v_ptr, table_ptr, full, edge, lowest, highest, positions,
        cap_scale, score_scale, KV_HEADS, PAGE_SIZE, DIM, PADDED_DIM, KEYS, WINDOW, CAPPED, False,
    )  # fmt: skip
    acc, total, peak = _attend(
        acc, total, peak, q, k_ptr, v_ptr, table_ptr, edge, end, lowest, highest, positions,
        cap_scale, score_scale, KV_HEADS, PAGE_SIZE, DIM, PADDED_DIM, KEYS, WINDOW, CAPPED, True,
    )  # fmt: skip

    acc *= v_scale
    if SPLIT:
        at = vector * splits + split
        tl.store(sums_ptr + 2 * at, peak, mask=held)
        tl.store(sums_ptr + 2 * at + 1, total, mask=held)
        tl.store(out_ptr + at[:, None] * DIM + d[None, :], acc, mask=mask)
    else:
        acc /= tl.where(total > 0, total, 1.0)[:, None]  # an empty context gives zeros
        tl.store(out_ptr + element, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _attend(
    acc, total, peak, q, k_ptr, v_ptr, table_ptr, begin, end, lowest, highest, positions,
    cap_scale, score_scale,
    KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Add the keys from begin, a multiple of KEYS, up to end to the running softmax.

    The multiplication by score_scale is fused with the subtraction of the peak by hand; if it were left to
    the compiler, it could differ between the masked and the unmasked loop.
    """
    d = tl.arange(0, PADDED_DIM)
    for tile in range(begin, end, KEYS):
        n = tile + tl.arange(0, KEYS)
        # Keys outside [lowest, highest) may be unwritten, freed or another sequence's. They are replaced by
        # zeros, since no weight can take a NaN back out of a sum.
        held = (n >= lowest) & (n < highest)
        other = 0.0 if MASKED else None
        page = tl.load(table_ptr + n // PAGE_SIZE, mask=held if MASKED else None, other=other)
        vector = page.to(tl.int64) * (KV_HEADS * PAGE_SIZE) + n % PAGE_SIZE
        element = vector[:, None] * DIM + d[None, :]
        mask = None
        if MASKED:
            mask = held[:, None] & (d < DIM)[None, :]
        elif DIM < PADDED_DIM:
            mask = (d < DIM)[None, :]
            other = 0.0
        k = widen(tl.load(k_ptr + element, mask=mask, other=other), q.dtype)
        scores = dot(q, tl.trans(k), None)
        if CAPPED:
            # tanh(x) = 1 - 2 / (1 + e^2x), and e^2x = 2^(2x / ln 2): 2 / ln 2 is the constant.
            scores = 1.0 - 2.0 / (1.0 + tl.exp2(scores * (cap_scale * 2.8853900817779268)))  # tanh
        if MASKED:
            seen = n[None, :] <= positions[:, None]
            if WINDOW:
                seen &= n[None, :] > positions[:, None] - WINDOW
            scores = tl.where(seen & held[None, :], scores, -float("inf"))
        risen = tl.maximum(peak, tl.max(scores, 1) * score_scale)
        weights = tl.exp2(tl.fma(scores, score_scale, -risen[:, None]))
        # What was summed relative to the old peak, relative to the new one: 1 where it has not risen.
        decay = tl.exp2(peak - risen)
        v = widen(tl.load(v_ptr + element, mask=mask, other=other), q.dtype)
        acc = dot(weights.to(q.dtype), v, acc * decay[:, None])
        total = total * decay + tl.sum(weights, 1)
        peak = risen
    return acc, total, peak


@triton.jit(do_not_specialize=["splits"])
def _merge_kernel(
    parts_ptr,
    sums_ptr,
    out_ptr,
    splits,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """One row and head: the sum of its splits, each weighed by its peak; one without keys has no weight."""
    vector = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, MAX_SPLITS)
    d = tl.arange(0, PADDED_DIM)
    at = vector * splits + s
    total = tl.load(sums_ptr + 2 * at + 1, mask=s < splits, other=0.0)
    held = total > 0
    peak = tl.load(sums_ptr + 2 * at, mask=held, other=-float("inf"))
    weights = tl.where(held, tl.exp2(peak - tl.max(peak, 0)), 0.0)
    mask = held[:, None] & (d < DIM)[None, :]
    parts = tl.load(parts_ptr + at[:, None] * DIM + d[None, :], mask=mask, other=0.0)
    total = tl.sum(total * weights, 0)
    y = tl.sum(parts * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + vector * DIM + d, y.to(out_ptr.dtype.element_ty), mask=d < DIM)
