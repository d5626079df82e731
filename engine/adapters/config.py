"""What an adapter's adapter_config.json means, as PEFT writes it.

A folder comes from outside. Everything that would change the result and isn't computed here is refused by
name, including fields that this version doesn't know: nothing is ignored that could matter.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from pathlib import Path
from typing import Any

from ..errors import ModelError

MOST_RANK = 64
_MOST_PATTERNS = 4096

_WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
    *("exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config"),
    *("lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type", "peft_version"),
    *("qalora_group_size", "revision", "runtime_config", "target_modules", "task_type"),
}
"""Fields that matter in training only, or that the tensors themselves answer."""

_OWN = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"}

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations after which the adapter belongs to a base whose weights were changed, too."""


@dataclass(slots=True, frozen=True)
class AdapterConfig:
    """How an adapter's tensors are to be multiplied.

    Attributes:
        alpha, rank: of every module that `alphas` or `ranks` don't name.
        rslora: divide by the root of the rank instead of the rank.
    """

    alpha: float
    rank: int
    rslora: bool
    alphas: Mapping[str, float]
    ranks: Mapping[str, int]

    def rank_of(self, module: str) -> int:
        """The rank of the module with this name."""
        return self.ranks.get(_named_by(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor on B·A of the module with this name."""
        rank = self.rank_of(module)
        alpha = self.alphas.get(_named_by(self.alphas, module), self.alpha)
        return alpha / (sqrt(rank) if self.rslora else rank)


def _named_by(patterns: Iterable[str], module: str) -> str:
    """The first of these names that is the module's own, or its end; "" if none is."""
    return next((name for name in patterns if f".{module}".endswith(f".{name}")), "")


def read_adapter_config(path: Path, content: bytes) -> AdapterConfig:
    """Read the content of an adapter_config.json.

    Raises:
        ModelError: it can't be read, or asks for something that isn't supported; the message names it.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} doesn't contain a JSON object")
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{path} has peft_type={config.get('peft_type')!r:.80}; only LORA is supported")
    _refuse_unsupported(path, config)
    if not isinstance(rslora := config.get("use_rslora") or False, bool):
        raise ModelError(f"{path} has use_rslora={rslora!r:.80}; it must be true or false")
    return AdapterConfig(
        alpha=_number(path, "lora_alpha", config.get("lora_alpha", 8)),
        rank=_rank(path, "r", config.get("r", 8)),
        rslora=rslora,
        alphas={
            name: _number(path, f"alpha_pattern[{name!r}]", value)
            for name, value in _named(path, config, "alpha_pattern")
        },
        ranks={
            name: _rank(path, f"rank_pattern[{name!r}]", value)
            for name, value in _named(path, config, "rank_pattern")
        },
    )


def _refuse_unsupported(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("bias", "none") != "none":
        raise ModelError(
            f"{path} has bias={config['bias']!r:.80}, which is not supported; train with bias='none'"
        )
    way = config.get("init_lora_weights", True)
    if isinstance(way, str) and way.lower().startswith(_CHANGES_BASE):
        raise ModelError(
            f"{path} has init_lora_weights={way!r:.80}, which also changes the base model's weights; convert "
            "it to a plain LoRA with save_pretrained(path_initial_model_for_weight_conversion=…)"
        )
    for name, value in config.items():
        if name not in _WITHOUT_EFFECT | _OWN and value not in (None, False, [], {}, ""):
            raise ModelError(
                f"{path} has {name[:64]}={value!r:.80}, which is not supported; merge the adapter into "
                "its base model with peft's merge_and_unload, and serve that"
            )


def _named(path: Path, config: Mapping[str, Any], field: str) -> list[tuple[str, Any]]:
    values = config.get(field) or {}
    if not isinstance(values, dict) or len(values) > _MOST_PATTERNS:
        raise ModelError(f"{path}: {field} must be an object of at most {_MOST_PATTERNS} modules")
    for name in values:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ModelError(
                f"{path}: {field} has {name!r:.80}; only names of modules are supported, no patterns"
            )
    return list(values.items())


def _rank(path: Path, field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_RANK:
        raise ModelError(f"{path} has {field}={value!r:.80}; a rank must be between 1 and {MOST_RANK}")
    return value


def _number(path: Path, field: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise ModelError(f"{path} has {field}={value!r:.80}; it must be a finite number")
    return number
