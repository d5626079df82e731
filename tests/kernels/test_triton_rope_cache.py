"""The GPU's rotary embedding and cache write: compiled where there is a GPU, else in Triton's interpreter.

The reference is the torch path in float64, which test_rope_cache.py holds against the definition.
"""

import pytest
import torch

from headrace.kernels import rope_cache as public

from ..support.covering import covering
from . import flat

rope = pytest.importorskip("headrace.kernels.triton.rope_cache", exc_type=ImportError)

gpu_rope = flat.rope_and_cache(rope.rope_and_cache)
public_rope = flat.rope_and_cache(public.rope_and_cache)
rope_and_cache_torch = flat.rope_and_cache(public.rope_and_cache_torch)

POSITIONS = 300
SHAPES = [(1, 1, 1, 2, 1), (3, 4, 2, 64, 16), (9, 6, 3, 40, 7), (4, 8, 2, 128, 16), (5, 71, 1, 96, 3)]


@pytest.fixture
def inputs(device):
    def make(tokens, heads, kv_heads, dim, page_size, dtype, cache_dtype=None):
        generator = torch.Generator().manual_seed(tokens)
        inverse = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.arange(POSITIONS, dtype=torch.float64)[:, None] * inverse
        pages = tokens // page_size + 2
        caches = torch.full((2, pages, kv_heads, page_size, dim), torch.nan).to(cache_dtype or dtype)
        tensors = (
            torch.randn(tokens, (heads + 2 * kv_heads) * dim, generator=generator).to(dtype),
            torch.randint(0, POSITIONS, (tokens,), generator=generator),
            torch.randperm(pages * page_size, generator=generator)[:tokens],
            torch.cat((angle.cos(), angle.sin()), dim=-1).float(),
            *caches,
        )
        return [x.to(device) for x in tensors], {"num_heads": heads, "num_kv_heads": kv_heads}

    return make


def wide(tensors):
    """The same inputs for the float64 reference; its caches are poisoned like the others."""
    return [x.double().cpu().clone() if x.is_floating_point() else x.cpu() for x in tensors]


@pytest.mark.parametrize(
    ("dtype", "norms", "shape"),
    covering([torch.float32, torch.bfloat16, torch.float16], [(), ("q_norm",), ("q_norm", "k_norm")], SHAPES),
)
def test_matches_the_reference_and_writes_only_its_slots(dtype, norms, shape, inputs, device, assert_near):
    tensors, heads = inputs(*shape, dtype)
    weights = {name: (torch.rand(shape[3]) + 0.5).to(dtype) for name in norms}
    expected = wide(tensors)
    right = rope_and_cache_torch(*expected, **heads, **{k: w.double() for k, w in weights.items()})
    q = gpu_rope(*tensors, **heads, **{k: w.to(device) for k, w in weights.items()})
    for actual, reference in ((q, right), (tensors[4], expected[4]), (tensors[5], expected[5])):
        assert torch.equal(actual.isnan().cpu(), reference.isnan())
        # Rounded twice with a norm: before its weight, and at the end.
        assert_near(actual.cpu().nan_to_num(), reference.nan_to_num(), factor=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_float8_cache_gets_the_bits_that_torch_rounds_to(dtype, inputs):
    """Rotated by no angle, so that both paths round the same numbers: tiny, ordinary and too large ones."""
    tensors, heads = inputs(64, 2, 1, 64, 16, dtype, torch.float8_e4m3fn)
    tensors[0] *= torch.logspace(-6, 4, 64, device=tensors[0].device)[:, None].to(dtype)
    tensors[1].zero_()
    scales = {"k_scale": 0.7, "v_scale": 3.0}
    expected = [x.cpu().clone() for x in tensors]
    rope_and_cache_torch(*expected, **heads, **scales)
    gpu_rope(*tensors, **heads, **scales)
    for actual, right in zip(tensors[4:], expected[4:], strict=True):
        assert torch.equal(actual.view(torch.uint8).cpu(), right.view(torch.uint8))


@pytest.mark.parametrize(("position", "slot"), [(POSITIONS, 0), (-1, 0), (0, 32), (0, -1)])
def test_a_token_outside_its_table_writes_nothing(position, slot, inputs):
    tensors, heads = inputs(5, 2, 1, 16, 16, torch.float32)
    tensors[1][3], tensors[2][3] = position, slot
    gpu_rope(*tensors, **heads)
    assert (~tensors[4].isnan()).any(-1).sum() == 4
    assert (~tensors[5].isnan()).any(-1).sum() == 4


def test_the_public_operation_hands_all_its_arguments_on(inputs, device, monkeypatch):
    monkeypatch.setattr(public, "shared_library", lambda: None)
    monkeypatch.setattr(public, "runs_triton", lambda x: True)
    tensors, heads = inputs(9, 4, 2, 32, 16, torch.float16, torch.float8_e4m3fn)
    weights = torch.rand(2, 32, device=device).half()
    options = {"q_norm": weights[0], "k_norm": weights[1], "eps": 1e-2, "k_scale": 0.5, "v_scale": 2.0}
    again = [x.clone() for x in tensors]
    expected = gpu_rope(*tensors, **heads, **options)
    assert torch.equal(public_rope(*again, **heads, **options), expected)
    for actual, right in zip(again[4:], tensors[4:], strict=True):
        assert torch.equal(actual.view(torch.uint8), right.view(torch.uint8))
