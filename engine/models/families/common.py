"""What several families' configurations have in common."""

from types import SimpleNamespace
from typing import Any

from ...errors import ModelError
from ..mixture import Mixture
from ..rope_scaling import read_rope
from ..spec import DecoderSpec

DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
}

QWEN_DEFAULTS: dict[str, Any] = DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def decoder_spec(path: str, source: SimpleNamespace, **switches: Any) -> DecoderSpec:
    """The spec of a family that differs from Llama only in these fields of `DecoderSpec`.

    Raises:
        ModelError: the activation or the rotary embedding isn't supported.
    """
    if source.hidden_act not in {"silu", "swish"}:
        raise ModelError(f"{path}: hidden_act={source.hidden_act!r} is not supported; it must be silu")
    return DecoderSpec(norm_eps=source.rms_norm_eps, rope=read_rope(path, source), **switches)


def windows(path: str, source: SimpleNamespace, *, first: int = 0) -> tuple[int, ...]:
    """How many positions a token sees in each layer; 0 is all.

    Args:
        path: the model's name, for messages.
        source: its configuration.
        first: if config.json doesn't name layers, how many of the lowest see all.

    Raises:
        ModelError: a layer attends in another way.
    """
    layers: int = source.num_hidden_layers
    window: int | None = source.sliding_window
    if not window:
        return (0,) * layers
    kinds: list[str] | None = getattr(source, "layer_types", None)
    if kinds is None:
        return tuple(0 if index < first else window for index in range(layers))
    if len(kinds) != layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise ModelError(
            f"{path}: config.json has layer_types={kinds!r}; it must be full_attention or "
            f"sliding_attention for each of the {layers} layers"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def no_windows(path: str, source: SimpleNamespace, name: str) -> tuple[int, ...]:
    """Like `windows`, for a family (named in messages) whose models see all.

    Raises:
        ModelError: the configuration asks for a window that is shorter than the context.
    """
    layers: int = source.num_hidden_layers
    if source.sliding_window and source.sliding_window < source.max_position_embeddings:
        raise ModelError(
            f"{path}: sliding_window={source.sliding_window} is not supported for {name}; it must be null"
        )
    return (0,) * layers


def qwen_windows(path: str, source: SimpleNamespace, *, first: int = 0) -> tuple[int, ...]:
    """Like `windows`, for a family whose configuration switches them on."""
    layers: int = source.num_hidden_layers
    if not source.use_sliding_window:
        return (0,) * layers
    return windows(path, source, first=first)


def checked(path: str, mixture: Mixture) -> Mixture:
    """The mixture of experts.

    Raises:
        ModelError: a token should go to more experts than there are.
    """
    if mixture.top_k > mixture.experts:
        raise ModelError(
            f"{path}: num_experts_per_tok is {mixture.top_k}, but there are {mixture.experts} experts"
        )
    return mixture
