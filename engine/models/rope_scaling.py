"""The rotary embedding that a checkpoint asks for: its base, and how it is stretched to longer contexts.

Inverse frequencies are stretched evenly (position interpolation, arXiv 2306.15595), only for long waves
(Llama 3.1), or by how often each turned in the original context (YaRN, arXiv 2309.00071). All are computed in
float32 as transformers does it, so the tables are equal to the last bit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError

_NEEDED = {
    "default": (),
    "dynamic": ("factor",),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""The parameters that each kind of scaling needs."""


@dataclass(slots=True, frozen=True)
class Rope:
    """A rotary embedding.

    Attributes:
        theta: base of the frequencies.
        kind: the kind of scaling: default (none), linear, llama3 or yarn.
        factor: how many times longer the context is.
        original_tokens: the context that the model was first made for.
        low_freq_factor, high_freq_factor: llama3: waves that fit the original context less often than the
            first are stretched fully, those that fit it more often than the second not at all.
        beta_fast, beta_slow: yarn: the same two bounds, the fast one first.
        truncate: yarn: whether the bounds are rounded to whole dimensions.
        amplitude: factor on cosines and sines.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_tokens: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    amplitude: float = 1.0

    def inverse_frequencies(self, dim: int) -> Tensor:
        """Return float32 [dim / 2]: the angle between two positions, by pair of a head's dimensions."""
        waves = self.theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
        match self.kind:
            case "linear":
                return 1.0 / waves / self.factor
            case "llama3":
                return self._llama3(1.0 / waves)
            case "yarn":
                return self._yarn(waves, dim)
            case _:
                return 1.0 / waves

    def _llama3(self, inverse: Tensor) -> Tensor:
        # A wave's length in positions. With 8,192 original tokens and the usual factors of 1 and 4, waves
        # longer than 8,192 are stretched, those shorter than 2,048 kept, and between them there is a ramp.
        length = 2 * math.pi / inverse
        low, high = self.low_freq_factor, self.high_freq_factor
        longest, shortest = self.original_tokens / low, self.original_tokens / high
        kept = (self.original_tokens / length - low) / (high - low)
        between = (1 - kept) * inverse / self.factor + kept * inverse
        stretched = torch.where(length > longest, inverse / self.factor, inverse)
        return torch.where((length >= shortest) & (length <= longest), between, stretched)

    def _yarn(self, waves: Tensor, dim: int) -> Tensor:
        low, high = self._dimension(self.beta_fast, dim), self._dimension(self.beta_slow, dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        # As transformers does: the ramp must not divide by zero.
        if low == high:
            high += 0.001
        ramp = torch.clamp((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
        # Low dimensions turn quickly and tell neighbours apart: they are kept as they are.
        kept = 1 - ramp
        return 1.0 / (self.factor * waves) * (1 - kept) + 1.0 / waves * kept

    def _dimension(self, turns: float, dim: int) -> float:
        """The dimension whose wave turns this often in the original context."""
        return (dim * math.log(self.original_tokens / (turns * 2 * math.pi))) / (2 * math.log(self.theta))


def read_rope(path: str, source: Any) -> Rope:
    """The rotary embedding of a configuration, in either of its layouts.

    Args:
        path: the model's name, for messages.
        source: has `rope_parameters`, or `rope_theta` beside `rope_scaling`, by attribute.

    Raises:
        ModelError: the kind of scaling isn't supported, or its parameters are incomplete.
    """
    given = getattr(source, "rope_scaling", None) or getattr(source, "rope_parameters", None) or {}
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ModelError(f"{path}: rope parameters that differ between layers are not supported: {given!r}")
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in _NEEDED:
        raise ModelError(
            f"{path}: rope_type={kind!r} is not supported; supported are {', '.join(sorted(_NEEDED))}"
        )
    partial = given.get("partial_rotary_factor", getattr(source, "partial_rotary_factor", None))
    if partial not in {None, 1.0}:
        raise ModelError(f"{path}: partial_rotary_factor={partial} is not supported")
    missing = [name for name in _NEEDED[kind] if name not in given]
    if missing:
        raise ModelError(f"{path}: rope_type={kind!r} needs {', '.join(missing)} beside it in config.json")
    for name, value in given.items():
        if name not in {"rope_type", "type", "truncate"} and not isinstance(value, (int, float, type(None))):
            raise ModelError(f"{path}: config.json has rope parameter {name}={value!r}; it must be a number")
    theta = float(given.get("rope_theta") or getattr(source, "rope_theta", None) or 10_000.0)
    if kind == "dynamic":  # it only stretches longer contexts than the original one, which are refused
        return Rope(theta)
    if kind in {"default", "linear"}:
        return Rope(theta, kind, factor=given.get("factor", 1.0))
    original = (
        getattr(source, "original_max_position_embeddings", None)
        or given.get("original_max_position_embeddings")
        or source.max_position_embeddings
    )
    if kind == "llama3":
        names = _NEEDED[kind]
        return Rope(theta, kind, original_tokens=original, **{name: given[name] for name in names})
    factor = given["factor"] or source.max_position_embeddings / original
    return Rope(
        theta,
        kind,
        factor=factor,
        original_tokens=original,
        beta_fast=given.get("beta_fast") or 32,
        beta_slow=given.get("beta_slow") or 1,
        truncate=given.get("truncate", True),
        amplitude=_yarn_amplitude(given, factor),
    )


def _yarn_amplitude(given: Mapping[str, Any], factor: float) -> float:
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    scale, all_dims = given.get("mscale"), given.get("mscale_all_dim")
    if scale and all_dims:
        return _temperature(factor, scale) / _temperature(factor, all_dims)
    return _temperature(factor, 1.0)


def _temperature(factor: float, scale: float) -> float:
    # As the paper recommends: a longer context flattens the softmax, which this makes good. 4 times the
    # context is an amplitude of 1.139.
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
