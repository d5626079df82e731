"""Reading checkpoints: safetensors shards, tensor by tensor, into fused and packed weights.

No shard is held as a whole: each tensor is mapped, converted, fused with its neighbours and packed, and let
go. Pickled checkpoints are refused: loading one runs whatever code it holds.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...kernels.compiled import CompiledDecoder, can_compile, pack_panels
from ...kernels.linear import pack_linear
from ..errors import ModelError
from .config import ModelConfig
from .decoder import CompiledModel, Decoder, Layer, Model, Weight
from .rope import cos_sin_table


class _Checkpoint:
    """The tensors of a checkpoint folder, by name."""

    def __init__(self, folder: Path, stack: ExitStack, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._files: dict[str, Any] = {}
        for path in _shards(folder):
            file = stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, *names: str) -> Tensor:
        """One tensor, or several stacked by rows."""
        parts = [self._one(name) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _one(self, name: str) -> Tensor:
        if name not in self._files:
            raise ModelError(f"the checkpoint has no tensor {name!r}; is it complete?")
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor.to(self._device, self._dtype)


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise ModelError(
            f"{folder} holds a pickled checkpoint, which is never loaded (it could run code); "
            "save it with safe_serialization=True"
        )
    raise ModelError(f"{folder} holds no model.safetensors")


def load_decoder(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    positions: int,
    rows_hint: int,
    int8: bool = False,
) -> Model:
    """Load a checkpoint, for the fastest way of computing it here.

    Args:
        folder: the checkpoint's files.
        config: their meaning.
        dtype: what the weights are converted to.
        device: where they go.
        positions: how many positions the rotary tables cover.
        rows_hint: rows of a usual step, for packing.
        int8: round the weights of products to bytes.

    Raises:
        ModelError: tensors are missing, the checkpoint is not in safetensors, or int8 can't be had here.
    """
    with ExitStack() as stack:
        weights = _Checkpoint(folder, stack, dtype, device)
        embedding = weights.get("model.embed_tokens.weight").clone()
        tied = config.tie_embeddings or "lm_head.weight" not in weights
        head = embedding if tied else weights.get("lm_head.weight")
        norm = weights.get("model.norm.weight").clone()
        cos_sin = cos_sin_table(config, positions).to(device)
        inputs = config.hidden_size, config.num_heads * config.head_dim, config.intermediate_size
        if can_compile(dtype, device, *inputs):
            panels = partial(pack_panels, int8=int8)
            compiled = CompiledDecoder(
                _layers(weights, config, panels),
                embedding,
                norm,
                panels(head),
                cos_sin,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads,
                eps=config.norm_eps,
            )
            return CompiledModel(config, embedding, compiled)
        if int8:
            raise ModelError(
                "int8 weights need dtype bfloat16, a CPU that multiplies it (AMX or AVX-512 BF16), a C++ "
                "compiler, and layers whose widths are multiples of 32; leave quantization unset"
            )
        pack = partial(pack_linear, rows_hint=rows_hint)
        return Decoder(config, embedding, _layers(weights, config, pack), norm, pack(head), cos_sin)


def _layers(
    weights: _Checkpoint, config: ModelConfig, pack: Callable[[Tensor, Tensor | None], Weight]
) -> list[Layer[Weight]]:
    return [_layer(weights, config, index, pack) for index in range(config.num_layers)]


def _layer(
    weights: _Checkpoint, config: ModelConfig, index: int, pack: Callable[[Tensor, Tensor | None], Weight]
) -> Layer[Weight]:
    prefix = f"model.layers.{index}."

    def linear(bias: bool, *names: str) -> Weight:
        full = [f"{prefix}{name}" for name in names]
        fused_bias = weights.get(*(f"{name}.bias" for name in full)).clone() if bias else None
        return pack(weights.get(*(f"{name}.weight" for name in full)), fused_bias)

    def norm(name: str) -> Tensor:
        return weights.get(f"{prefix}{name}.weight").clone()

    return Layer(
        input_norm=norm("input_layernorm"),
        qkv=linear(config.qkv_bias, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output=linear(config.output_bias, "self_attn.o_proj"),
        mlp_norm=norm("post_attention_layernorm"),
        gate_up=linear(config.mlp_bias, "mlp.gate_proj", "mlp.up_proj"),
        down=linear(config.mlp_bias, "mlp.down_proj"),
        q_norm=norm("self_attn.q_norm") if config.qk_norm else None,
        k_norm=norm("self_attn.k_norm") if config.qk_norm else None,
        sliding_window=config.sliding_windows[index],
    )
