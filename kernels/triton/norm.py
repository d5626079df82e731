"""RMS norm on the GPU: one program per row, which keeps the row in registers between its two uses."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `kernels.norm.rms_norm`."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _launch(x, None, weight, y, eps)
    return y


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `kernels.norm.add_rms_norm`; residual must be contiguous."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _launch(x, residual, weight, y, eps)
    return y, residual


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, y: Tensor, eps: float) -> None:
    width = x.shape[-1]
    if x.numel() == 0:
        return
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(x.numel() // width,)](
        x,
        residual,
        weight,
        y,
        eps,
        WIDTH=width,
        BLOCK=block,
        num_warps=min(max(block // 512, 1), 16),
        enable_fp_fusion=True,
    )


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0).to(tl.int64) * WIDTH
    mask = at < WIDTH
    x = tl.load(x_ptr + row + at, mask=mask, other=0.0)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + row + at, mask=mask, other=0.0)
        x = (residual.to(tl.float32) + x.to(tl.float32)).to(x.dtype)
        tl.store(residual_ptr + row + at, x, mask=mask)
    wide = x.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    weight = tl.load(weight_ptr + at, mask=mask, other=0.0)
    # Rounded before the weight is applied, as transformers rounds.
    y = wide.to(x.dtype).to(tl.float32) * weight.to(tl.float32)
    tl.store(y_ptr + row + at, y.to(x.dtype), mask=mask)
