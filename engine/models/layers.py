"""A decoder's layers: the weights of each, with projections of the same input fused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from ...kernels.activation import gelu_tanh_and_mul, silu_and_mul
from ...kernels.moe import Experts, route
from .linears import LinearMap, Weight
from .spec import Activation

Adapt = Callable[[str, Tensor, Tensor], None]
"""Adds to a map's output what adapters add for its input: (the map's field, its input, its output)."""

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": silu_and_mul,
    "gelu_tanh": gelu_tanh_and_mul,
}
"""Maps gate and up projection, side by side, to the down projection's input."""


@dataclass(slots=True)
class Layer(Generic[Weight]):
    """What all layers have: attention, and the norms before it and before the MLP."""

    input_norm: Tensor
    qkv: Weight
    output: Weight
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    sliding_window: int


@dataclass(slots=True)
class DenseLayer(Layer[Weight]):
    """A layer with one gated MLP."""

    gate_up: Weight
    down: Weight
    activation: Callable[[Tensor], Tensor]

    def mlp(self: "DenseLayer[LinearMap]", x: Tensor, adapt: Adapt | None = None) -> Tensor:
        """The gated MLP of x [T, hidden]."""
        inner = self.gate_up(x)
        if adapt is not None:
            adapt("gate_up", x, inner)
        activated = self.activation(inner)
        y = self.down(activated)
        if adapt is not None:
            adapt("down", activated, y)
        return y


@dataclass(slots=True)
class SparseLayer(Layer[LinearMap]):
    """A layer with many gated MLPs, `top_k` of which each token goes to.

    Attributes:
        router: maps hidden to experts.
        renormalize: as `route` takes it.
    """

    router: LinearMap
    experts: Experts
    top_k: int
    renormalize: bool

    def mlp(self, x: Tensor, adapt: Adapt | None = None) -> Tensor:
        """The weighted sum of the chosen MLPs of each token of x [T, hidden]; adapters don't change them."""
        return self.experts(x, *route(self.router(x), self.top_k, renormalize=self.renormalize))
