import pytest
import torch
import torch.nn.functional as F

from headrace.kernels.int4_linear import pack_int4_linear
from headrace.kernels.int4_weight import dequantize, pack
from headrace.kernels.invariant_linear import can_be_invariant, pack_invariant_linear
from headrace.kernels.moe import moe_mlp_torch, pack_experts, route

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CPU = torch.device("cpu")
ROWS = (1, 2, 5, 8, 44, 64, 97, 256)

pytestmark = pytest.mark.skipif(not can_be_invariant(torch.float32, CPU), reason="there is no compiler")


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(0)


def assert_rows_apart(function, x):
    """Row 0 of x gives the same bits alone as in any place among any number of others."""
    alone = function(x[:1])
    for rows in ROWS:
        for place in {0, rows // 2, rows - 1}:
            batch = x[1 : 1 + rows].clone()
            batch[place] = x[0]
            assert torch.equal(function(batch)[place], alone[0]), (rows, place)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("out", "width"), [(1, 1), (33, 7), (96, 64), (200, 600)])
def test_a_product_is_near_the_exact_one_for_any_number_of_rows(dtype, with_bias, out, width, assert_near):
    weight = (torch.randn(out, width) / width**0.5).to(dtype)
    bias = torch.randn(out).to(dtype) if with_bias else None
    linear = pack_invariant_linear(weight, bias)
    assert (linear.out_features, linear.in_features) == (out, width)
    for rows in (0, 1, 7, 100):
        x = torch.randn(rows, width).to(dtype)
        y = linear(x)
        assert (y.shape, y.dtype) == ((rows, out), dtype)
        assert_near(y, F.linear(x.double(), weight.double(), None if bias is None else bias.double()))
    strided = torch.randn(2, 3, width + 9).to(dtype)[..., 4 : 4 + width]
    assert torch.equal(linear(strided), linear(strided.reshape(6, width)).view(2, 3, out))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "width"), [(96, 64), (300, 576), (70, 1000)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bits_in_every_batch(dtype, out, width, threads):
    x = torch.randn(257, width).to(dtype)
    linear = pack_invariant_linear((torch.randn(out, width) / width**0.5).to(dtype))
    alone = linear(x[:1])
    torch.set_num_threads(threads)
    assert torch.equal(linear(x[:1]), alone)
    assert_rows_apart(linear, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_four_bit_weights_have_the_same_bits_in_every_batch(dtype, assert_near):
    q, zeros = torch.randint(0, 16, (300, 70)), torch.randint(0, 17, (3, 70))
    weight, bias = pack(q, (torch.rand(3, 70) * 0.02).half(), zeros, 128), torch.randn(70).to(dtype)
    linear, x = pack_int4_linear(weight, bias, dtype, rows_hint=8, deterministic=True), torch.randn(257, 300)
    assert_near(
        linear(x.to(dtype)), F.linear(x.to(dtype).double(), dequantize(weight, dtype).double(), bias.double())
    )
    assert_rows_apart(linear, x.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_have_the_same_bits_in_every_batch(dtype, assert_near):
    gate_up, down = (torch.randn(6, 80, 64) / 8).to(dtype), (torch.randn(6, 64, 40) / 8).to(dtype)
    experts = pack_experts(gate_up, down, rows_hint=4, deterministic=True)

    def mixed(x):
        return experts(x, *route(x[:, :6].float(), 3, renormalize=True))

    x = torch.randn(257, 64).to(dtype)
    assert_rows_apart(mixed, x)
    weights, chosen = route(x[:, :6].float(), 3, renormalize=True)
    exact = moe_mlp_torch(x.double(), gate_up.double(), down.double(), weights, chosen)
    assert_near(experts(x, weights, chosen), exact, factor=2)


def test_what_does_not_fit_is_refused():
    linear = pack_invariant_linear(torch.randn(4, 8))
    for x in (torch.randn(2, 7), torch.randn(2, 8).bfloat16()):
        with pytest.raises(ValueError, match=r"x must be torch.float32 \[..., 8\]"):
            linear(x)
    with pytest.raises(ValueError, match=r"bias must be torch.float32 \[4\]"):
        pack_invariant_linear(torch.randn(4, 8), torch.randn(5))
    assert not can_be_invariant(torch.float64, CPU)
