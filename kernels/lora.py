"""Low-rank additions to linear maps: y[rows] += B·A·x[rows], with other A and B for other rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


class LoraWeight:
    """A small weight [out, in], called like a function: x [..., in] -> [..., out]."""

    __slots__ = ("_product", "weight")

    def __init__(self, weight: Tensor, product: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take a contiguous weight, and what multiplies by it; F.linear by default."""
        self.weight, self._product = weight, product

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) if self._product is None else self._product(x)


@dataclass(slots=True, frozen=True)
class LoraPart:
    """What is added to some of a map's outputs.

    Attributes:
        up: maps the part's own inner values to its outputs.
        inner: which of the inner values are the part's.
        outputs: which of the map's outputs it is added to.
    """

    up: LoraWeight
    inner: slice
    outputs: slice


@dataclass(slots=True, frozen=True)
class LoraMap:
    """One adapter's addition to one linear map, which may be several maps of the same input side by side.

    Attributes:
        down: maps the input to the inner values of all parts.
    """

    down: LoraWeight
    parts: tuple[LoraPart, ...]


@dataclass(slots=True, frozen=True)
class LoraRows:
    """The rows of a step that one adapter computes.

    Attributes:
        rows: int64 [n], ascending.
        lora: the adapter's addition to the map at hand.
    """

    rows: Tensor
    lora: LoraMap


def add_lora(x: Tensor, y: Tensor, groups: Sequence[LoraRows]) -> None:
    """Add each group's product to its rows of y, in place; all other rows stay as they are.

    Args:
        x: [T, in], the map's input.
        y: [T, out], its output.
        groups: none of their rows is in two of them.
    """
    for group in groups:
        inner = group.lora.down(x[group.rows])
        for part in group.lora.parts:
            added = part.up(inner[:, part.inner].contiguous())
            y[:, part.outputs].index_add_(0, group.rows, added)
