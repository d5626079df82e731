"""The GPU's paged attention: compiled where there is a GPU, else in Triton's interpreter.

Tolerances are those of the CPU paths (conftest): one rounding of the output in 16 bits, of which the weights,
rounded before the second product, take a share; sums of a few hundred terms in float32.
"""

import pytest
import torch

from headrace.kernels import attention as public
from headrace.kernels.triton.tuning import LaunchConfig

from ..support.covering import covering
from . import flat

attention = pytest.importorskip("headrace.kernels.triton.attention", exc_type=ImportError)

gpu_attention = flat.attention(attention.paged_attention)
public_attention = flat.attention(public.paged_attention)
paged_attention_reference = flat.attention(public.paged_attention_reference)

MIXED = [(1, 1), (1, 2), (3, 3), (16, 16), (7, 40), (1, 65), (5, 130)]
DECODES = [(1, 1), (1, 64), (1, 65), (1, 31), (1, 200)]
TILE = LaunchConfig(16, 32)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def check(device, assert_near, paged_batch):
    """Runs a batch of (rows, context) and compares it with the float64 reference."""

    def run(sequences, *, options=None, cache_dtype=None, factor=1.0, launch=TILE, scale=0.125, **shape):
        batch = paged_batch(sequences, **{"dim": 32, **shape})
        q, k, v, *tables = batch.args()
        k, v = (x.to(cache_dtype or x.dtype) for x in (k, v))
        arguments = {"scale": scale, **(options or {})}
        out = gpu_attention(*(x.to(device) for x in (q, k, v, *tables)), launch=launch, **arguments)
        assert out.dtype == q.dtype
        for name in ("splits", "max_rows", "max_context", "deterministic"):
            arguments.pop(name, None)
        right = paged_attention_reference(q.double(), k.double(), v.double(), *tables, **arguments)
        assert_near(out.cpu(), right, factor=factor)

    return run


@pytest.mark.parametrize(("dtype", "page_size"), covering(DTYPES, [1, 7, 16]))
def test_a_ragged_mix_matches_the_reference(dtype, page_size, check):
    check(MIXED, page_size=page_size, dtype=dtype)


@pytest.mark.parametrize(("dtype", "max_rows", "splits"), covering(DTYPES, [None, 1], [2, 7, 1]))
def test_decodes_divided_among_programs(dtype, max_rows, splits, check):
    check(DECODES, dtype=dtype, options={"splits": splits, "max_rows": max_rows})


@pytest.mark.parametrize(
    ("dtype", "dim"), covering([torch.float32, torch.bfloat16], [8, 64, 80, 96, 112, 128, 192, 256])
)
def test_any_head_size(dtype, dim, check):
    check([(3, 20), (1, 37)], dim=dim, dtype=dtype, scale=dim**-0.5)


@pytest.mark.parametrize(
    ("all_heads", "max_rows"), covering([(1, 1), (3, 3), (6, 2), (7, 1), (16, 2), (33, 1)], [None, 1])
)
def test_any_ratio_of_query_to_kv_heads(all_heads, max_rows, check):
    heads, kv_heads = all_heads
    sequences = [(1, 40), (1, 5)] if max_rows == 1 else [(6, 40), (1, 5), (2, 33)]
    check(sequences, heads=heads, kv_heads=kv_heads, options={"max_rows": max_rows})


@pytest.mark.parametrize(
    ("window", "splits", "sequences"), covering([1, 32, 45, 1000], [1, 2], [MIXED, DECODES])
)
def test_sliding_window(window, splits, sequences, check):
    check(sequences, page_size=7, options={"sliding_window": window, "splits": splits})


@pytest.mark.parametrize(("soft_cap", "window"), covering([1.5, 50.0], [0, 20]))
def test_soft_cap(soft_cap, window, check):
    # A tanh made of an exponential is exact to 1e-7 of the cap, not of the score.
    check(MIXED, scale=0.3, factor=4, options={"soft_cap": soft_cap, "sliding_window": window})


@pytest.mark.parametrize(("dtype", "options"), covering([torch.float32, torch.bfloat16], [{}, {"splits": 2}]))
def test_a_float8_cache_is_read_with_its_scales(dtype, options, check):
    scales = {"k_scale": 0.5, "v_scale": 1.7}
    check(MIXED, dtype=dtype, cache_dtype=torch.float8_e4m3fn, options={**options, **scales}, factor=2)


@pytest.mark.parametrize("seed", range(3))
def test_batches_of_random_chunks_and_decodes(seed, check):
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for index in range(9):
        context = int(torch.randint(1, 150, (), generator=generator))
        chunk = int(torch.randint(1, min(context, 30) + 1, (), generator=generator))
        sequences.append((chunk if index % 3 == 0 else 1, context))
    check(sequences, heads=6, launch=LaunchConfig(32, 16), options={"splits": 1 + seed % 2})


