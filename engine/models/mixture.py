"""Mixtures of experts: their properties, and their tensors in checkpoints, stacked.

The tensors have three layouts. Qwen3-MoE stores the projections of each expert under the dense MLP's names,
Mixtral under names of its own; transformers 5 can save either with all experts of a layer in one tensor.
4-bit experts are dequantised, because their grouped product multiplies floats.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .tensor_names import ExpertNames

STACKED = "mlp"
"""The block in which transformers 5 saves all experts of a layer in one tensor, in every family."""


@dataclass(slots=True, frozen=True)
class Mixture:
    """The experts of a model.

    Attributes:
        experts: number of experts in each layer that has any.
        top_k: number of experts that a token goes to.
        intermediate_size: that of one expert.
        renormalize: whether a token's weights sum to 1.
        sparse: for each layer, whether it has experts; the others have one dense MLP.
    """

    experts: int
    top_k: int
    intermediate_size: int
    renormalize: bool
    sparse: tuple[bool, ...]


@dataclass(slots=True, frozen=True)
class SparseTensors:
    """The tensors of one layer's mixture.

    Attributes:
        router: the name of the router's map.
        gate_up: [experts, 2 * intermediate, hidden], gates first.
        down: [experts, hidden, intermediate].
    """

    router: str
    gate_up: Tensor
    down: Tensor


def read_sparse(weights: Checkpoint, prefix: str, experts: int, names: ExpertNames) -> SparseTensors:
    """Reads the mixture of the layer whose tensors' names begin with `prefix`.

    Args:
        weights: the checkpoint.
        prefix: that of the layer.
        experts: how many it has.
        names: what the family calls them.

    Raises:
        ModelError: tensors are missing.
    """
    stacked = f"{prefix}{STACKED}.experts."
    if f"{stacked}gate_up_proj" in weights:
        gate_up, down = (weights.get(f"{stacked}{name}") for name in ("gate_up_proj", "down_proj"))
        return SparseTensors(f"{prefix}{STACKED}.gate", gate_up.clone(), down.clone())
    own = apart(weights, prefix, names)
    block = f"{prefix}{own.block}"
    each = [f"{block}.experts.{expert}." for expert in range(experts)]
    return SparseTensors(
        f"{block}.gate",
        _stack(experts, (weights.get(f"{name}{own.gate}.weight", f"{name}{own.up}.weight") for name in each)),
        _stack(experts, (weights.get(f"{name}{own.down}.weight") for name in each)),
    )


def apart(weights: Checkpoint, prefix: str, names: ExpertNames) -> ExpertNames:
    """The names of a layer's tensors if its experts are separate: the family's own, or the usual ones."""
    block = f"{prefix}{names.block}"
    if any(f"{block}.{name}.weight" in weights for name in ("gate", f"experts.0.{names.gate}")):
        return names
    return ExpertNames()


def _stack(count: int, parts: Iterator[Tensor]) -> Tensor:
    """Like torch.stack, but without keeping all parts in memory beside the result."""
    first = next(parts)
    # torch.stack would need all parts and the result at once: twice the layer's experts.
    whole = torch.empty((count, *first.shape), dtype=first.dtype, device=first.device)
    whole[0] = first
    for index, part in enumerate(parts, start=1):
        whole[index] = part
    return whole
