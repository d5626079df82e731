"""Mixtures of experts in checkpoints: what config.json says of them, and their tensors, stacked.

The tensors have three layouts. Qwen3-MoE keeps the projections of each expert under the dense MLP's names,
Mixtral under names of its own; transformers 5 can save either with all experts of a layer in one tensor.
Experts of four bits are dequantised: their grouped product multiplies floats.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .checkpoint import Checkpoint


@dataclass(slots=True, frozen=True)
class Mixture:
    """The experts of a model.

    Attributes:
        experts: in each layer that has any.
        top_k: how many of them a token goes to.
        intermediate_size: of one expert.
        renormalize: whether a token's weights sum to 1.
        sparse: by layer, whether it has experts; the others have one dense MLP.
    """

    experts: int
    top_k: int
    intermediate_size: int
    renormalize: bool
    sparse: tuple[bool, ...]


def read_mixture(path: str, family: str, source: Any) -> Mixture | None:
    """What a configuration says of experts; None for a family that has none.

    Args:
        path: the model's name, for messages.
        family: of the model.
        source: its configuration.

    Raises:
        ModelError: a token is to go to more experts than there are.
    """
    layers = range(source.num_hidden_layers)
    if family == "mixtral":
        experts, top_k = source.num_local_experts, source.num_experts_per_tok
        mixture = Mixture(experts, top_k, source.intermediate_size, True, tuple(True for _ in layers))
    elif family == "qwen3_moe":
        # transformers 4 writes num_experts, 5 num_local_experts
        experts = getattr(source, "num_local_experts", None) or source.num_experts
        dense, step = getattr(source, "mlp_only_layers", None) or (), source.decoder_sparse_step
        sparse = tuple(index not in dense and (index + 1) % step == 0 for index in layers)
        top_k, renormalize = source.num_experts_per_tok, bool(source.norm_topk_prob)
        mixture = Mixture(experts, top_k, source.moe_intermediate_size, renormalize, sparse)
    else:
        return None
    if mixture.top_k > mixture.experts:
        raise ModelError(
            f"{path}: num_experts_per_tok is {mixture.top_k}, but there are {mixture.experts} experts"
        )
    return mixture


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


def read_sparse(weights: Checkpoint, prefix: str, experts: int) -> SparseTensors:
    """Reads the mixture of the layer whose tensors' names begin with `prefix`.

    Raises:
        ModelError: tensors are missing.
    """
    if f"{prefix}mlp.experts.gate_up_proj" in weights:
        gate_up, down = (weights.get(f"{prefix}mlp.experts.{name}") for name in ("gate_up_proj", "down_proj"))
        return SparseTensors(f"{prefix}mlp.gate", gate_up.clone(), down.clone())
    block, gate, up, down_name = apart(weights, prefix)
    names = [f"{block}.experts.{expert}." for expert in range(experts)]
    return SparseTensors(
        f"{block}.gate",
        _stack(experts, (weights.get(f"{name}{gate}.weight", f"{name}{up}.weight") for name in names)),
        _stack(experts, (weights.get(f"{name}{down_name}.weight") for name in names)),
    )


def apart(weights: Checkpoint, prefix: str) -> tuple[str, str, str, str]:
    """What the mixture of a layer with experts apart is called, and the gates, ups and downs of each."""
    block = f"{prefix}block_sparse_moe"
    if any(f"{block}.{name}" in weights for name in ("gate.weight", "experts.0.w1.weight")):
        return block, "w1", "w3", "w2"
    return f"{prefix}mlp", "gate_proj", "up_proj", "down_proj"


def _stack(count: int, parts: Iterator[Tensor]) -> Tensor:
    """As torch.stack, without all parts at once beside the result."""
    first = next(parts)
    whole = torch.empty((count, *first.shape), dtype=first.dtype, device=first.device)
    whole[0] = first
    for index, part in enumerate(parts, start=1):
        whole[index] = part
    return whole
