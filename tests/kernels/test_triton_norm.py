"""The GPU's norms: compiled where there is a GPU, else in Triton's interpreter."""

import pytest
import torch

from headrace.kernels import norm as public
from headrace.kernels.norm import rms_norm_torch

from ..support.covering import covering

norm = pytest.importorskip("headrace.kernels.triton.norm", exc_type=ImportError)

SHAPES = [(1, 1), (3, 16), (7, 33), (2, 5, 100), (4, 1025), (0, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
truncates = pytest.mark.skipif(not torch.cuda.is_available(), reason="interpreted, bfloat16 is truncated")


@pytest.mark.parametrize(("dtype", "shape"), covering(DTYPES, SHAPES))
def test_rms_norm(dtype, shape, device, assert_near):
    x, weight = torch.randn(shape).to(dtype), torch.rand(shape[-1]).to(dtype)
    y = norm.rms_norm(x.to(device), weight.to(device), 1e-5)
    assert y.dtype == dtype
    assert_near(y.cpu(), rms_norm_torch(x.double(), weight.double(), 1e-5))


@pytest.mark.parametrize(("dtype", "shape"), covering(DTYPES, SHAPES))
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


def test_the_public_operations_take_this_path_and_check_first(device, monkeypatch):
    monkeypatch.setattr(public, "shared_library", lambda: None)
    monkeypatch.setattr(public, "runs_triton", lambda x: True)
    x, residual, weight = (torch.randn(shape, device=device) for shape in ((3, 40), (3, 40), 40))
    assert torch.equal(public.rms_norm(x, weight, 0.1), norm.rms_norm(x, weight, 0.1))
    expected, _ = norm.add_rms_norm(x, residual.clone(), weight, 0.1)
    assert torch.equal(public.add_rms_norm(x, residual, weight, 0.1)[0], expected)
    with pytest.raises(ValueError, match="weight must be"):
        public.rms_norm(x, weight[:5], 0.1)
    with pytest.raises(ValueError, match="residual must be"):
        public.add_rms_norm(x, residual[:2], weight, 0.1)
