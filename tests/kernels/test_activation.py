import pytest
import torch

from headrace.kernels.activation import gelu_tanh_and_mul, silu_and_mul, silu_and_mul_torch


@pytest.mark.parametrize("path", [silu_and_mul, silu_and_mul_torch])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 17), (64, 512), (5, 1000), (0, 8)])
def test_silu_and_mul(path, dtype, rows, width, assert_near):
    gate_up = (torch.randn(rows, 2 * width) * 4).to(dtype)
    y = path(gate_up)
    assert y.shape == (rows, width)
    assert y.dtype == dtype
    assert_near(y, silu_and_mul_torch(gate_up.double()))


@pytest.mark.parametrize("path", [silu_and_mul, silu_and_mul_torch])
def test_extreme_gates(path):
    gate = torch.tensor([[-3e38, -1000.0, -88.0, 0.0, 88.0, 1000.0, 3e38]])
    y = path(torch.cat((gate, torch.ones_like(gate)), dim=1))
    torch.testing.assert_close(y, gate.clamp(min=0), atol=1e-35, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 17), (64, 512), (0, 8)])
def test_gelu_tanh_and_mul(dtype, rows, width, assert_near):
    gate_up = (torch.randn(rows, 2 * width) * 4).to(dtype)
    gate, up = gate_up.double().chunk(2, dim=1)
    cubic = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    y = gelu_tanh_and_mul(gate_up)
    assert y.dtype == dtype
    assert_near(y, gate * (1 + torch.tanh(cubic)) / 2 * up)
