"""The Triton path of four-bit weights against a float64 product; in the interpreter where there is no GPU."""

import dataclasses

import pytest
import torch

from headrace.kernels.int4_linear import int4_linear_torch, pack_int4_linear
from headrace.kernels.int4_weight import Int4Weight, dequantize, pack

from ..support.covering import covering

pytest.importorskip("triton")
from headrace.kernels.triton import int4

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the largest output: inputs and weights' integers are exact, so only the result is rounded (in the
interpreter, bf16 is cut off)."""


def weight_of(inputs: int, outputs: int, group: int) -> Int4Weight:
    generator = torch.Generator().manual_seed(inputs + outputs)
    groups = 1 if group == -1 else -(-inputs // group)
    q = torch.randint(0, 16, (inputs, outputs), generator=generator)
    zeros = torch.randint(0, 17, (groups, outputs), generator=generator)
    scales = (torch.rand(groups, outputs, generator=generator) * 0.02 + 0.001).half()
    return pack(q, scales, zeros, group)


def here(weight: Int4Weight) -> Int4Weight:
    parts = {name: getattr(weight, name).to(DEVICE) for name in ("packed", "scales", "zeros")}
    return dataclasses.replace(weight, **parts)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    tolerance = TOLERANCE[actual.dtype] * scale
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    covering(
        list(TOLERANCE),
        [
            (1, 256, 64, 128, 1),
            (1, 1500, 70, 128, 4),
            (3, 515, 33, 32, 2),
            (16, 768, 100, 64, 3),
            (17, 300, 5, -1, None),
            (64, 257, 65, 256, 1),
            (5, 31, 1, 32, 1),
            (2, 2048, 48, 512, 5),
            (0, 64, 16, 64, None),
        ],
    ),
)
def test_the_fused_product_is_near_the_exact_one(dtype, sizes):
    rows, inputs, outputs, group, splits = sizes
    weight = weight_of(inputs, outputs, group)
    x = torch.randn(rows, inputs + 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[:, inputs:] = torch.nan
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(2)).to(dtype)
    for used in (bias, None):
        expected = int4_linear_torch(x[:, :inputs].double(), weight, None if used is None else used.double())
        made = int4.int4_linear(
            x.to(DEVICE)[:, :inputs], here(weight), None if used is None else used.to(DEVICE), splits
        )
        assert made.dtype == dtype
        assert_near(made, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_many_rows_are_multiplied_by_the_dequantised_weight(dtype):
    weight = weight_of(300, 72, 128)
    x = torch.randn(65, 300).to(dtype)
    bias = torch.randn(72).to(dtype)
    made = int4.int4_linear(x.to(DEVICE), here(weight), bias.to(DEVICE))
    rounded = dequantize(weight, dtype).double()
    assert_near(made, x.double() @ rounded.t() + bias.double())


@pytest.mark.parametrize(("inputs", "outputs", "group"), [(256, 64, 32), (301, 70, 64), (90, 3, -1)])
def test_dequantising_is_exact(inputs, outputs, group):
    weight = weight_of(inputs, outputs, group)
    made = int4.dequantize(here(weight), torch.float32)
    assert torch.equal(made.cpu().t(), dequantize(weight, torch.float32))


def test_groups_that_the_kernel_does_not_know_are_refused():
    with pytest.raises(ValueError, match="groups of 48"):
        int4.int4_linear(torch.ones(1, 96, device=DEVICE), here(weight_of(96, 16, 48)))


@pytest.mark.skipif(DEVICE == "cpu", reason="the public operation takes this path on a GPU")
def test_the_public_operation_takes_the_path_of_its_device():
    weight = dataclasses.replace(weight_of(256, 64, 128), permutation=torch.randperm(256))
    x = torch.randn(4, 3, 256).half()
    moved = dataclasses.replace(here(weight), permutation=weight.permutation.to(DEVICE))
    layer = pack_int4_linear(moved, None, torch.float16, rows_hint=4)
    assert_near(layer(x.to(DEVICE)), int4_linear_torch(x.double(), weight))
