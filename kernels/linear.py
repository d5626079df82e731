"""Linear layers with weights that are laid out once for the device they run on.

On the CPU, oneDNN multiplies by a weight in its own blocked layout, which F.linear makes again in every call.
Laying it out once is what makes a decode step faster than anything else. Measured on one AMX core (torch
2.13, weights of 512 to 32,000 by 512 to 1,024, 1 to 256 rows), against F.linear: bfloat16 1.3 to 2.5 times as
fast at every row count; float32 1.1 to 3 times as fast from 8 rows up, and 0.7 to 1 times at a single row.
The layout that oneDNN chooses for 8 rows serves 1 to 256 equally well, unlike that for 1 row (with which
float32 is no faster at 8 rows), so one packed copy is enough. A bias costs nothing on either path.

On a CPU without products of 16-bit floats, oneDNN has none either, and F.linear multiplies row by row. From
about 12 rows up it is faster to convert the weight to float32, a part of its rows at a time. Measured on two
AVX2 cores (torch 2.13, weights of 1,024 to 32,000 by 1,024 to 3,072): 0.9 to 1.5 times as fast at 12 rows,
1.1 to 2 times at 16, 2.5 to 5 times at 64, 5 to 6 times at 512.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_ROWS_HINT = 8
_WIDENED_FROM = 12
_WIDENED_AT_ONCE = 512


class Linear:
    """A linear map, called like a function: x [..., in] -> [..., out]. Made by `pack_linear`."""

    __slots__ = ("_bias", "_packed", "_weight", "in_features", "out_features")

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: bool, shape: torch.Size) -> None:
        self._weight = weight
        self._bias = bias
        self._packed = packed
        self.out_features, self.in_features = shape

    @property
    def packed(self) -> bool:
        """Whether the weight is in oneDNN's own layout."""
        return self._packed

    def __call__(self, x: Tensor) -> Tensor:
        if not self._packed:
            return _plain_linear(x, self._weight, self._bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def pack_linear(weight: Tensor, bias: Tensor | None = None, *, rows_hint: int) -> Linear:
    """Make a `Linear` of weight [out, in] and bias [out].

    Args:
        weight: [out, in]. If it is packed, the result keeps only the packed copy.
        bias: [out], in the weight's dtype.
        rows_hint: how many rows a call usually has (the decode batch). Any number is correct.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach()
    if _can_pack(weight):
        # oneDNN chooses its layout by the number of rows; see above for what that of 8 serves.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), max(rows_hint, _MIN_ROWS_HINT))
        return Linear(packed, bias, True, weight.shape)
    return Linear(weight, bias, False, weight.shape)


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply by a weight that oneDNN has no layout for."""
    narrow = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)
    if narrow and x.numel() >= _WIDENED_FROM * x.shape[-1] > 0:
        return widened_linear(x, weight, bias)
    return F.linear(x, weight, bias)


def widened_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear in float32, rounded once, without a float32 copy of the whole weight.

    Args:
        x: [..., in], in bfloat16 or float16, like the others and the result.
        weight: [out, in].
        bias: [out].
    """
    rows = x.reshape(-1, x.shape[-1]).float()
    y = x.new_empty(len(rows), len(weight))
    for first in range(0, len(weight), _WIDENED_AT_ONCE):
        part = slice(first, first + _WIDENED_AT_ONCE)
        y[:, part] = F.linear(rows, weight[part].float(), None if bias is None else bias[part].float())
    return y.view(*x.shape[:-1], len(weight))


def _can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has fast kernels for this weight on this machine."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or not available or weight.numel() == 0:
        return False
    match weight.dtype:
        case torch.float32:
            return True
        case torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
        case _:
            return False
