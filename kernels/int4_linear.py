"""Linear layers with 4-bit weights and activations in bf16, fp16 or fp32.

On a GPU, the Triton kernel reads the packed words themselves. Elsewhere, the weight is dequantised once and
multiplied like any other. torch has a product with packed int4 for CPUs, but it is hardly faster with few
rows and much slower with many: on two AMX cores (torch 2.13, 4096 by 8192, groups of 128) it was 1.3 times as
fast as the dequantised weight at 1 row, 0.7 at 8, 0.22 at 32 and 0.08 at 512 in bf16, and at most 0.08 in
fp16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import runs_triton
from .int4_weight import Int4Weight, dequantize
from .invariant_linear import InvariantLinear, pack_invariant_linear
from .linear import Linear, pack_linear


class Int4Linear:
    """A linear map with 4-bit weights on a GPU, called like a function: x [..., in] -> [..., out]."""

    __slots__ = ("_bias", "_deterministic", "_weight", "in_features", "out_features")

    def __init__(self, weight: Int4Weight, bias: Tensor | None, deterministic: bool) -> None:
        self._weight, self._bias, self._deterministic = weight, bias, deterministic
        self.in_features, self.out_features = weight.in_features, weight.out_features

    def __call__(self, x: Tensor) -> Tensor:
        from .triton.int4 import int4_linear

        flat = x.reshape(-1, self.in_features)
        if self._weight.permutation is not None:
            flat = flat[:, self._weight.permutation]
        y: Tensor = int4_linear(flat, self._weight, self._bias, deterministic=self._deterministic)
        return y.view(*x.shape[:-1], self.out_features)


def pack_int4_linear(
    weight: Int4Weight,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    rows_hint: int,
    deterministic: bool = False,
) -> Int4Linear | Linear | InvariantLinear:
    """Make the fastest linear map for this weight on its device.

    Args:
        weight: from `from_gptq`, `from_awq` or `pack`; only kept on a GPU.
        bias: [out] in `dtype`, or None.
        dtype: the activations' type.
        rows_hint: as in `pack_linear`.
        deterministic: sum each row in the same order in every batch; see `kernels.invariant_linear`.
    """
    if runs_triton(weight.scales):
        return Int4Linear(weight, bias, deterministic)
    if deterministic:
        return pack_invariant_linear(dequantize(weight, dtype), bias)
    return pack_linear(dequantize(weight, dtype), bias, rows_hint=rows_hint)


def int4_linear_torch(x: Tensor, weight: Int4Weight, bias: Tensor | None = None) -> Tensor:
    """The product of x [..., in] in x's dtype: the reference, which is exact with float64 inputs."""
    return F.linear(x, dequantize(weight, x.dtype), bias)
