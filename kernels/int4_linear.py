"""Linear layers over four-bit weights, with activations in bf16, fp16 or fp32.

On a GPU the Triton kernel reads the packed words themselves. On the CPU it is torch's packed int4 product
where its layout can hold the weight (outputs in sixteens, groups it knows), else the weight is dequantised
once and multiplied as any other. torch's product keeps scale and offset in the activations' precision: in
bf16 a weight is then off by up to 2^-8 of its group's largest, about what rounding the weights to bf16 does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import runs_triton
from .int4_weight import Int4Weight, dequantize, unpack
from .linear import Linear, pack_linear

_CPU_GROUPS = (256, 128, 64, 32)
_CPU_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Int4Linear:
    """A linear map of four-bit weights, called like a function: x [..., in] -> [..., out]."""

    __slots__ = ("_bias", "_permutation", "_run", "in_features", "out_features")

    def __init__(self, weight: Int4Weight, bias: Tensor | None, run: "_Gpu | _Cpu") -> None:
        self._bias, self._run = bias, run
        self._permutation = weight.permutation
        self.in_features, self.out_features = weight.in_features, weight.out_features

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        if self._permutation is not None:
            flat = flat[:, self._permutation]
        return self._run(flat, self._bias).view(*x.shape[:-1], self.out_features)


def pack_int4_linear(
    weight: Int4Weight, bias: Tensor | None, dtype: torch.dtype, *, rows_hint: int
) -> Int4Linear | Linear:
    """Makes the fastest linear map there is for this weight on its device.

    Args:
        weight: from `from_gptq`, `from_awq` or `pack`; not kept where a CPU layout replaces it.
        bias: [out] of dtype, or None.
        dtype: of the activations.
        rows_hint: as in `pack_linear`.
    """
    if runs_triton(weight.scales):
        return Int4Linear(weight, bias, _Gpu(weight))
    if group := _cpu_group(weight, dtype):
        return Int4Linear(weight, bias, _Cpu(weight, dtype, group))
    return pack_linear(dequantize(weight, dtype), bias, rows_hint=rows_hint)


def int4_linear_torch(x: Tensor, weight: Int4Weight, bias: Tensor | None = None) -> Tensor:
    """The product in x's dtype, x being [..., in]: the reference; with float64 inputs an exact one."""
    return F.linear(x, dequantize(weight, x.dtype), bias)


class _Gpu:
    __slots__ = ("_weight",)

    def __init__(self, weight: Int4Weight) -> None:
        self._weight = weight

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        from .triton.int4 import int4_linear

        return int4_linear(x, self._weight, bias)


class _Cpu:
    """torch's product: w = (q - 8) * scale + offset, over words in a layout of its own."""

    __slots__ = ("_group", "_offsets", "_packed")

    def __init__(self, weight: Int4Weight, dtype: torch.dtype, group: int) -> None:
        values = unpack(weight).t().int().contiguous()
        self._group = group
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
        scales = weight.scales.float()
        offsets = torch.stack((scales, (8 - weight.zeros.float()) * scales), dim=-1)
        self._offsets = offsets.repeat_interleave(weight.group_size // group, 0).to(dtype)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.contiguous(), self._packed, self._group, self._offsets
        )
        return y if bias is None else y.add_(bias)


def _cpu_group(weight: Int4Weight, dtype: torch.dtype) -> int:
    """The group size to give torch's product; 0 where it can't hold the weight."""
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu") or dtype not in _CPU_DTYPES:
        return 0
    if weight.out_features % 16 or weight.in_features % weight.group_size:
        return 0
    return next((group for group in _CPU_GROUPS if weight.group_size % group == 0), 0)
