import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headrace.kernels.linear import pack_linear, widened_linear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("rows_hint", [1, 64])
@pytest.mark.parametrize(("out", "width"), [(1, 1), (33, 7), (96, 64), (1000, 130)])
def test_any_number_of_rows_through_one_packed_weight(dtype, with_bias, rows_hint, out, width, assert_near):
    weight = (torch.randn(out, width) / width**0.5).to(dtype)
    bias = torch.randn(out).to(dtype) if with_bias else None
    linear = pack_linear(weight, bias, rows_hint=rows_hint)
    assert (linear.out_features, linear.in_features) == (out, width)
    for rows in (0, 1, 3, 8, 65, 300):
        x = torch.randn(rows, width).to(dtype)
        y = linear(x)
        assert (y.shape, y.dtype) == ((rows, out), dtype)
        assert_near(y, F.linear(x.double(), weight.double(), None if bias is None else bias.double()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_made_and_called_inside_or_outside_inference_mode(dtype, assert_near):
    weight, x = torch.nn.Parameter((torch.randn(40, 32) / 6).to(dtype)), torch.randn(15, 32).to(dtype)
    with torch.inference_mode():
        inside = pack_linear(weight, rows_hint=4)
        results = [inside(x), pack_linear(weight, rows_hint=4)(x)]
    outside = pack_linear(weight, rows_hint=4)
    results += [inside(x), outside(x)]
    with torch.inference_mode():
        results.append(outside(x))
    for y in results:
        assert not y.requires_grad
        assert_near(y, F.linear(x.double(), weight.detach().double()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_of_a_weight_made_float_part_by_part(dtype, with_bias, assert_near):
    weight, x = (torch.randn(1030, 70) / 8).to(dtype), torch.randn(3, 9, 80).to(dtype)[..., 5:75]
    bias = torch.randn(1030).to(dtype) if with_bias else None
    y = widened_linear(x, weight, bias)
    assert (y.shape, y.dtype) == ((3, 9, 1030), dtype)
    assert_near(y, F.linear(x.double(), weight.double(), None if bias is None else bias.double()))


def test_leading_dimensions_and_strided_rows(assert_near):
    weight, x = torch.randn(24, 16), torch.randn(2, 3, 40)[..., 8:24]
    y = pack_linear(weight, rows_hint=8)(x)
    assert y.shape == (2, 3, 24)
    assert_near(y, F.linear(x.double(), weight.double()), factor=4)
    assert_near(pack_linear(weight.t(), rows_hint=8)(torch.eye(24)), weight.double())


def test_float64_takes_the_plain_path(assert_near):
    weight, x = torch.randn(24, 16).double(), torch.randn(5, 16).double()
    linear = pack_linear(weight, rows_hint=8)
    assert not linear.packed
    assert_near(linear(x), F.linear(x, weight))


def test_the_unpacked_weight_is_not_kept():
    memory = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    linear = pack_linear(torch.from_numpy(memory), rows_hint=8)
    if not linear.packed:
        pytest.skip("this build of torch has no oneDNN")
    freed = weakref.ref(memory)
    del memory
    gc.collect()
    assert freed() is None
    assert linear(torch.randn(1, 64)).shape == (1, 64)
