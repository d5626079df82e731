"""How a decoder computes, apart from its sizes: what model families differ in.

A family's file makes a `DecoderSpec` from a config.json. The decoder reads only that: no code asks which
family it computes.
"""

from dataclasses import dataclass, fields
from typing import Literal

from .mixture import Mixture
from .rope_scaling import Rope

Activation = Literal["silu", "gelu_tanh"]


@dataclass(slots=True, frozen=True)
class DecoderSpec:
    """A pre-norm decoder of attention and gated MLPs, over rotary positions.

    Attributes:
        norm_eps: epsilon of all RMS norms.
        rope: the rotary embedding.
        sliding_windows: for each layer, how many positions a token sees; 0 is all.
        qkv_bias, output_bias, mlp_bias: which linear maps have a bias.
        qk_norm: whether queries and keys are normalised, head by head, before they are rotated.
        mixture: the experts; None if every layer has one MLP.
        activation: that of the MLPs' gates.
        attention_scale: factor on q·k; None is 1 / sqrt(head_dim).
        attention_soft_cap: scores become cap * tanh(score / cap); 0 leaves them unchanged.
        logit_soft_cap: likewise for the logits.
        embedding_multiplier, residual_multiplier, logit_multiplier: factors on the embedded tokens, on what
            attention and MLP add to the residual, and on the logits.
    """

    norm_eps: float
    rope: Rope
    sliding_windows: tuple[int, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    mixture: Mixture | None = None
    activation: Activation = "silu"
    attention_scale: float | None = None
    attention_soft_cap: float = 0.0
    logit_soft_cap: float = 0.0
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logit_multiplier: float = 1.0

    @property
    def beyond_compiled(self) -> list[str]:
        """Names of its features that the compiled decoder (kernels/compiled.py) doesn't support."""
        return [
            field.name
            for field in fields(self)
            if field.name in _NOT_COMPILED and getattr(self, field.name) != field.default
        ]


_NOT_COMPILED = {
    "mixture",
    "activation",
    "attention_scale",
    "attention_soft_cap",
    "logit_soft_cap",
    "embedding_multiplier",
    "residual_multiplier",
    "logit_multiplier",
}