@pytest.mark.parametrize("options", [{}, {"splits": 4}, {"max_rows": 1}])
def test_sequences_without_rows_and_empty_contexts(options, device, paged_batch):
    """As a padded decode batch has them; an empty context gives zeros."""
    batch = paged_batch([(1, 9), (0, 5), (1, 30), (1, 4), (0, 3)], dim=32)
    batch.context_lens[2] = 0
    arguments = [x.to(device) for x in batch.args()]
    out = gpu_attention(*arguments, scale=1.0, launch=TILE, **options)
    assert not out[1].any()
    assert not out.isnan().any()
    none = paged_batch([(0, 5)])
    out = gpu_attention(*(x.to(device) for x in none.args()), scale=1.0, launch=TILE)
    assert out.shape == (0, 4, 64)


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_rows_do_not_depend_on_chunking_or_neighbours(dtype, device, paged_batch):
    """Bit for bit: whole prompts, chunks of 7 and single tokens give the same rows."""
    length, options = 34, {"scale": 0.125, "sliding_window": 29, "deterministic": True, "launch": TILE}
    whole = paged_batch([(length, length), (5, 70), (1, 31)], heads=6, dim=32, page_size=7, dtype=dtype)
    q, k, v, tables, starts, contexts = (x.to(device) for x in whole.args())
    expected = gpu_attention(q, k, v, tables, starts, contexts, **options)[:length]
    for chunk in (1, 7, 33):
        for first in range(0, length, chunk):
            rows = slice(first, min(first + chunk, length))
            count = rows.stop - rows.start
            starts = torch.tensor([0, count], dtype=torch.int32, device=device)
            context = torch.tensor([rows.stop], dtype=torch.int32, device=device)
            part = gpu_attention(q[rows], k, v, tables[:1], starts, context, max_rows=count, **options)
            assert torch.equal(part, expected[rows])


def test_large_scores_stay_finite(device, paged_batch, assert_near):
    batch = paged_batch([(9, 80), (1, 70)], dim=32)
    batch.q.mul_(300)
    out = gpu_attention(*(x.to(device) for x in batch.args()), scale=1.0, launch=TILE)
    # Scores of some thousands, exact to 1e-7 of that, are exponents.
    assert_near(out.cpu(), paged_attention_reference(*batch.args(torch.float64), scale=1.0), factor=500)


def test_block_tables_may_be_a_slice_of_a_wider_table(device, paged_batch):
    batch = paged_batch(MIXED, dim=32)
    q, k, v, tables, starts, contexts = (x.to(device) for x in batch.args())
    wide = torch.full((20, 50), -3, dtype=torch.int32, device=device)
    rows, columns = tables.shape
    wide[:rows, :columns] = tables
    run = gpu_attention
    expected = run(q, k, v, tables, starts, contexts, scale=0.1, launch=TILE)
    out = run(q, k, v, wide[:rows, :columns], starts, contexts, scale=0.1, launch=TILE)
    assert torch.equal(out, expected)


@pytest.mark.parametrize(("rows", "context"), [(1, 100_000), (4, 300)])
def test_the_default_launch_fits_every_shape(rows, context, device, paged_batch, assert_near):
    batch = paged_batch([(rows, min(context, 90))], dtype=torch.bfloat16)
    arguments = [x.to(device) for x in batch.args()]
    out = gpu_attention(*arguments, scale=0.125, max_context=context)
    assert_near(out.cpu(), paged_attention_reference(*batch.args(torch.float64), scale=0.125))


def test_the_number_of_splits_follows_from_the_bounds_alone(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(attention, "multiprocessors", lambda device: 132)
    choose = attention._splits
    assert choose(2048, 4096, cpu) == 1
    assert choose(512, 4096, cpu) == 2
    assert choose(64, 4096, cpu) == 8
    assert choose(8, 131_072, cpu) == 32
    assert choose(8, 600, cpu) == 1


@pytest.mark.parametrize("fp8", [False, True])
def test_the_public_operation_hands_all_its_arguments_on(fp8, device, paged_batch, monkeypatch):
    monkeypatch.setattr(public, "shared_library", lambda: None)
    monkeypatch.setattr(public, "runs_triton", lambda x: True)
    q, k, v, *tables = (x.to(device) for x in paged_batch(DECODES, dim=32).args())
    if fp8:
        k, v = k.to(torch.float8_e4m3fn), v.to(torch.float8_e4m3fn)
    options = {"scale": 0.3, "sliding_window": 40, "soft_cap": 3.0, "k_scale": 0.5, "v_scale": 2.0}
    options |= {"max_rows": 1, "max_context": 200, "deterministic": True}
    expected = gpu_attention(q, k, v, *tables, **options)
    assert torch.equal(public_attention(q, k, v, *tables, **options), expected)
    with pytest.raises(ValueError, match="contiguous and of q's dtype"):
        public_attention(q.bfloat16(), k.half(), v.half(), *tables, **options)


def test_the_other_paths_read_a_float8_cache_too(paged_batch, assert_near):
    q, k, v, *tables = paged_batch(MIXED, dim=32, dtype=torch.bfloat16).args()
    k, v = k.to(torch.float8_e4m3fn), v.to(torch.float8_e4m3fn)
    options = {"scale": 0.2, "k_scale": 0.5, "v_scale": 1.7, "soft_cap": 5.0}
    right = paged_attention_reference(q.double(), k.double(), v.double(), *tables, **options)
    assert_near(public_attention(q, k, v, *tables, **options), right, factor=2)
