"""What a checkpoint's config.json means for the decoder.

One decoder serves all families; their files (`families/`) say what it does for each. If a checkpoint asks for
something that the decoder can't do, it is refused with the reason; nothing is ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ..errors import ModelError
from .families import family_of, has_head_of, has_scorer_of
from .quantization.int4 import Int4Format, int4_format
from .source import complete
from .spec import DecoderSpec
from .tensor_names import TensorNames


@dataclass(slots=True, frozen=True)
class ModelConfig:
    """A model's sizes, how its decoder computes, and how its checkpoint is stored.

    Attributes:
        family: the name of its family, for display.
        context_tokens: number of positions that the model was made for.
        spec: how its decoder computes.
        tensors: what its checkpoint calls them.
        int4: how 4-bit weights are stored; None if all are floats.
        has_head: whether it predicts tokens; one that was saved without its head is loaded as a tied one.
        has_scorer: whether it has a classification head with one label instead.
        dtype: the name of the type that it was made for; None if config.json doesn't say.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_tokens: int
    tie_embeddings: bool
    spec: DecoderSpec
    tensors: TensorNames
    eos_token_ids: tuple[int, ...]
    dtype: str | None
    int4: Int4Format | None
    has_head: bool = True
    has_scorer: bool = False

    @property
    def num_parameters(self) -> int:
        """Number of weights, including those of all experts, without norms and biases."""
        # Queries and output have num_heads heads each, keys and values num_kv_heads.
        attention = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.hidden_size
        embeddings = (1 if self.tie_embeddings else 2) * self.vocab_size * self.hidden_size
        return self.num_layers * attention + sum(self._mlps()) * self.hidden_size + embeddings

    def _mlps(self) -> Iterator[int]:
        """The parameters of each layer's MLPs, by input."""
        for index in range(self.num_layers):
            mixture = self.spec.mixture
            if mixture is not None and mixture.sparse[index]:
                # Gate, up and down of each expert, and its row of the router.
                yield mixture.experts * (3 * mixture.intermediate_size + 1)
            else:
                yield 3 * self.intermediate_size


def load_config(path: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """The meaning of a checkpoint's configuration files.

    Args:
        path: the model's name, for messages.
        config: its config.json.
        generation: its generation_config.json; empty if it has none.

    Raises:
        ModelError: an architecture or option isn't supported, or a value is invalid.
    """
    family, has_head = family_of(path, config), has_head_of(config)
    source = complete(path, config, family.defaults)
    if getattr(source, "is_causal", True) is not True:
        raise ModelError(f"{path}: is_causal={source.is_causal!r} is not supported; it must be true")
    heads = source.num_attention_heads
    kv_heads = source.num_key_value_heads or heads
    if heads % kv_heads:
        raise ModelError(f"{path}: {heads} attention heads can't share num_key_value_heads={kv_heads} evenly")
    return ModelConfig(
        family=family.name,
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_layers=source.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_head_dim(path, source),
        context_tokens=source.max_position_embeddings,
        tie_embeddings=bool(source.tie_word_embeddings) or not has_head,
        spec=family.spec(path, source),
        tensors=family.tensors,
        eos_token_ids=_ends(vars(source), generation),
        dtype=_dtype(path, config),
        int4=int4_format(path, getattr(source, "quantization_config", None)),
        has_head=has_head,
        has_scorer=has_scorer_of(path, config),
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


def _dtype(path: str, config: Mapping[str, Any]) -> str | None:
    name = config.get("dtype") or config.get("torch_dtype") or "auto"
    if not isinstance(name, str):
        raise ModelError(f"{path}: config.json has dtype={name!r}; it must be the name of a type")
    return None if name == "auto" else name


def _ends(*holders: Mapping[str, Any]) -> tuple[int, ...]:
    """The end-of-sequence tokens of both files; chat models often name more in generation_config.json."""
    ends: set[int] = set()
    for holder in holders:
        value: int | list[int] | None = holder.get("eos_token_id")
        ends |= {value} if isinstance(value, int) else set(value or ())
    return tuple(sorted(ends))
