"""The GPU's norms: compiled where there is a GPU, else in Triton's interpreter."""

import pytest
import torch

from headrace.kernels.norm import rms_norm_torch

norm = pytest.importorskip("headrace.kernels.triton.norm", exc_type=ImportError)

SHAPES = [(1, 1), (3, 16), (7, 33), (2, 5, 100), (4, 1025), (0, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
truncates = pytest.mark.skipif(not torch.cuda.is_available(), reason="interpreted, bfloat16 is truncated")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(dtype, shape, device, assert_near):
    x, weight = torch.randn(shape).to(dtype), torch.rand(shape[-1]).to(dtype)
    y = norm.rms_norm(x.to(device), weight.to(device), 1e-5)
    assert y.dtype == dtype
    assert_near(y.cpu(), rms_norm_torch(x.double(), weight.double(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_add_rms_norm_updates_the_residual_in_place(dtype, shape, device, assert_near):
    x, residual = torch.randn(2, *shape).to(dtype).to(device)
    weight = torch.rand(shape[-1]).to(dtype).to(device)
    total = x + residual
    y, returned = norm.add_rms_norm(x, residual, weight, 1e-5)
    assert returned is residual
    assert_near(residual.cpu(), total.double().cpu())
    assert_near(y.cpu(), rms_norm_torch(residual.double(), weight.double(), 1e-5).cpu())


def test_rows_of_a_strided_tensor(device, assert_near):
    x, weight = torch.randn(6, 50, device=device)[:, 10:30], torch.rand(20, device=device)
    y = norm.rms_norm(x, weight, 1e-5)
    assert_near(y.cpu(), rms_norm_torch(x.double(), weight.double(), 1e-5).cpu())


@pytest.mark.parametrize("dtype", [pytest.param(torch.bfloat16, marks=truncates), torch.float16])
def test_the_rounding_is_that_of_transformers(dtype, device):
    x, weight = torch.randn(16, 257).to(dtype), torch.rand(257).to(dtype)
    y = norm.rms_norm(x.to(device), weight.to(device), 1e-6).cpu()
    off = (y != rms_norm_torch(x, weight, 1e-6)).float().mean()
    assert off < 0.002  # a sum in another order moves a value across a rounding boundary now and then
