"""What a model family is to the engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ..spec import DecoderSpec
from ..tensor_names import TensorNames


@dataclass(slots=True, frozen=True)
class Family:
    """One architecture of checkpoints.

    Attributes:
        name: its model_type in config.json.
        architecture: its name under `architectures` in config.json.
        defaults: what config.json may leave out, with transformers' values.
        spec: makes the decoder's spec from the model's name, for messages, and its completed config.json.
            Raises `ModelError` for what the decoder can't do.
        tensors: what its checkpoints call their tensors.
    """

    name: str
    architecture: str
    defaults: Mapping[str, Any]
    spec: Callable[[str, SimpleNamespace], DecoderSpec]
    tensors: TensorNames = field(default_factory=TensorNames)
