"""Four-bit weights: the checkpoint formats against a plain reading of them, and the CPU's product."""

import pytest
import torch

from headrace.kernels.int4_linear import int4_linear_torch, pack_int4_linear
from headrace.kernels.int4_weight import Int4Weight, dequantize, from_awq, from_gptq, pack, unpack
from headrace.kernels.linear import Linear


def draw(inputs: int, outputs: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [in, out], zeros (from 1 to 16) and scales [groups, out]."""
    generator = torch.Generator().manual_seed(inputs + outputs)
    groups = -(-inputs // group)
    q = torch.randint(0, 16, (inputs, outputs), generator=generator)
    zeros = torch.randint(1, 17, (groups, outputs), generator=generator)
    scales = (torch.rand(groups, outputs, generator=generator) * 0.02 + 0.001).half()
    return q, zeros, scales


def plain(q: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """[out, in], in float64."""
    return ((q - zeros[groups]).double() * scales.double()[groups]).t()


def words(values: torch.Tensor, dim: int, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Packs eight successive entries of a dimension into an int32: nibble i is entry order[i]."""
    values = values.movedim(dim, -1).unflatten(-1, (-1, 8))
    packed = sum(values[..., entry] << (4 * nibble) for nibble, entry in enumerate(order))
    return packed.to(torch.int32).movedim(-1, dim)


@pytest.mark.parametrize(
    ("inputs", "outputs", "group"), [(256, 8, 128), (96, 24, 32), (200, 16, 64), (8, 8, 8)]
)
@pytest.mark.parametrize("offset", [0, 1])
def test_gptq_files_are_read_as_written(inputs, outputs, group, offset):
    q, zeros, scales = draw(inputs, outputs, group)
    zeros -= 1 - offset
    groups = torch.arange(inputs) // group
    weight = from_gptq(
        words(q, 0), words(zeros - offset, 1), scales, groups.int(), group_size=group, zero_offset=offset
    )
    assert weight.permutation is None
    assert torch.equal(dequantize(weight, torch.float64), plain(q, zeros, scales, groups))
    bare = from_gptq(
        words(q, 0), words(zeros - offset, 1), scales, None, group_size=group, zero_offset=offset
    )
    assert torch.equal(bare.packed, weight.packed)


def test_gptq_files_in_activation_order_are_read_as_written():
    inputs, outputs, group = 200, 24, 32
    q, zeros, scales = draw(inputs, outputs, group)
    groups = (torch.arange(inputs) // group)[
        torch.randperm(inputs, generator=torch.Generator().manual_seed(0))
    ]
    weight = from_gptq(words(q, 0), words(zeros - 1, 1), scales, groups, group_size=group)
    expected = plain(q, zeros, scales, groups)
    assert torch.equal(dequantize(weight, torch.float64), expected)
    x = torch.randn(3, 2, inputs, dtype=torch.float64)
    layer = pack_int4_linear(weight, None, torch.float32, rows_hint=2)
    torch.testing.assert_close(layer(x.float()).double(), x @ expected.t(), rtol=1e-5, atol=1e-5)


def test_groups_of_uneven_size_are_refused():
    q, zeros, scales = draw(64, 8, 32)
    groups = torch.zeros(64, dtype=torch.int32)
    groups[0] = 1
    with pytest.raises(ValueError, match="g_idx"):
        from_gptq(words(q, 0), words(zeros - 1, 1), scales, groups, group_size=32)


@pytest.mark.parametrize(("inputs", "outputs", "group"), [(256, 16, 128), (70, 8, 70), (320, 40, 64)])
def test_awq_files_are_read_as_written(inputs, outputs, group):
    q, zeros, scales = draw(inputs, outputs, group)
    zeros -= 1
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    weight = from_awq(
        words(q, 1, order), words(zeros, 1, order), scales, group_size=-1 if group == inputs else group
    )
    groups = torch.arange(inputs) // group
    assert torch.equal(dequantize(weight, torch.float64), plain(q, zeros, scales, groups))


@pytest.mark.parametrize("inputs", [1, 31, 255, 256, 257, 700])
def test_packing_loses_nothing(inputs):
    q, zeros, scales = draw(inputs, 3, 32)
    weight = pack(q, scales, zeros, 32)
    assert torch.equal(unpack(weight).long(), q)
    assert weight.packed.shape == (-(-inputs // 256) * 32, 3)


def test_scales_that_do_not_fit_are_refused():
    q, zeros, scales = draw(64, 8, 32)
    with pytest.raises(ValueError, match="groups of 16"):
        pack(q, scales, zeros, 16)


def weight_of(inputs: int, outputs: int, group: int) -> Int4Weight:
    q, zeros, scales = draw(inputs, outputs, inputs if group == -1 else group)
    return pack(q, scales, zeros, group)


TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}
"""Of the largest output."""


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "group"),
    [(1, 256, 64, 128), (33, 512, 16, 256), (3, 384, 32, -1), (0, 64, 16, 64), (7, 100, 33, 32)],
)
def test_the_cpu_product_is_near_the_exact_one(rows, inputs, outputs, group, dtype):
    weight = weight_of(inputs, outputs, group)
    bias = torch.randn(outputs).to(dtype)
    x = torch.randn(rows, inputs).to(dtype)
    layer = pack_int4_linear(weight, bias, dtype, rows_hint=4)
    assert isinstance(layer, Linear)
    assert (layer.in_features, layer.out_features) == (inputs, outputs)
    expected = int4_linear_torch(x.double(), weight, bias.double())
    scale = float(expected.abs().max()) if rows else 1.0
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)
