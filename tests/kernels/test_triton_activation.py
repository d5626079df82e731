"""The GPU's activations: compiled where there is a GPU, else in Triton's interpreter."""

import pytest
import torch

from headrace.kernels import activation as public
from headrace.kernels.activation import gelu_tanh_and_mul_torch, silu_and_mul_torch

activation = pytest.importorskip("headrace.kernels.triton.activation", exc_type=ImportError)

PAIRS = [
    (activation.silu_and_mul, silu_and_mul_torch),
    (activation.gelu_tanh_and_mul, gelu_tanh_and_mul_torch),
]


@pytest.mark.parametrize(("op", "reference"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 17), (5, 512), (2, 2500), (0, 8)])
def test_gated_activations(op, reference, dtype, rows, width, device, assert_near):
    gate_up = (torch.randn(rows, 2 * width) * 4).to(dtype)
    y = op(gate_up.to(device))
    assert y.shape == (rows, width)
    assert y.dtype == dtype
    assert_near(y.cpu(), reference(gate_up.double()))


@pytest.mark.parametrize(("op", "reference"), PAIRS)
def test_extreme_gates(op, reference, device):
    gate = torch.tensor([[-1e12, -1000.0, -88.0, 0.0, 88.0, 1000.0, 1e12]], device=device)
    y = op(torch.cat((gate, torch.ones_like(gate)), dim=1))
    torch.testing.assert_close(y, gate.clamp(min=0), atol=1e-35, rtol=1e-6)


def test_rows_of_a_strided_tensor(device, assert_near):
    gate_up = torch.randn(4, 100, device=device)[:, 20:60]
    y = activation.silu_and_mul(gate_up)
    assert_near(y.cpu(), silu_and_mul_torch(gate_up.double()).cpu())


@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_tanh_and_mul"])
def test_the_public_operations_take_this_path(name, device, monkeypatch):
    monkeypatch.setattr(public, "shared_library", lambda: None)
    monkeypatch.setattr(public, "runs_triton", lambda x: True)
    gate_up = torch.randn(3, 40, device=device)
    assert torch.equal(getattr(public, name)(gate_up), getattr(activation, name)(gate_up))
