"""What a checkpoint's config.json means for the decoder.

One decoder serves all families here; a family is a set of switches. What a checkpoint asks for and the
decoder can't do is refused with the reason, never ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ..errors import ModelError
from .mixture import Mixture, read_mixture
from .quantization.int4 import Int4Format, int4_format
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
        dtype: the name of the type that it was made for; None where that is not said.
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
    dtype: str | None
    int4: Int4Format | None
    mixture: Mixture | None

    @property
    def num_parameters(self) -> int:
        """Weights, those of all experts included; norms and biases are not counted."""
        attention = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.hidden_size
        embeddings = (1 if self.tie_embeddings else 2) * self.vocab_size * self.hidden_size
        return self.num_layers * attention + sum(self._mlps()) * self.hidden_size + embeddings

    def _mlps(self) -> Iterator[int]:
        """The parameters of each layer's MLPs, by input."""
        for index in range(self.num_layers):
            if self.mixture is not None and self.mixture.sparse[index]:
                yield self.mixture.experts * (3 * self.mixture.intermediate_size + 1)
            else:
                yield 3 * self.intermediate_size


def load_config(path: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """The meaning of a checkpoint's configuration files.

    Args:
        path: the model's name, for messages.
        config: its config.json.
        generation: its generation_config.json; empty where it has none.

    Raises:
        ModelError: an architecture or option that the engine has no code for, or a value that is none.
    """
    family = _family(path, config)
    source = complete(path, config)
    if getattr(source, "is_causal", True) is not True:
        raise ModelError(f"{path}: is_causal={source.is_causal!r} is not supported; it must be true")
    if source.hidden_act not in {"silu", "swish"}:
        raise ModelError(f"{path}: hidden_act={source.hidden_act!r} is not supported; it must be silu")
    heads = source.num_attention_heads
    kv_heads = source.num_key_value_heads or heads
    if heads % kv_heads:
        raise ModelError(f"{path}: {heads} attention heads can't share num_key_value_heads={kv_heads} evenly")
    biased = family in {"llama", "qwen3", "qwen3_moe"} and bool(getattr(source, "attention_bias", False))
    return ModelConfig(
        family=family,
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_layers=source.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_head_dim(path, source),
        norm_eps=source.rms_norm_eps,
        context_tokens=source.max_position_embeddings,
        tie_embeddings=bool(source.tie_word_embeddings),
        qkv_bias=family == "qwen2" or biased,
        output_bias=biased,
        mlp_bias=family == "llama" and bool(source.mlp_bias),
        qk_norm=family in {"qwen3", "qwen3_moe"},
        sliding_windows=sliding_windows(path, source),
        rope=read_rope(path, source),
        eos_token_ids=_ends(vars(source), generation),
        dtype=_dtype(path, config),
        int4=int4_format(path, getattr(source, "quantization_config", None)),
        mixture=read_mixture(path, family, source),
    )


def _family(path: str, config: Mapping[str, Any]) -> str:
    """What config.json says in `architectures`, or where that is empty in `model_type`.

    Raises:
        ModelError: neither is supported, or they contradict each other.
    """
    model_type = config.get("model_type")
    named = config.get("architectures") or []
    if not named and model_type in FAMILIES.values():
        return str(model_type)
    architecture = str(named[0]) if isinstance(named, list) and named else f"model_type={model_type!r}"
    family = FAMILIES.get(architecture)
    if family is None:
        raise ModelError(
            f"{path}: {architecture} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    if model_type in FAMILIES.values() and model_type != family:
        raise ModelError(
            f"{path}: config.json contradicts itself: {architecture}, but model_type={model_type!r}"
        )
    return family


def _head_dim(path: str, source: SimpleNamespace) -> int:
    heads: int = source.num_attention_heads
    head_dim: int | None = source.head_dim
    if head_dim is None and source.hidden_size % heads:
        raise ModelError(f"{path}: hidden_size={source.hidden_size} can't be shared by {heads} heads")
    head_dim = head_dim or source.hidden_size // heads
    if head_dim % 2:
        raise ModelError(f"{path}: head_dim={head_dim} is odd; a rotary embedding needs pairs")
    return head_dim


def _dtype(path: str, config: Mapping[str, Any]) -> str | None:
    name = config.get("dtype") or config.get("torch_dtype") or "auto"
    if not isinstance(name, str):
        raise ModelError(f"{path}: config.json has dtype={name!r}; it must be the name of a type")
    return None if name == "auto" else name


def _ends(*holders: Mapping[str, Any]) -> tuple[int, ...]:
    """End-of-sequence tokens of both files: chat models often name more in generation_config.json."""
    ends: set[int] = set()
    for holder in holders:
        value: int | list[int] | None = holder.get("eos_token_id")
        ends |= {value} if isinstance(value, int) else set(value or ())
    return tuple(sorted(ends))
