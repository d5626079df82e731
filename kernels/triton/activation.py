"""Gated activations on the GPU."""

from typing import Literal

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """See `kernels.activation.silu_and_mul`."""
    return _launch(gate_up, "silu")


def gelu_tanh_and_mul(gate_up: Tensor) -> Tensor:
    """See `kernels.activation.gelu_tanh_and_mul`."""
    return _launch(gate_up, "gelu_tanh")


def _launch(gate_up: Tensor, activation: Literal["silu", "gelu_tanh"]) -> Tensor:
    gate_up = gate_up.contiguous()
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    y = gate_up.new_empty(rows, width)
    if y.numel():
        block = min(_BLOCK, triton.next_power_of_2(width))
        _gate_kernel[(rows, triton.cdiv(width, block))](
            gate_up, y, WIDTH=width, BLOCK=block, ACTIVATION=activation, num_warps=4, enable_fp_fusion=True
        )
    return y


@triton.jit
def _gate_kernel(
    gate_up_ptr,
    y_ptr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * WIDTH
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < WIDTH
    gate = tl.load(gate_up_ptr + 2 * row + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + 2 * row + WIDTH + at, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        slope = gate
    else:  # gelu's 1/2 (1 + tanh(z)) is the sigmoid of 2z
        # 2 * sqrt(2 / pi), the 2 of "2z" included.
        slope = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    # The exponential of a negative number alone: neither side of the sigmoid overflows.
    tail = tl.exp(-tl.abs(slope))
    gated = gate * tl.where(slope >= 0, 1.0, tail) / (1.0 + tail)
    tl.store(y_ptr + row + at, (gated * up).to(y_ptr.dtype.element_ty), mask=mask)
