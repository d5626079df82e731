"""What a checkpoint's config.json means for the decoder.

One decoder serves all families here; a family is a set of switches. What a checkpoint asks for and the
decoder can't do is refused with the reason, never ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import ModelError
from .int4 import Int4Format, int4_format
from .mixture import Mixture, read_mixture
from .rope_scaling import Rope, read_rope
from .source import complete, sliding_windows

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
"""Architecture as checkpoints name it → family."""


@dataclass(slots=True, frozen=True)
class ModelConfig:
    """The decoder's shape and switches.

    Attributes:
        context_tokens: positions the model was made for.
        sliding_windows: by layer, how many positions a token sees; 0 is all.
        qkv_bias, qk_norm: Qwen2's biases, Qwen3's per-head norms.
        int4: how four-bit weights are stored; None where all are floats.
        mixture: the experts; None where every layer has one MLP.
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
    rope: Rope
    eos_token_ids: tuple[int, ...]
    dtype: torch.dtype
    int4: Int4Format | None
    mixture: Mixture | None


def load_config(path: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """The meaning of a checkpoint's configuration files.

    Args:
        path: the model's name, for messages.
        config: its config.json.
        generation: its generation_config.json; empty where it has none.

    Raises:
        ModelError: an architecture or option that the engine has no code for, or a value that is none.
    """
    architecture = (config.get("architectures") or [f"model_type={config.get('model_type')!r}"])[0]
    family = FAMILIES.get(architecture)
    if family is None:
        raise ModelError(
            f"{path}: {architecture} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    source = complete(path, config)
    if source.hidden_act not in {"silu", "swish"}:
        raise ModelError(f"{path}: hidden_act={source.hidden_act!r} is not supported; it must be silu")
    heads = source.num_attention_heads
    return ModelConfig(
        family=family,
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_layers=source.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=source.num_key_value_heads or heads,
        head_dim=_head_dim(path, source),
        norm_eps=source.rms_norm_eps,
        context_tokens=source.max_position_embeddings,
        tie_embeddings=bool(source.tie_word_embeddings),
        qkv_bias=family == "qwen2" or bool(getattr(source, "attention_bias", False)),
        output_bias=family != "qwen2" and bool(getattr(source, "attention_bias", False)),
        mlp_bias=bool(getattr(source, "mlp_bias", False)),
        qk_norm=family in {"qwen3", "qwen3_moe"},
        sliding_windows=sliding_windows(path, source),
        rope=read_rope(path, source),
        eos_token_ids=_ends(vars(source), generation),
        dtype=_dtype(path, config),
        int4=int4_format(path, getattr(source, "quantization_config", None)),
        mixture=read_mixture(path, family, source),
    )


def _head_dim(path: str, source: SimpleNamespace) -> int:
    heads: int = source.num_attention_heads
    head_dim: int | None = source.head_dim
    if head_dim is None and source.hidden_size % heads:
        raise ModelError(f"{path}: hidden_size={source.hidden_size} can't be shared by {heads} heads")
    head_dim = head_dim or source.hidden_size // heads
    if head_dim % 2:
        raise ModelError(f"{path}: head_dim={head_dim} is odd; a rotary embedding needs pairs")
    return head_dim


def _dtype(path: str, config: Mapping[str, Any]) -> torch.dtype:
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"{path}: config.json has dtype={name!r}, which torch does not know")
    return dtype


def _ends(*holders: Mapping[str, Any]) -> tuple[int, ...]:
    """End-of-sequence tokens of both files: chat models often name more in generation_config.json."""
    ends: set[int] = set()
    for holder in holders:
        value: int | list[int] | None = holder.get("eos_token_id")
        ends |= {value} if isinstance(value, int) else set(value or ())
    return tuple(sorted(ends))
