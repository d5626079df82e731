"""Batch-invariant products in Triton, in the interpreter where there is no GPU."""

import pytest
import torch
import torch.nn.functional as F

from headrace.kernels.int4_linear import int4_linear_torch
from headrace.kernels.int4_weight import pack
from headrace.kernels.moe import moe_mlp_torch, route_torch

pytest.importorskip("triton")
from headrace.kernels.triton import int4, linear, moe

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the largest output (in the interpreter, bf16 is cut off)."""
ROWS = (1, 2, 17, 70)


def assert_near(actual, expected, products=1):
    tolerance = products * TOLERANCE[actual.dtype] * float(expected.abs().max())
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=0, atol=tolerance)


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(0)


def assert_rows_apart(function, x):
    """Row 0 of x gives the same bits alone as in any place among any number of others."""
    alone = function(x[:1])
    for rows in ROWS:
        batch = x[1 : 1 + rows].clone()
        batch[rows // 2] = x[0]
        assert torch.equal(function(batch)[rows // 2], alone[0]), rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "out", "width"), [(1, 5, 3), (70, 66, 130), (0, 16, 16)])
def test_a_product_is_near_the_exact_one(dtype, rows, out, width, device):
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((rows, width), (out, width), (out,)))
    y = linear.invariant_linear(x.to(device), weight.to(device), bias.to(device))
    assert (y.shape, y.dtype) == ((rows, out), dtype)
    if rows:
        assert_near(y, F.linear(x.double(), weight.double(), bias.double()))


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_every_batch(dtype, device):
    x, weight = (torch.randn(*shape).to(device, dtype) for shape in ((71, 100), (40, 100)))
    assert_rows_apart(lambda x: linear.invariant_linear(x.contiguous(), weight), x)


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_a_four_bit_product_has_the_same_bits_in_every_batch(dtype, device):
    q, scales, zeros = torch.randint(0, 16, (300, 20)), torch.rand(3, 20).half(), torch.full((3, 20), 8)
    weight = pack(*(part.to(device) for part in (q, scales, zeros)), 128)
    x = torch.randn(71, 300).to(device, dtype)
    assert_rows_apart(lambda x: int4.int4_linear(x, weight, deterministic=True), x)
    exact = int4_linear_torch(x.double().cpu(), pack(q, scales, zeros, 128))
    assert_near(int4.int4_linear(x, weight, deterministic=True), exact)


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_of_a_mixture_has_the_same_bits_in_every_batch(dtype, device):
    gate_up, down = ((torch.randn(*shape) / 5).to(device, dtype) for shape in ((4, 24, 32), (4, 32, 12)))

    def mixed(x):
        weights, experts = route_torch(x[:, :4], 2, renormalize=True)
        return moe.moe_mlp(x, gate_up, down, weights, experts, deterministic=True)

    x = torch.randn(71, 32).to(device, dtype)
    assert_rows_apart(mixed, x)
    weights, experts = route_torch(x[:, :4], 2, renormalize=True)
    exact = moe_mlp_torch(*(each.double().cpu() for each in (x, gate_up, down)), weights.cpu(), experts.cpu())
    assert_near(mixed(x), exact, products=3)
