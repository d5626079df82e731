"""Linear maps whose rows are independent of each other to the last bit: batch-invariant products.

The libraries behind F.linear choose how to sum by the number of rows, so a token's logits differ in their
last bits with what else is in the step, and now and then so does the token. Here each sum runs over the
inputs in one order, in float32, and is rounded once: whatever the number of rows, their places and, on a CPU,
the number of threads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import runs_triton
from .native import DTYPE_CODES, shared_library

_PANEL_OUTPUTS = 64


class InvariantLinear:
    """A batch-invariant linear map, called like a function: x [..., in] -> [..., out].

    Made by `pack_invariant_linear`.
    """

    __slots__ = ("_bias", "_weight", "in_features", "out_features")

    def __init__(self, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> None:
        self._weight, self._bias = weight, bias
        self.out_features, self.in_features = shape

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != self._weight.dtype or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x must be {self._weight.dtype} [..., {self.in_features}], not {x.dtype} {list(x.shape)}"
            )
        rows = x.reshape(-1, self.in_features).contiguous()
        return self._multiply(rows).view(*x.shape[:-1], self.out_features)

    def _multiply(self, rows: Tensor) -> Tensor:
        if runs_triton(rows):
            from .triton.linear import invariant_linear

            return invariant_linear(rows, self._weight, self._bias)
        lib = shared_library()
        assert lib is not None
        y = rows.new_empty(len(rows), self.out_features)
        lib.hr_invariant_linear(
            rows.data_ptr(),
            self._weight.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            y.data_ptr(),
            len(rows),
            self.in_features,
            self.out_features,
            DTYPE_CODES[rows.dtype],
            torch.get_num_threads(),
        )
        return y


def can_be_invariant(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether maps of this type can be computed by `InvariantLinear` on this device."""
    if device.type == "cpu":
        return dtype in DTYPE_CODES and shared_library() is not None
    return runs_triton(torch.empty(0, dtype=dtype, device=device))


def pack_invariant_linear(weight: Tensor, bias: Tensor | None = None) -> InvariantLinear:
    """Make an `InvariantLinear` where `can_be_invariant` is true.

    Args:
        weight: [out, in]. On a CPU, the result keeps only a copy in its own layout.
        bias: [out], in the weight's dtype.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach().contiguous()
    if bias is not None and (bias.dtype != weight.dtype or len(bias) != len(weight)):
        raise ValueError(f"bias must be {weight.dtype} [{len(weight)}], not {bias.dtype} {list(bias.shape)}")
    if weight.device.type != "cpu":
        return InvariantLinear(weight.contiguous(), bias, weight.shape)
    outputs, inputs = weight.shape
    # panel, input, output of the panel: what csrc/linear.cpp reads from end to end
    padded = F.pad(weight, (0, 0, 0, -outputs % _PANEL_OUTPUTS))
    panels = padded.view(-1, _PANEL_OUTPUTS, inputs).transpose(1, 2).contiguous()
    return InvariantLinear(panels, bias, weight.shape)
