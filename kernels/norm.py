"""RMS norm, alone and fused with the residual addition before it."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalises each row: x / sqrt(mean(x²) + eps) * weight, over the last dimension.

    Computed in float32, rounded to x's dtype, then multiplied by weight: the rounding of transformers'
    `LlamaRMSNorm`.

    Args:
        x: [..., D].
        weight: [D], of x's dtype.
        eps: added to the mean square.
    """
    return rms_norm_torch(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Adds x to residual in place and returns (rms_norm(residual), residual). Shapes as in `rms_norm`."""
    return add_rms_norm_torch(x, residual, weight, eps)


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` from torch operations, for any device; with float64 inputs it is the reference."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return wide.to(x.dtype) * weight


def add_rms_norm_torch(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`add_rms_norm` from torch operations, for any device; with float64 inputs it is the reference."""
    residual += x
    return rms_norm_torch(residual, weight, eps), residual
