"""Mixtures of experts: which experts a token goes to, and their gated MLPs.

A token's k experts are k (token, expert) pairs. Pairs of the same expert are multiplied together, and a
token's parts are added in the order of its experts' ranks, independently of its neighbours.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import silu_and_mul, silu_and_mul_torch
from .dispatch import runs_triton
from .invariant_linear import pack_invariant_linear
from .linear import pack_linear

_Map = Callable[[Tensor], Tensor]


def route(logits: Tensor, top_k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
    """The best experts of each token, best first; among equals, the lower id first.

    Args:
        logits: [T, E], the router's output.
        top_k: number of experts that a token goes to.
        renormalize: whether a token's weights sum to 1; otherwise they are probabilities among all experts.

    Returns:
        Weights, float32 [T, top_k], and experts, int32 [T, top_k].
    """
    if runs_triton(logits):
        from .triton.moe import route as route_triton

        return route_triton(logits, top_k, renormalize)
    return route_torch(logits, top_k, renormalize=renormalize)


def route_torch(logits: Tensor, top_k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
    """`route` in torch operations, for any device; also the reference."""
    best = logits.float().softmax(-1).sort(dim=-1, descending=True, stable=True)
    weights, experts = best.values[:, :top_k], best.indices[:, :top_k]
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts.int()


class Experts(Protocol):
    """The gated MLPs of one layer. Made by `pack_experts`."""

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """The weighted sum of the outputs of each token's experts.

        Args:
            x: [T, hidden].
            weights: float32 [T, k], as from `route`.
            experts: int32 [T, k], likewise.

        Returns:
            [T, hidden] in x's dtype.
        """
        ...


def pack_experts(gate_up: Tensor, down: Tensor, *, rows_hint: int, deterministic: bool = False) -> Experts:
    """Make `Experts` for the weights' device.

    Args:
        gate_up: [E, 2 * inner, hidden], the gate's rows, then the up projection's.
        down: [E, hidden, inner].
        rows_hint: as in `pack_linear`, for one expert.
        deterministic: sum each row in the same order in every batch; see `kernels.invariant_linear`.
    """
    if runs_triton(gate_up):
        return _GpuExperts(gate_up.contiguous(), down.contiguous(), deterministic)
    pack = pack_invariant_linear if deterministic else partial(pack_linear, rows_hint=rows_hint)
    gates, downs = ([pack(one) for one in stack] for stack in (gate_up, down))
    return _CpuExperts(gates, downs)


class _GpuExperts:
    __slots__ = ("_deterministic", "_down", "_gate_up")

    def __init__(self, gate_up: Tensor, down: Tensor, deterministic: bool) -> None:
        self._gate_up, self._down, self._deterministic = gate_up, down, deterministic

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        from .triton.moe import moe_mlp

        return moe_mlp(x, self._gate_up, self._down, weights, experts, deterministic=self._deterministic)


class _CpuExperts:
    """Compute one expert after the other, skipping those without tokens."""

    __slots__ = ("_down", "_gate_up")

    def __init__(self, gate_up: Sequence[_Map], down: Sequence[_Map]) -> None:
        self._gate_up, self._down = gate_up, down

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        tokens, fan = experts.shape
        parts = x.new_empty(tokens * fan, x.shape[1])
        by_expert = experts.flatten().sort(stable=True)
        counts = torch.bincount(by_expert.values, minlength=len(self._gate_up)).tolist()
        for expert, pairs in enumerate(torch.split(by_expert.indices, counts)):
            if len(pairs):
                inner = silu_and_mul(self._gate_up[expert](x[pairs // fan]))
                parts[pairs] = self._down[expert](inner)
        weighted = parts.view(tokens, fan, x.shape[1]).float() * weights[..., None]
        # In this order for any number of tokens, which a sum over the dimension wouldn't promise.
        total = weighted[:, 0]
        for place in range(1, fan):
            total += weighted[:, place]
        return total.to(x.dtype)


def moe_mlp_torch(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    """What `Experts` computes, one token at a time: the reference, which is exact with float64 inputs."""
    y = torch.zeros_like(x)
    for token, (scales, chosen) in enumerate(zip(weights, experts.tolist(), strict=True)):
        for scale, expert in zip(scales.to(x.dtype), chosen, strict=True):
            inner = silu_and_mul_torch(F.linear(x[token : token + 1], gate_up[expert]))
            y[token] += scale * F.linear(inner, down[expert])[0]
    return y
