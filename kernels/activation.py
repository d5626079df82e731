"""Gated activations of the feed-forward layers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import runs_triton
from .native import DTYPE_CODES, shared_library


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, computed in float32 and rounded once.

    Args:
        gate_up: [T, 2I], the gate's columns, then the up projection's.

    Returns:
        [T, I] in gate_up's dtype.
    """
    dtype = DTYPE_CODES.get(gate_up.dtype)
    if gate_up.device.type == "cpu" and dtype is not None and (lib := shared_library()):
        gate_up = gate_up.contiguous()
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        y = gate_up.new_empty(rows, width)
        lib.hr_silu_and_mul(gate_up.data_ptr(), y.data_ptr(), rows, width, dtype, torch.get_num_threads())
        return y
    if runs_triton(gate_up):
        from .triton import activation as gpu

        return gpu.silu_and_mul(gate_up)
    return silu_and_mul_torch(gate_up)


def silu_and_mul_torch(gate_up: Tensor) -> Tensor:
    """`silu_and_mul` in torch operations, for any device; with float64 inputs, it is the reference."""
    wide = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32))
    gate, up = wide.chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def gelu_tanh_and_mul(gate_up: Tensor) -> Tensor:
    """gelu(gate) * up with gelu's tanh approximation, computed in float32 and rounded once.

    Args:
        gate_up: [T, 2I], the gate's columns, then the up projection's.

    Returns:
        [T, I] in gate_up's dtype.
    """
    if runs_triton(gate_up):
        from .triton import activation as gpu

        return gpu.gelu_tanh_and_mul(gate_up)
    return gelu_tanh_and_mul_torch(gate_up)


def gelu_tanh_and_mul_torch(gate_up: Tensor) -> Tensor:
    """`gelu_tanh_and_mul` in torch operations, for any device; with float64 inputs, it is the reference."""
    wide = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32))
    gate, up = wide.chunk(2, dim=-1)
    return (F.gelu(gate, approximate="tanh") * up).to(gate_up.dtype)
