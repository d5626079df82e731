"""The supported model families, each in its own file; to add one, add its file and name it here."""

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ModelError
from . import granite, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe
from .family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (llama, mistral, qwen2, qwen3, mixtral, qwen3_moe, granite)
}
"""By model_type."""

_ENCODER = re.compile(r"[Bb]ert|Electra|MPNet|T5Encoder")
"""In the names of architectures that read a text in both directions."""

_WITH_HEAD, _WITHOUT_HEAD, _CLASSIFIER = "ForCausalLM", "Model", "ForSequenceClassification"

_BY_ARCHITECTURE = {family.architecture: family for family in FAMILIES.values()}


def family_of(path: str, config: Mapping[str, Any]) -> Family:
    """The family that config.json names in `architectures` or, if that is empty, in `model_type`.

    Args:
        path: the model's name, for messages.
        config: the file's content.

    Raises:
        ModelError: it isn't supported, or the two contradict each other.
    """
    model_type, named = config.get("model_type"), config.get("architectures") or []
    if not named and model_type in FAMILIES:
        return FAMILIES[model_type]
    architecture = str(named[0]) if isinstance(named, list) and named else f"model_type={model_type!r}"
    base = architecture.removesuffix(_WITHOUT_HEAD).removesuffix(_CLASSIFIER)
    family = _BY_ARCHITECTURE.get(architecture) or _BY_ARCHITECTURE.get(f"{base}{_WITH_HEAD}")
    if family is None and _ENCODER.search(architecture):
        raise ModelError(
            f"{path}: {architecture} is an encoder, which is not supported; supported are decoders, some of "
            f"which are made for embeddings: {', '.join(sorted(_BY_ARCHITECTURE))}"
        )
    if family is None:
        raise ModelError(
            f"{path}: {architecture} is not supported; supported are {', '.join(sorted(_BY_ARCHITECTURE))}"
        )
    if model_type not in FAMILIES:
        raise ModelError(
            f"{path}: config.json has model_type={model_type!r}; supported are {', '.join(sorted(FAMILIES))}"
        )
    if model_type != family.name:
        raise ModelError(
            f"{path}: config.json contradicts itself: {architecture}, but model_type={model_type!r}"
        )
    return family


def has_head_of(config: Mapping[str, Any]) -> bool:
    """Whether a supported model predicts tokens, as `LlamaForCausalLM` does and `LlamaModel` doesn't."""
    named = config.get("architectures") or [_WITH_HEAD]
    return not str(named[0]).endswith((_WITHOUT_HEAD, _CLASSIFIER))


def has_scorer_of(path: str, config: Mapping[str, Any]) -> bool:
    """Whether a supported model scores, as `Qwen3ForSequenceClassification` does.

    Args:
        path: the model's name, for messages.
        config: its config.json.

    Raises:
        ModelError: it has more than one label.
    """
    named = config.get("architectures") or [_WITH_HEAD]
    if not str(named[0]).endswith(_CLASSIFIER):
        return False
    labels = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    if labels != 1:
        raise ModelError(
            f"{path}: {named[0]} has {labels} labels (id2label in config.json); a model that scores has one"
        )
    return True


__all__ = ["FAMILIES", "Family", "family_of", "has_head_of", "has_scorer_of"]
