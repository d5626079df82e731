"""Linear layers over weights laid out once for the device they run on."""

import torch.nn.functional as F
from torch import Tensor


class Linear:
    """A linear map, called like a function: x [..., in] -> [..., out]. Made by `pack_linear`."""

    __slots__ = ("bias", "in_features", "out_features", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, out_features: int, in_features: int) -> None:
        self.weight = weight
        self.bias = bias
        self.out_features = out_features
        self.in_features = in_features

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def pack_linear(weight: Tensor, bias: Tensor | None = None, *, rows_hint: int) -> Linear:
    """Makes a `Linear` of weight [out, in] and bias [out].

    Args:
        weight: [out, in]. Where it is packed the result keeps only the packed copy.
        bias: [out], of weight's dtype.
        rows_hint: how many rows a call mostly has (the decode batch). Any number is right.
    """
    return Linear(weight, bias, *weight.shape)
