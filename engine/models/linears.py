"""Linear maps made of a checkpoint's tensors; maps of the same input become one.

Floats are stacked and packed for their device. 4-bit weights keep their four bits if there is a kernel for
them; what such a checkpoint has left as floats (`modules_to_not_convert`, `dynamic`) is recognised by its
`weight`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ...kernels.compiled import Panels
from ...kernels.int4_linear import pack_int4_linear
from .checkpoint import Checkpoint
from .quantization.int4 import Int4Format


class LinearMap(Protocol):
    """Maps x [..., in] to [..., out], with weights of any kind."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


Weight = TypeVar("Weight", LinearMap, Panels)


class Linears(ABC, Generic[Weight]):
    """Makes linear maps."""

    @abstractmethod
    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Weight:
        """A map of this weight [out, in] and bias [out]."""

    @abstractmethod
    def read(self, *names: str, bias: bool = False) -> Weight:
        """The maps of these names in the checkpoint, which have the same input, as a single one."""


@dataclass(slots=True, frozen=True)
class FloatLinears(Linears[Weight]):
    """Maps of floating weights, each laid out by `layout`."""

    weights: Checkpoint
    layout: Callable[[Tensor, Tensor | None], Weight]

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Weight:
        """A map of this weight [out, in] and bias [out]."""
        return self.layout(weight, bias)

    def read(self, *names: str, bias: bool = False) -> Weight:
        """The maps of these names, stacked."""
        weight = self.weights.get(*(f"{name}.weight" for name in names))
        return self.layout(weight, _bias(self.weights, names) if bias else None)


@dataclass(slots=True, frozen=True)
class Int4Linears(Linears[LinearMap]):
    """Maps of 4-bit weights, and through `floats` those that were left as floats.

    Attributes:
        format: how the 4-bit weights are stored.
        dtype: the activations' type.
        rows_hint: as `pack_linear` takes it.
        deterministic: as `pack_int4_linear` takes it.
    """

    weights: Checkpoint
    format: Int4Format
    floats: FloatLinears[LinearMap]
    dtype: torch.dtype
    rows_hint: int
    deterministic: bool = False

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> LinearMap:
        """A map of this weight [out, in] and bias [out]."""
        return self.floats.pack(weight, bias)

    def read(self, *names: str, bias: bool = False) -> LinearMap:
        """The maps of these names, stacked if their formats and orders of inputs are the same."""
        quantised = [f"{name}.qweight" in self.weights for name in names]
        if not any(quantised):
            return self.floats.read(*names, bias=bias)
        weight = self.format.read(self.weights.stored, names) if all(quantised) else None
        if weight is None:
            return SideBySide([self.read(name, bias=bias) for name in names])
        own_bias = _bias(self.weights, names) if bias else None
        return pack_int4_linear(
            weight, own_bias, self.dtype, rows_hint=self.rows_hint, deterministic=self.deterministic
        )


@dataclass(slots=True, frozen=True)
class SideBySide:
    """Maps of the same input whose weights can't be stacked; their outputs are joined."""

    parts: Sequence[LinearMap]

    def __call__(self, x: Tensor, /) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)


def _bias(weights: Checkpoint, names: Sequence[str]) -> Tensor:
    return weights.get(*(f"{name}.bias" for name in names)).clone()
