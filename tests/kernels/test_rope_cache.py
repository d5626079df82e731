import pytest
import torch

from headrace.kernels import rope_cache

from . import flat

rope_and_cache = flat.rope_and_cache(rope_cache.rope_and_cache)
rope_and_cache_torch = flat.rope_and_cache(rope_cache.rope_and_cache_torch)
PATHS = [rope_and_cache, rope_and_cache_torch]


def angles(positions: int, dim: int) -> torch.Tensor:
    inverse = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * inverse
    return torch.cat((angle.cos(), angle.sin()), dim=-1).float()


@pytest.fixture
def inputs():
    def make(tokens, heads, kv_heads, dim, page_size, dtype, norm):
        generator = torch.Generator().manual_seed(tokens)
        qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, generator=generator).to(dtype)
        positions = torch.randint(0, 900, (tokens,), generator=generator)
        pages = tokens // page_size + 2
        slots = torch.randperm(pages * page_size, generator=generator)[:tokens]
        caches = torch.full((2, pages, kv_heads, page_size, dim), torch.nan, dtype=dtype)
        weights = [torch.rand(dim, generator=generator).to(dtype) + 0.5 if norm else None for _ in range(2)]
        return qkv, positions, slots, angles(900, dim), caches, weights

    return make


def reference(qkv, positions, slots, cos_sin, caches, weights, heads, kv_heads):
    """Head by head in float64, from the definition; the norm rounds once to the dtype, as documented."""
    _, _, page_size, dim = caches[0].shape
    out = torch.full((len(qkv), heads, dim), torch.nan, dtype=torch.float64)
    k_cache, v_cache = caches.double().unbind()
    for t, row in enumerate(qkv.double().view(len(qkv), -1, dim)):
        cos, sin = cos_sin[positions[t]].double().repeat(2).view(2, 2, -1).transpose(0, 1).reshape(2, -1)
        page, offset = divmod(int(slots[t]), page_size)
        for h, x in enumerate(row):
            weight = weights[0] if h < heads else weights[1]
            if weight is not None and h < heads + kv_heads:
                x = x / (x.square().mean() + 1e-6).sqrt() * weight.double()
            turned = x * cos + torch.cat((-x[dim // 2 :], x[: dim // 2])) * sin
            if h < heads:
                out[t, h] = turned
            elif h < heads + kv_heads:
                k_cache[page, h - heads, offset] = turned
            else:
                v_cache[page, h - heads - kv_heads, offset] = x
    return out, k_cache, v_cache


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim", "page_size"),
    [(1, 1, 1, 2, 1), (3, 4, 2, 64, 16), (37, 6, 3, 40, 7), (130, 8, 2, 128, 16), (70, 3, 1, 32, 1)],
)
def test_matches_the_definition_and_writes_only_its_slots(
    path, dtype, norm, tokens, heads, kv_heads, dim, page_size, inputs, assert_near
):
    qkv, positions, slots, cos_sin, caches, weights = inputs(
        tokens, heads, kv_heads, dim, page_size, dtype, norm
    )
    expected = reference(qkv, positions, slots, cos_sin, caches, weights, heads, kv_heads)
    q = path(
        qkv,
        positions,
        slots,
        cos_sin,
        *caches,
        num_heads=heads,
        num_kv_heads=kv_heads,
        q_norm=weights[0],
        k_norm=weights[1],
    )
    assert q.shape == (tokens, heads, dim)
    for actual, right in zip((q, *caches), expected, strict=True):
        assert torch.equal(actual.isnan(), right.isnan())
        assert_near(actual.nan_to_num(), right.nan_to_num(), factor=2)


@pytest.mark.parametrize(("position", "slot"), [(900, 0), (-1, 0), (0, 32), (0, -1)])
def test_a_position_or_slot_outside_its_table_is_refused_before_any_write(position, slot, inputs):
    qkv, positions, slots, cos_sin, caches, _ = inputs(5, 2, 1, 16, 16, torch.float32, False)
    positions[3], slots[3] = position, slot
    with pytest.raises(IndexError, match="token 3"):
        rope_and_cache(qkv, positions, slots, cos_sin, *caches, num_heads=2, num_kv_heads=1)
    assert caches.isnan().all()


def test_misread_arguments_are_refused(inputs):
    qkv, positions, slots, cos_sin, caches, _ = inputs(5, 2, 1, 16, 16, torch.float32, False)
    heads = {"num_heads": 2, "num_kv_heads": 1}
    with pytest.raises(ValueError, match="positions must be contiguous int64"):
        rope_and_cache(qkv, positions.int(), slots, cos_sin, *caches, **heads)
    with pytest.raises(ValueError, match="cos_sin must be contiguous float32"):
        rope_and_cache(qkv, positions, slots, cos_sin.double(), *caches, **heads)
    with pytest.raises(ValueError, match="of qkv's dtype"):
        rope_and_cache(qkv.bfloat16(), positions, slots, cos_sin, *caches, **heads)
    with pytest.raises(ValueError, match="do not fit"):
        rope_and_cache(qkv, positions, slots, cos_sin, *caches, num_heads=3, num_kv_heads=1)
