"""RMS norm, alone and fused with the residual addition before it."""

import torch
from torch import Tensor

from .dispatch import runs_triton
from .native import DTYPE_CODES, shared_library


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise each row: x / sqrt(mean(x²) + eps) * weight, over the last dimension.

    Computed in float32, rounded to x's dtype, then multiplied by weight: the rounding of transformers'
    `LlamaRMSNorm`.

    Args:
        x: [..., D].
        weight: [D], in x's dtype.
        eps: added to the mean square.
    """
    if (y := _native(x, None, weight, eps)) is not None:
        return y
    if runs_triton(x):
        from .triton import norm as gpu

        _check(x, None, weight)
        return gpu.rms_norm(x, weight, eps)
    return rms_norm_torch(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add x to residual in place; return (rms_norm(residual), residual). Shapes are as in `rms_norm`."""
    if residual.is_contiguous() and (y := _native(x, residual, weight, eps)) is not None:
        return y, residual
    if residual.is_contiguous() and runs_triton(x):
        from .triton import norm as gpu

        _check(x, residual, weight)
        return gpu.add_rms_norm(x, residual, weight, eps)
    return add_rms_norm_torch(x, residual, weight, eps)


def _native(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Tensor | None:
    """The compiled CPU path; None if there is none."""
    if x.device.type != "cpu" or (dtype := DTYPE_CODES.get(x.dtype)) is None or not (lib := shared_library()):
        return None
    _check(x, residual, weight)
    width = x.shape[-1]
    x = x.contiguous()
    y = torch.empty_like(x)
    lib.hr_rms_norm(
        x.data_ptr(),
        None if residual is None else residual.data_ptr(),
        weight.data_ptr(),
        y.data_ptr(),
        x.numel() // width,
        width,
        eps,
        dtype,
        torch.get_num_threads(),
    )
    return y


def _check(x: Tensor, residual: Tensor | None, weight: Tensor) -> None:
    """Refuse what compiled code, which only sees addresses, would misread."""
    width = x.shape[-1]
    if weight.dtype != x.dtype or weight.shape != (width,):
        raise ValueError(f"weight must be {x.dtype} [{width}], not {weight.dtype} {weight.shape}")
    if residual is not None and (residual.dtype != x.dtype or residual.shape != x.shape):
        raise ValueError(f"residual must be {x.dtype} {x.shape}, not {residual.dtype} {residual.shape}")


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` in torch operations, for any device; with float64 inputs, it is the reference."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return wide.to(x.dtype) * weight


def add_rms_norm_torch(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`add_rms_norm` in torch operations, for any device; with float64 inputs, it is the reference."""
    residual += x
    return rms_norm_torch(residual, weight, eps), residual
