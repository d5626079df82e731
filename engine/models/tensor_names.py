"""What checkpoints call their tensors."""

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class ExpertNames:
    """The tensors of a layer's separate experts: `block.experts.N.gate`, and so on.

    Attributes:
        block: the mixture's name; its router is `block.gate`.
        gate, up, down: the maps of one expert.
    """

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


@dataclass(slots=True, frozen=True)
class TensorNames:
    """The tensors of a decoder; linear maps and norms without their endings (`.weight`, `.bias`).

    Attributes:
        embedding, final_norm, head: those of the whole model.
        layer: what the names of a layer's tensors begin with; all others are relative to this.
        experts: those of layers that have experts.
    """

    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    layer: str = "model.layers.{index}."
    input_norm: str = "input_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    output: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    experts: ExpertNames = ExpertNames()

    def of_layer(self, index: int) -> str:
        """What the names of this layer's tensors begin with."""
        return self.layer.format(index=index)
