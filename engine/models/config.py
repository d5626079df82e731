"""What a checkpoint's config.json means for the decoder.

One decoder serves all families here; a family is a set of switches. What a checkpoint asks for and the
decoder can't do is refused with the reason, never ignored.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError
from .int4 import Int4Format, int4_format

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture as checkpoints name it → family."""


@dataclass(slots=True, frozen=True)
class ModelConfig:
    """The decoder's shape and switches.

    Attributes:
        context_tokens: positions the model was made for.
        sliding_windows: by layer, how many positions a token sees; 0 is all.
        qkv_bias, qk_norm: Qwen2's biases, Qwen3's per-head norms.
        rope_theta, rope_type: base and scaling kind of the rotary embedding; `source` has its parameters.
        int4: how four-bit weights are stored; None where all are floats.
        source: the checkpoint's own configuration.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    context_tokens: int
    tie_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int, ...]
    rope_theta: float
    rope_type: str
    eos_token_ids: tuple[int, ...]
    dtype: torch.dtype
    int4: Int4Format | None
    source: Any


def load_config(path: str, source: Any, generation: Any) -> ModelConfig:
    """The meaning of a transformers configuration.

    Args:
        path: the model's name, for messages.
        source: its `PretrainedConfig`.
        generation: its `GenerationConfig`, or None.

    Raises:
        ModelError: an architecture or option that the engine has no code for.
    """
    architecture = (getattr(source, "architectures", None) or [type(source).__name__])[0]
    family = FAMILIES.get(architecture)
    if family is None:
        raise ModelError(
            f"{path}: {architecture} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    if source.hidden_act not in {"silu", "swish"}:
        raise ModelError(f"{path}: hidden_act={source.hidden_act!r} is not supported; it must be silu")
    rope = _rope(path, source)
    heads = source.num_attention_heads
    dtype = getattr(source, "dtype", None) or getattr(source, "torch_dtype", None) or torch.float32
    return ModelConfig(
        family=family,
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_layers=source.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(source, "num_key_value_heads", None) or heads,
        head_dim=getattr(source, "head_dim", None) or source.hidden_size // heads,
        norm_eps=source.rms_norm_eps,
        context_tokens=source.max_position_embeddings,
        tie_embeddings=bool(source.tie_word_embeddings),
        qkv_bias=family == "qwen2" or bool(getattr(source, "attention_bias", False)),
        output_bias=family != "qwen2" and bool(getattr(source, "attention_bias", False)),
        mlp_bias=bool(getattr(source, "mlp_bias", False)),
        qk_norm=family == "qwen3",
        sliding_windows=_windows(source),
        rope_theta=float(rope.get("rope_theta") or 10_000.0),
        rope_type=rope["rope_type"],
        eos_token_ids=_ends(source, generation),
        dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype,
        int4=int4_format(path, getattr(source, "quantization_config", None)),
        source=source,
    )


def _rope(path: str, source: Any) -> dict[str, Any]:
    """Rope parameters from both layouts: `rope_parameters`, or `rope_theta` beside `rope_scaling`."""
    rope = dict(getattr(source, "rope_parameters", None) or getattr(source, "rope_scaling", None) or {})
    rope.setdefault("rope_theta", getattr(source, "rope_theta", None))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] not in {"default", "linear", "llama3", "yarn"}:
        raise ModelError(
            f"{path}: rope_type={rope['rope_type']!r} is not supported; "
            "supported are default, linear, llama3 and yarn"
        )
    if rope.get("partial_rotary_factor") not in {None, 1.0}:
        raise ModelError(f"{path}: partial_rotary_factor={rope['partial_rotary_factor']} is not supported")
    return rope


def _windows(source: Any) -> tuple[int, ...]:
    window: int = getattr(source, "sliding_window", None) or 0
    layers: int = source.num_hidden_layers
    kinds = getattr(source, "layer_types", None)
    if kinds:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    uniform: int = window if getattr(source, "use_sliding_window", True) else 0
    return (uniform,) * layers


def _ends(source: Any, generation: Any) -> tuple[int, ...]:
    """End-of-sequence tokens of both files: chat models often name more in generation_config.json."""
    ends: set[int] = set()
    for holder in (source, generation):
        value: int | list[int] | None = getattr(holder, "eos_token_id", None)
        ends |= {value} if isinstance(value, int) else set(value or ())
    return tuple(sorted(ends))
