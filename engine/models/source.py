"""A checkpoint's JSON files, with what they may leave out.

transformers could say as much, but importing its configurations takes a second of every engine's start. A
file may leave out what equals the default of its model type, and those differ: the table below is
transformers', with which the tests compare it. Code that a checkpoint brings along is not even looked for.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import ModelError

_COMMON: dict[str, Any] = {
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

_QWEN: dict[str, Any] = _COMMON | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _COMMON
    | {
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "eos_token_id": 2,
    },
    "mistral": _COMMON
    | {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "eos_token_id": 2,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128},
    "mixtral": _COMMON
    | {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 2,
        "rope_theta": 1e6,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": _COMMON
    | {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
    },
}
"""Model type → what its config.json may leave out."""

_OPTIONAL = {"num_key_value_heads", "head_dim", "sliding_window", "eos_token_id"}
"""What may also be null."""

_MAY_BE_ZERO = {"max_window_layers", "sliding_window", "eos_token_id"}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object")
    return content


def read_configs(
    folder: Path, tell: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint's config.json, and its generation_config.json.

    The second is optional, and transformers goes on without one that is damaged: so does this.

    Args:
        folder: the checkpoint's.
        tell: is told of a second file that can't be read.

    Raises:
        ModelError: there is no config.json, or it is no JSON object.
    """
    config, generation = read_json(folder / "config.json"), folder / "generation_config.json"
    if not generation.exists():
        return config, {}
    try:
        return config, read_json(generation)
    except ModelError as error:
        tell(f"{error}; what it says of the end of a text does not count")
        return config, {}


def complete(path: str, config: Mapping[str, Any]) -> SimpleNamespace:
    """What a config.json says, by attribute, together with what it leaves out.

    Args:
        path: the model's name, for messages.
        config: the file's content.

    Raises:
        ModelError: its model type is unknown here, or a value is not of its kind.
    """
    model_type = config.get("model_type")
    if model_type not in DEFAULTS:
        raise ModelError(
            f"{path}: config.json has model_type={model_type!r}; supported are {', '.join(sorted(DEFAULTS))}"
        )
    defaults = DEFAULTS[model_type]
    source = SimpleNamespace(**defaults | dict(config))
    for name, default in defaults.items():
        _check(path, name, getattr(source, name), default)
    return source


def _check(path: str, name: str, value: Any, default: Any) -> None:
    if (value is None and name in _OPTIONAL) or (name == "eos_token_id" and isinstance(value, list)):
        return
    kind = int if default is None else type(default)
    right = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) is (
        kind is bool
    )
    if not right or (kind is int and value < (name not in _MAY_BE_ZERO)):
        wanted = {int: "a positive integer", float: "a number", bool: "true or false", str: "a string"}[kind]
        raise ModelError(f"{path}: config.json has {name}={value!r}; it must be {wanted}")


def sliding_windows(path: str, source: SimpleNamespace) -> tuple[int, ...]:
    """By layer, how many positions a token sees; 0 is all.

    Args:
        path: the model's name, for messages.
        source: what `complete` made.

    Raises:
        ModelError: a layer attends in yet another way.
    """
    layers: int = source.num_hidden_layers
    switched_off = not getattr(source, "use_sliding_window", True) and "qwen" in source.model_type
    if switched_off or not source.sliding_window:
        return (0,) * layers
    if source.model_type == "llama":
        if source.sliding_window >= source.max_position_embeddings:
            return (0,) * layers
        raise ModelError(
            f"{path}: sliding_window={source.sliding_window} is not supported for Llama; it must be null"
        )
    kinds = getattr(source, "layer_types", None)
    if kinds is None:
        first = source.max_window_layers if source.model_type in {"qwen2", "qwen3"} else 0
        return tuple(0 if index < first else source.sliding_window for index in range(layers))
    if len(kinds) != layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise ModelError(
            f"{path}: config.json has layer_types={kinds!r}; it must be full_attention or "
            f"sliding_attention for each of the {layers} layers"
        )
    return tuple(source.sliding_window if kind == "sliding_attention" else 0 for kind in kinds)
