import pytest
import torch

from headrace.kernels import attention

from . import flat

paged_attention = flat.attention(attention.paged_attention)
paged_attention_torch = flat.attention(attention.paged_attention_torch)
paged_attention_reference = flat.attention(attention.paged_attention_reference)
MIXED = [(1, 1), (1, 2), (3, 3), (1, 17), (16, 16), (17, 40), (1, 64), (5, 65), (1, 130), (33, 200)]
PATHS = [paged_attention, paged_attention_torch]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 7, 16])
def test_a_ragged_mix_matches_the_reference(path, dtype, page_size, paged_batch, assert_near):
    batch = paged_batch(MIXED, page_size=page_size, dtype=dtype)
    out = path(*batch.args(), scale=0.125)
    assert out.dtype == dtype
    assert_near(out, paged_attention_reference(*batch.args(torch.float64), scale=0.125))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [32, 64, 128, 8, 40, 72, 80, 96, 256])
def test_any_head_size(path, dtype, dim, paged_batch, assert_near):
    batch = paged_batch(MIXED, dim=dim, dtype=dtype)
    scale = dim**-0.5
    out = path(*batch.args(), scale=scale)
    assert_near(out, paged_attention_reference(*batch.args(torch.float64), scale=scale))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (6, 2), (7, 1), (16, 2), (32, 1), (150, 1)])
def test_any_ratio_of_query_to_kv_heads(path, dtype, heads, kv_heads, paged_batch, assert_near):
    batch = paged_batch(MIXED, heads=heads, kv_heads=kv_heads, dim=32, page_size=7, dtype=dtype)
    out = path(*batch.args(), scale=0.2)
    assert_near(out, paged_attention_reference(*batch.args(torch.float64), scale=0.2))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [1, 5, 64, 100, 1000])
@pytest.mark.parametrize("soft_cap", [0.0, 1.5, 50.0])
def test_sliding_window_and_soft_cap(path, dtype, window, soft_cap, paged_batch, assert_near):
    batch = paged_batch(MIXED, page_size=7, dtype=dtype)
    options = {"scale": 0.3, "sliding_window": window, "soft_cap": soft_cap}
    out = path(*batch.args(), **options)
    assert_near(out, paged_attention_reference(*batch.args(torch.float64), **options))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("batch_size", [1, 2, 13, 70])
