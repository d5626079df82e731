"""Gated activations of the feed-forward layers."""

import torch
import torch.nn.functional as F
from torch import Tensor


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, computed in float32 and rounded once.

    Args:
        gate_up: [T, 2I], the gate's columns, then the up projection's.

    Returns:
        [T, I] in gate_up's dtype.
    """
    return silu_and_mul_torch(gate_up)


def silu_and_mul_torch(gate_up: Tensor) -> Tensor:
    """`silu_and_mul` from torch operations, for any device; with float64 inputs it is the reference."""
    wide = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32))
    gate, up = wide.chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)
