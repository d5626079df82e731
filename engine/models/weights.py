"""Loading a decoder tensor by tensor: each is converted, fused with its neighbours, packed and released."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.compiled import CompiledDecoder, Panels, can_compile, pack_panels
from ...kernels.invariant_linear import pack_invariant_linear
from ...kernels.linear import pack_linear
from ...kernels.moe import pack_experts
from ..errors import ModelError
from .checkpoint import Checkpoint
from .config import ModelConfig
from .decoder import CompiledModel, Decoder, Model
from .determinism import why_not_deterministic
from .inventory import check_tensors
from .layers import ACTIVATIONS, DenseLayer, SparseLayer
from .linears import FloatLinears, Int4Linears, LinearMap, Linears, Weight
from .mixture import Mixture, read_sparse
from .rope import cos_sin_table


def load_decoder(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    positions: int,
    rows_hint: int,
    int8: bool = False,
    fp8_cache: bool = False,
    deterministic: bool = False,
) -> Model:
    """Load a checkpoint for the fastest way of computing it here.

    Args:
        folder: the checkpoint's files.
        config: their meaning.
        dtype: what the weights are converted to.
        device: where they go.
        positions: how many positions the rotary tables cover.
        rows_hint: number of rows in a usual step, for packing.
        int8: whether to round the weights of products to bytes.
        fp8_cache: whether keys and values will be kept as float8_e4m3fn.
        deterministic: whether a row's logits must have the same bits in every batch.

    Raises:
        ModelError: tensors are missing or don't fit, the checkpoint isn't in safetensors, or int8, fp8_cache
            or deterministic isn't supported here.
    """
    if deterministic and (reason := why_not_deterministic(config.spec, dtype, device, fp8_cache)):
        raise ModelError(f"deterministic mode {reason}; leave deterministic unset")
    with ExitStack() as stack:
        names, spec = config.tensors, config.spec
        embedded = f"{names.embedding}.weight"
        tied = (embedded, f"{names.head}.weight") if config.tie_embeddings else None
        weights = Checkpoint(folder, stack, dtype, device, config.int4, tied=tied)
        check_tensors(str(folder), weights, config)
        # Cloned: what was read may be a view of the mapped file, all of which it would keep mapped.
        embedding = weights.get(embedded).clone()
        norm = weights.get(f"{names.final_norm}.weight").clone()
        cos_sin = cos_sin_table(config, positions).to(device)
        inputs = config.hidden_size, config.num_heads * config.head_dim, config.intermediate_size
        if not spec.beyond_compiled and can_compile(dtype, device, *inputs):
            if fp8_cache:
                raise ModelError(
                    "kv_dtype fp8 is for GPUs: on a CPU the compiled bfloat16 step keeps keys and values as "
                    "bfloat16; leave kv_dtype unset, or use dtype float32, which is slow"
                )
            panels: Linears[Panels] = FloatLinears(weights, partial(pack_panels, int8=int8))
            compiled = CompiledDecoder(
                [_dense(weights, config, index, panels) for index in range(config.num_layers)],
                embedding,
                norm,
                _head(weights, config, embedding, panels),
                cos_sin,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads,
                eps=spec.norm_eps,
            )
            return CompiledModel(config, embedding, compiled)
        if int8:
            raise ModelError(_why_no_int8(config, dtype, device, inputs))
        linears = _linears(weights, config, dtype, rows_hint, deterministic)
        layers = [
            _sparse(weights, config, spec.mixture, index, linears, rows_hint, deterministic)
            if spec.mixture is not None and spec.mixture.sparse[index]
            else _dense(weights, config, index, linears)
            for index in range(config.num_layers)
        ]
        head = _head(weights, config, embedding, linears)
        return Decoder(config, embedding, layers, norm, head, cos_sin, deterministic)


def _why_no_int8(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, inputs: tuple[int, ...]
) -> str:
    """Say which of int8's conditions isn't met."""
    wide = [width for width in inputs if width % 32]
    reason = (
        "a model without experts, but this one has some"
        if config.spec.mixture is not None
        else f"the compiled decoder, which doesn't support {' and '.join(beyond)}"
        if (beyond := config.spec.beyond_compiled)
        else f"device cpu, not {device.type}"
        if device.type != "cpu"
        else f"dtype bfloat16, not {str(dtype).removeprefix('torch.')}"
        if dtype != torch.bfloat16
        else f"layers whose widths are multiples of 32, not {wide[0]}"
        if wide
        else "a C++ compiler, but none was found (install g++ or clang++)"
    )
    return f"int8 weights need {reason}; leave quantization unset"


def _linears(
    weights: Checkpoint, config: ModelConfig, dtype: torch.dtype, rows_hint: int, deterministic: bool
) -> Linears[LinearMap]:
    layout = pack_invariant_linear if deterministic else partial(pack_linear, rows_hint=rows_hint)
    floats: FloatLinears[LinearMap] = FloatLinears(weights, layout)
    if config.int4 is None:
        return floats
    return Int4Linears(weights, config.int4, floats, dtype, rows_hint, deterministic)


def _head(weights: Checkpoint, config: ModelConfig, embedding: Tensor, linears: Linears[Weight]) -> Weight:
    """The map to the vocabulary: the embedding, if the two are tied and the files contain no other."""
    head = config.tensors.head
    name = f"{head}.weight"
    own = name in weights or f"{head}.qweight" in weights
    if not own or (config.tie_embeddings and name in weights and torch.equal(weights.get(name), embedding)):
        return linears.pack(embedding)
    return linears.read(head)


def _dense(
    weights: Checkpoint, config: ModelConfig, index: int, linears: Linears[Weight]
) -> DenseLayer[Weight]:
    names, bias = config.tensors, config.spec.mlp_bias
    prefix = names.of_layer(index)
    return DenseLayer(
        *_common(weights, config, index, linears),
        gate_up=linears.read(f"{prefix}{names.gate}", f"{prefix}{names.up}", bias=bias),
        down=linears.read(f"{prefix}{names.down}", bias=bias),
        activation=ACTIVATIONS[config.spec.activation],
    )


def _sparse(
    weights: Checkpoint,
    config: ModelConfig,
    mixture: Mixture,
    index: int,
    linears: Linears[LinearMap],
    rows_hint: int,
    deterministic: bool,
) -> SparseLayer:
    if config.spec.activation != "silu":
        raise ModelError(f"experts with {config.spec.activation} are not supported, only with silu")
    names = config.tensors
    tensors = read_sparse(weights, names.of_layer(index), mixture.experts, names.experts)
    # An even share: 64 tokens that go to 8 of 128 experts each are 4 rows an expert.
    rows = max(1, rows_hint * mixture.top_k // mixture.experts)
    return SparseLayer(
        *_common(weights, config, index, linears),
        router=linears.read(tensors.router),
        experts=pack_experts(tensors.gate_up, tensors.down, rows_hint=rows, deterministic=deterministic),
        top_k=mixture.top_k,
        renormalize=mixture.renormalize,
    )


def _common(
    weights: Checkpoint, config: ModelConfig, index: int, linears: Linears[Weight]
) -> tuple[Tensor, Weight, Weight, Tensor, Tensor | None, Tensor | None, int]:
    """The fields of `Layer`, in order."""
    names, spec = config.tensors, config.spec
    prefix = names.of_layer(index)

    def norm(name: str) -> Tensor:
        return weights.get(f"{prefix}{name}.weight").clone()

    return (
        norm(names.input_norm),
        linears.read(*(f"{prefix}{name}" for name in (names.q, names.k, names.v)), bias=spec.qkv_bias),
        linears.read(f"{prefix}{names.output}", bias=spec.output_bias),
        norm(names.mlp_norm),
        norm(names.q_norm) if spec.qk_norm else None,
        norm(names.k_norm) if spec.qk_norm else None,
        spec.sliding_windows[index],
    )
