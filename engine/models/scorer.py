"""Loading the head of a model that scores: a classification head, or what two words say."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from ..scorer import Scorer
from .checkpoint import Checkpoint
from .config import ModelConfig

SCORE = "score.weight"
"""What checkpoints call the head of a classifier."""

_ACTIVATIONS = ("Sigmoid", "Identity")


def load_scorer(
    path: str, folder: Path, model: ModelConfig, config: Mapping[str, Any], tokens: tuple[int, int] | None
) -> Scorer | None:
    """The head that scores; None if the model has none.

    Args:
        path: the model's name, for messages.
        folder: the checkpoint's files.
        model: their meaning.
        config: the checkpoint's config.json.
        tokens: the tokens for no and yes to compare, if the model scores by those.

    Raises:
        ModelError: it can't score by tokens, or its config.json asks for something unknown.
    """
    if not model.has_scorer and tokens is None:
        return None
    sigmoid = _activation(path, config) == "Sigmoid"
    names = model.tensors
    embedding, head = f"{names.embedding}.weight", f"{names.head}.weight"
    with ExitStack() as stack:
        tied = (embedding, head) if model.tie_embeddings else None
        weights = Checkpoint(folder, stack, torch.float32, torch.device("cpu"), model.int4, tied=tied)
        if model.has_scorer:
            return Scorer(weights.get(SCORE)[0].numpy().copy(), sigmoid)
        assert tokens is not None
        if not model.has_head:
            raise ModelError(f"{path}: classifier_from_token needs a head that predicts tokens; it has none")
        if model.spec.logit_soft_cap:
            raise ModelError(f"{path}: classifier_from_token is not supported for logits with a soft cap")
        name = head if head in weights or f"{names.head}.qweight" in weights else embedding
        no, yes = (weights.row(name, token) for token in tokens)
        return Scorer((yes - no).numpy() * np.float32(model.spec.logit_multiplier), sigmoid)


def _activation(path: str, config: Mapping[str, Any]) -> str:
    """What is done with the product, as sentence-transformers writes it down."""
    own = config.get("sentence_transformers")
    named = own.get("activation_fn") if isinstance(own, Mapping) else None
    named = named or config.get("sbert_ce_default_activation_function") or _ACTIVATIONS[0]
    name = str(named).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ModelError(
            f"{path}: config.json asks for the activation {name}; supported are {' and '.join(_ACTIVATIONS)}"
        )
    return name
