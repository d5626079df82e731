"""Low-rank additions to linear maps: y[rows] += B·A·x[rows], with other A and B for other rows.

Any device adds them adapter by adapter (`add_lora`). A GPU takes all adapters of a map in two launches, with
Triton (`GroupedLora`), and a CPU's compiled step adds them itself (compiled.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

MOST_PARTS = 3
FIELDS = 2 + 5 * MOST_PARTS
"""Of an adapter's map, as numbers: the address of A, its inner values; of each part the address of B, its
first inner value, rank, first output, width. Addresses are 0 where there is nothing."""

TILE_ROWS = 16
"""Rows of an adapter that a GPU computes together."""


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


def lora_fields(layers: Sequence[Mapping[str, LoraMap]], names: Sequence[str]) -> Tensor:
    """int64 [layers * names, FIELDS]: an adapter's maps as numbers, good as long as its weights live."""
    fields = torch.zeros(len(layers) * len(names), FIELDS, dtype=torch.int64)
    for index, layer in enumerate(layers):
        for place, name in enumerate(names):
            if (lora := layer.get(name)) is not None:
                row = [lora.down.weight.data_ptr(), len(lora.down.weight)]
                for part in lora.parts:
                    weight = part.up.weight
                    width, rank = weight.shape
                    row += [weight.data_ptr(), part.inner.start, rank, part.outputs.start, width]
                fields[index * len(names) + place, : len(row)] = torch.tensor(row)
    return fields


@dataclass(slots=True, frozen=True)
class GroupedLora:
    """The adapters of one step on a GPU.

    Attributes:
        rows: int64 [N], the rows that have an adapter, adapter by adapter.
        tiles: int32 [tiles, 3]: a tile's adapter, its first place in `rows`, and the place after its last.
        maps: int64 [maps, adapters, FIELDS].
    """

    rows: Tensor
    tiles: Tensor
    maps: Tensor

    @classmethod
    def of(cls, groups: Sequence[tuple[NDArray[np.int64], Tensor]], device: torch.device) -> "GroupedLora":
        """Group rows with the `lora_fields` of their adapters."""
        tiles, start = [], 0
        for index, (rows, _) in enumerate(groups):
            end = start + len(rows)
            tiles += [(index, at, min(at + TILE_ROWS, end)) for at in range(start, end, TILE_ROWS)]
            start = end
        rows = np.concatenate([rows for rows, _ in groups])
        arrays = torch.from_numpy(rows), torch.tensor(tiles, dtype=torch.int32)
        maps = torch.stack([fields for _, fields in groups], 1)
        return cls(*(each.to(device, non_blocking=True) for each in (*arrays, maps)))

    def add(self, index: int, x: Tensor, y: Tensor) -> None:
        """Add to y [T, out] what the adapters' maps of this index add for x [T, in]; in place."""
        from .triton.lora import add_lora as add_grouped

        add_grouped(x.contiguous(), y, self.rows, self.tiles, self.maps[index])
