"""Compares the tensors that config.json asks for, and their shapes, with those in the files.

Only headers are read. A tensor that is missing, left over or of another shape means that the two don't belong
together or that the download is incomplete: such a model would compute something else, or fail during a job.
"""

from collections.abc import Collection, Iterator

from ..errors import ModelError
from .checkpoint import Checkpoint
from .config import ModelConfig
from .mixture import STACKED, Mixture, apart
from .quantization.int4 import Int4Format
from .scorer import SCORE

Shape = tuple[int, ...]
Sizes = tuple[int, int]

_NAMED = 3
"""How many tensors' names a message lists; more would say nothing new."""

_UNUSED = (".rotary_emb.inv_freq", ".attention.masked_bias")
"""Endings of tensors that older tools saved and nothing needs, because they follow from config.json."""

_FLOATS = {"F64", "F32", "F16", "BF16"}
_WORDS = {"I32", "U32"}


def check_tensors(path: str, weights: Checkpoint, config: ModelConfig) -> None:
    """Compare a checkpoint with its configuration.

    Args:
        path: the model's name, for messages.
        weights: its files.
        config: its config.json.

    Raises:
        ModelError: naming the tensors that are missing, left over, or of another shape or type.
    """
    if config.int4 is not None and not any(name.endswith(".qweight") for name in weights.names):
        raise ModelError(
            f"{path}: quantization_config says {config.int4.method}, but the files hold no qweight; "
            "take it out of config.json if the weights are floats"
        )
    wanted = dict(_wanted(weights, config))
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise ModelError(
            f"{path}: the checkpoint has no tensor {_some(missing)}, which config.json asks for; "
            "is it complete?"
        )
    for name, shape in wanted.items():
        _check(path, weights, config, name, shape)
    left = [name for name in sorted(weights.names - wanted.keys()) if not _says_nothing(weights, name)]
    if left:
        raise ModelError(
            f"{path}: the checkpoint has the tensor {_some(left)}, which config.json doesn't ask for: "
            "do the two belong together?"
        )


def _check(path: str, weights: Checkpoint, config: ModelConfig, name: str, shape: Shape) -> None:
    found, kind = tuple(weights.shape(name)), weights.kind(name)
    words = name.endswith((".qweight", ".qzeros", ".g_idx"))
    if found != shape:
        grouped = config.int4 is not None and name.endswith((".qzeros", ".scales"))
        groups = f" in groups of {config.int4.group_size}" if config.int4 and grouped else ""
        raise ModelError(
            f"{path}: the tensor {name} has the shape {list(found)}, but config.json asks for {list(shape)}"
            f"{groups}: do the two belong together?"
        )
    if kind not in (_WORDS if words else _FLOATS):
        raise ModelError(
            f"{path}: the tensor {name} has the type {kind}; supported are {', '.join(sorted(_FLOATS))}, and "
            "4-bit AWQ or GPTQ if quantization_config says so"
        )


def _says_nothing(weights: Checkpoint, name: str) -> bool:
    """Whether it can be ignored: a computed table, or a bias of zeros, as AutoGPTQ writes them."""
    if name.endswith(_UNUSED):
        return True
    if name.endswith(".bias") and f"{name.removesuffix('.bias')}.qweight" in weights:
        return not weights.get(name).any()
    return False


def _some(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _wanted(weights: Checkpoint, config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden, names = config.hidden_size, config.tensors
    yield f"{names.embedding}.weight", (config.vocab_size, hidden)
    for index in range(config.num_layers):
        yield from _layer(weights, config, index)
    yield f"{names.final_norm}.weight", (hidden,)
    if config.has_scorer:
        yield SCORE, (1, hidden)
    # A tied model may still hold its head, saved once more by a tool that doesn't drop it.
    if not config.tie_embeddings or any(f"{names.head}.{kind}" in weights for kind in ("weight", "qweight")):
        yield from _linear(weights, config.int4, names.head, hidden, config.vocab_size)


def _layer(weights: Checkpoint, config: ModelConfig, index: int) -> Iterator[tuple[str, Shape]]:
    names, spec, hidden = config.tensors, config.spec, config.hidden_size
    prefix = names.of_layer(index)

    def maps(*each: tuple[str, Sizes, bool]) -> Iterator[tuple[str, Shape]]:
        for name, (inputs, outputs), bias in each:
            yield from _linear(weights, config.int4, f"{prefix}{name}", inputs, outputs, bias=bias)

    queries, values = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield from maps(
        (names.q, (hidden, queries), spec.qkv_bias),
        (names.k, (hidden, values), spec.qkv_bias),
        (names.v, (hidden, values), spec.qkv_bias),
        (names.output, (queries, hidden), spec.output_bias),
    )
    for name in (names.input_norm, names.mlp_norm):
        yield f"{prefix}{name}.weight", (hidden,)
    if spec.qk_norm:
        for name in (names.q_norm, names.k_norm):
            yield f"{prefix}{name}.weight", (config.head_dim,)
    if spec.mixture is not None and spec.mixture.sparse[index]:
        yield from _experts(weights, config, spec.mixture, prefix)
        return
    inner = config.intermediate_size
    yield from maps(
        (names.gate, (hidden, inner), spec.mlp_bias),
        (names.up, (hidden, inner), spec.mlp_bias),
        (names.down, (inner, hidden), spec.mlp_bias),
    )


def _experts(
    weights: Checkpoint, config: ModelConfig, mixture: Mixture, prefix: str
) -> Iterator[tuple[str, Shape]]:
    """As `read_sparse` reads them."""
    hidden, inner, count = config.hidden_size, mixture.intermediate_size, mixture.experts
    stacked = f"{prefix}{STACKED}.experts."
    if f"{stacked}gate_up_proj" in weights:
        yield from _linear(weights, config.int4, f"{prefix}{STACKED}.gate", hidden, count)
        yield f"{stacked}gate_up_proj", (count, 2 * inner, hidden)
        yield f"{stacked}down_proj", (count, hidden, inner)
        return
    own = apart(weights, prefix, config.tensors.experts)
    block = f"{prefix}{own.block}"
    yield from _linear(weights, config.int4, f"{block}.gate", hidden, count)
    for expert in range(count):
        each = f"{block}.experts.{expert}."
        for name in (own.gate, own.up):
            yield from _linear(weights, config.int4, f"{each}{name}", hidden, inner)
        yield from _linear(weights, config.int4, f"{each}{own.down}", inner, hidden)


def _linear(
    weights: Checkpoint,
    int4: Int4Format | None,
    name: str,
    inputs: int,
    outputs: int,
    *,
    bias: bool = False,
) -> Iterator[tuple[str, Shape]]:
    """The tensors of one linear map, 4-bit or floating-point."""
    if int4 is not None and f"{name}.qweight" in weights:
        groups = 1 if int4.group_size == -1 else -(-inputs // int4.group_size)
        awq = int4.method == "awq"
        yield f"{name}.qweight", (inputs, outputs // 8) if awq else (inputs // 8, outputs)
        yield f"{name}.qzeros", (groups, outputs // 8)
        yield f"{name}.scales", (groups, outputs)
        if f"{name}.g_idx" in weights:
            yield f"{name}.g_idx", (inputs,)
    else:
        yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)