def test_batches_of_random_chunks_and_decodes(path, batch_size, paged_batch, assert_near):
    generator = torch.Generator().manual_seed(batch_size)
    sequences = []
    for _ in range(batch_size):
        context = int(torch.randint(1, 300, (), generator=generator))
        chunk = int(torch.randint(1, context + 1, (), generator=generator))
        sequences.append((chunk if len(sequences) % 3 == 0 else 1, context))
    batch = paged_batch(sequences, dim=32)
    out = path(*batch.args(), scale=0.2)
    assert_near(out, paged_attention_reference(*batch.args(torch.float64), scale=0.2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_chunking_or_neighbours(dtype, paged_batch):
    """Bit for bit: whole prompts, chunks of 7 and single tokens give the same rows."""
    length = 150
    whole = paged_batch([(length, length), (40, 200), (1, 31)], heads=6, page_size=7, dtype=dtype)
    expected = paged_attention(*whole.args(), scale=0.125, sliding_window=90)[:length]
    for chunk in (1, 7, 149):
        for first in range(0, length, chunk):
            rows = slice(first, min(first + chunk, length))
            part = paged_attention(
                whole.q[rows].contiguous(),
                whole.k_cache,
                whole.v_cache,
                whole.block_tables[:1],
                torch.tensor([0, rows.stop - rows.start], dtype=torch.int32),
                torch.tensor([rows.stop], dtype=torch.int32),
                scale=0.125,
                sliding_window=90,
            )
            assert torch.equal(part, expected[rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(5, 5, 64), (10, 5, 256), (12, 4, 64)])
@pytest.mark.parametrize("page_size", [7, 16])
def test_decodes_of_many_heads_give_the_same_bits_alone_and_together(
    dtype, heads, kv_heads, dim, page_size, paged_batch, assert_near
):
    """Of many decodes a thread takes several kv heads at once, of one it takes each by itself."""
    sequences = [(1, 1 + 37 * i % 260) for i in range(60)] + [(40, 130)]
    batch = paged_batch(sequences, heads=heads, kv_heads=kv_heads, dim=dim, page_size=page_size, dtype=dtype)
    options = {"scale": 0.125, "sliding_window": 100}
    together = paged_attention(*batch.args(), **options)
    assert_near(together, paged_attention_reference(*batch.args(torch.float64), **options))
    for i in range(60):
        alone = paged_attention(
            batch.q[i : i + 1],
            batch.k_cache,
            batch.v_cache,
            batch.block_tables[i : i + 1],
            torch.tensor([0, 1], dtype=torch.int32),
            batch.context_lens[i : i + 1],
            **options,
        )
        assert torch.equal(alone, together[i : i + 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype, paged_batch):
    batch = paged_batch([*MIXED, (300, 300)], dtype=dtype)
    expected = paged_attention(*batch.args(), scale=0.125)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(paged_attention(*batch.args(), scale=0.125), expected)


@pytest.mark.parametrize("path", PATHS)
def test_large_scores_stay_finite(path, paged_batch, assert_near):
    batch = paged_batch([(9, 80), (1, 70)])
    batch.q.mul_(300)
    out = path(*batch.args(), scale=1.0)
    assert_near(out, paged_attention_reference(*batch.args(torch.float64), scale=1.0), factor=500)


@pytest.mark.parametrize("path", PATHS)
def test_sequences_without_rows_and_empty_batches_are_allowed(path, paged_batch, assert_near):
    batch = paged_batch([(0, 5), (2, 9), (0, 30), (1, 4), (0, 3)])
    assert_near(path(*batch.args(), scale=1), paged_attention_reference(*batch.args(torch.float64), scale=1))
    none = paged_batch([(0, 5)])
    assert path(*none.args(), scale=1).shape == (0, 4, 64)


def test_block_tables_may_be_a_slice_of_a_wider_table(paged_batch):
    batch = paged_batch(MIXED)
    wide = torch.full((20, 50), -3, dtype=torch.int32)
    rows, columns = batch.block_tables.shape
    wide[:rows, :columns] = batch.block_tables
    expected = paged_attention(*batch.args(), scale=0.1)
    batch.block_tables = wide[:rows, :columns]
    assert torch.equal(paged_attention(*batch.args(), scale=0.1), expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_misread_integers_are_refused(dtype, paged_batch):
    batch = paged_batch([(1, 5)])
    batch.context_lens = batch.context_lens.to(dtype)
    with pytest.raises(ValueError, match="context_lens must be int32"):
        paged_attention(*batch.args(), scale=1)


def test_caches_of_another_type_or_shape_are_refused(paged_batch):
    batch = paged_batch([(1, 5)])
    with pytest.raises(ValueError, match="contiguous and of q's dtype"):
        paged_attention(batch.q.bfloat16(), *batch.args()[1:], scale=1)
    with pytest.raises(ValueError, match="do not fit"):
        paged_attention(batch.q[:, :3], *batch.args()[1:], scale=1)
    with pytest.raises(ValueError, match="1 context_lens do not fit"):
        paged_attention(*batch.args()[:4], torch.zeros(3, dtype=torch.int32), batch.context_lens, scale=1)


def test_works_under_inference_mode_and_in_float64(paged_batch, assert_near):
    batch = paged_batch(MIXED)
    with torch.inference_mode():
        out = paged_attention(*batch.args(torch.float64), scale=0.1)
    assert_near(out, paged_attention_reference(*batch.args(torch.float64), scale=0.1))


def test_the_tests_above_ran_compiled_code():
    assert attention.shared_library() is not None
