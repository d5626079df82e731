import pytest
import torch

from headrace.kernels.norm import add_rms_norm, add_rms_norm_torch, rms_norm, rms_norm_torch

SHAPES = [(1, 1), (3, 16), (7, 33), (2, 5, 100), (300, 1024), (0, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("path", [rms_norm, rms_norm_torch])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(path, dtype, shape, assert_near):
    x, weight = torch.randn(shape).to(dtype), torch.rand(shape[-1]).to(dtype)
    y = path(x, weight, 1e-5)
    assert y.dtype == dtype
    assert_near(y, rms_norm_torch(x.double(), weight.double(), 1e-5))


@pytest.mark.parametrize("path", [add_rms_norm, add_rms_norm_torch])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_add_rms_norm_updates_the_residual_in_place(path, dtype, shape, assert_near):
    x, residual, weight = (
        torch.randn(shape).to(dtype),
        torch.randn(shape).to(dtype),
        torch.rand(shape[-1]).to(dtype),
    )
    total = x + residual
    y, returned = path(x, residual, weight, 1e-5)
    assert returned is residual
    assert torch.equal(residual, total)
    assert_near(y, rms_norm_torch(total.double(), weight.double(), 1e-5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_rounding_is_that_of_transformers(dtype):
    x, weight = torch.randn(64, 257).to(dtype), torch.rand(257).to(dtype)
    off = (rms_norm(x, weight, 1e-6) != rms_norm_torch(x, weight, 1e-6)).float().mean()
    assert off < 0.002  # a sum in another order moves a value across a rounding boundary now and then


def test_rows_of_a_strided_tensor_and_mismatched_operands(assert_near):
    wide, weight = torch.randn(6, 50), torch.rand(20)
    x = wide[:, 10:30]
    assert_near(rms_norm(x, weight, 1e-5), rms_norm_torch(x.double(), weight.double(), 1e-5))
    residual = torch.randn(6, 50)[:, :20]
    total = x + residual
    _, returned = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(returned, total)
    with pytest.raises(ValueError, match="weight must be"):
        rms_norm(x, weight[:5], 1e-5)
    with pytest.raises(ValueError, match="residual must be"):
        add_rms_norm(x, torch.randn(5, 20), weight, 1e-5)
