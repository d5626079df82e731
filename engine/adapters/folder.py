"""Reading a LoRA adapter from a PEFT folder, checked against the model that it is for."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from ...kernels.compiled import LORA_MAPS, CompiledLora
from ...kernels.lora import LoraMap, LoraPart, LoraWeight, lora_fields
from ..errors import ModelError
from ..models.config import ModelConfig
from .config import AdapterConfig, read_adapter_config
from .files import CONFIG_FILE, FILE, read_files

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])\.weight")


@dataclass(slots=True, frozen=True)
class AdapterWeights:
    """An adapter in memory.

    Attributes:
        fingerprint: identifies its content.
        layers: of each layer, what it adds to which of its maps.
        bytes: the memory that it takes.
        compiled: the same for a compiled decoder, which then is all there is.
        fields: the same for a GPU, see `lora_fields`.
    """

    fingerprint: str
    layers: tuple[dict[str, LoraMap], ...]
    bytes: int
    compiled: CompiledLora | None = None
    fields: Tensor | None = None


@dataclass(slots=True, frozen=True)
class _Target:
    """One of a layer's modules: the fused map that it is part of, where, and its sizes."""

    map: str
    outputs: slice
    inputs: int

    @property
    def width(self) -> int:
        return int(self.outputs.stop - self.outputs.start)


@dataclass(slots=True, frozen=True)
class AdapterReader:
    """Reads adapters for one model.

    Attributes:
        dtype, device: of the model's activations.
        pack: lays a weight out for products.
        most_bytes: maximum size of an adapter's file.
        compiled: whether it is for a compiled decoder.
    """

    model: ModelConfig
    dtype: torch.dtype
    device: torch.device
    most_bytes: int
    pack: Callable[[Tensor], LoraWeight] = LoraWeight
    compiled: bool = False

    def read(self, folder: Path, fingerprint: str) -> AdapterWeights:
        """Read an adapter, whose content must have this fingerprint.

        Raises:
            ModelError: it isn't one, isn't for this model, or has something that isn't supported.
        """
        files = read_files(folder, self.most_bytes)
        config, path = read_adapter_config(folder / CONFIG_FILE, files.config), folder / FILE
        targets = self._targets()
        try:
            stored = load(files.tensors)
        except Exception as error:  # the library has errors of its own
            raise ModelError(
                f"{path} ({len(files.tensors)} bytes) can't be read as safetensors: {error}; "
                "is the download complete?"
            ) from error
        halves = self._names(path, stored, targets)
        tensors = {module: (stored[a], stored[b]) for module, (a, b) in halves.items()}
        for name, tensor in stored.items():
            if tensor.dtype not in _FLOATS:
                raise ModelError(
                    f"{path}: {name} is {tensor.dtype}; supported are {', '.join(map(str, _FLOATS))}"
                )
        for module, (a, b) in tensors.items():
            self._check(path, config, module, targets[module], a, b)
        if files.fingerprint != fingerprint:
            raise ModelError(
                f"the content of {folder} has the fingerprint {files.fingerprint}, not {fingerprint}: it was "
                "replaced, or differs from machine to machine; put the right files there, or load it again "
                "under a name to use it as it is now"
            )
        layers: list[dict[str, LoraMap]] = [{} for _ in range(self.model.num_layers)]
        size = 0
        for index, layer in enumerate(layers):
            mine: dict[str, list[tuple[_Target, Tensor, Tensor]]] = {}
            for module, target in targets.items():
                if module in tensors and module.startswith(self.model.tensors.of_layer(index)):
                    a, b = tensors[module]
                    # The scale goes into B before either is rounded to the model's type.
                    scaled = b.to(torch.float32) * config.scale_of(module)
                    mine.setdefault(target.map, []).append((target, a, scaled))
            for name, parts in mine.items():
                layer[name] = self._fused(parts)
                size += sum(a.numel() + b.numel() for _, a, b in parts) * self.dtype.itemsize
        if self.compiled:
            return AdapterWeights(fingerprint, (), size, CompiledLora(layers))
        fields = lora_fields(layers, LORA_MAPS) if self.device.type == "cuda" else None
        return AdapterWeights(fingerprint, tuple(layers), size, fields=fields)

    def _fused(self, parts: list[tuple[_Target, Tensor, Tensor]]) -> LoraMap:
        made, at = [], 0
        for target, a, b in parts:
            inner = slice(at, at := at + len(a))
            made.append(LoraPart(self._packed(b), inner, target.outputs))
        return LoraMap(self._packed(torch.cat([a.to(torch.float32) for _, a, _ in parts])), tuple(made))

    def _packed(self, weight: Tensor) -> LoraWeight:
        return self.pack(weight.to(self.dtype).contiguous().to(self.device))

    def _targets(self) -> dict[str, _Target]:
        """The modules that an adapter may change, by name."""
        model, names = self.model, self.model.tensors
        heads, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
        hidden, inner = model.hidden_size, model.intermediate_size
        layer = {
            names.q: _Target("qkv", slice(0, heads), hidden),
            names.k: _Target("qkv", slice(heads, heads + kv), hidden),
            names.v: _Target("qkv", slice(heads + kv, heads + 2 * kv), hidden),
            names.output: _Target("output", slice(0, hidden), heads),
        }
        mlp = {
            names.gate: _Target("gate_up", slice(0, inner), hidden),
            names.up: _Target("gate_up", slice(inner, 2 * inner), hidden),
            names.down: _Target("down", slice(0, hidden), inner),
        }
        mixture = model.spec.mixture
        return {
            f"{names.of_layer(index)}{name}": target
            for index in range(model.num_layers)
            for name, target in {
                **layer,
                **({} if mixture is not None and mixture.sparse[index] else mlp),
            }.items()
        }

    def _names(
        self, path: Path, stored: Iterable[str], targets: dict[str, _Target]
    ) -> dict[str, tuple[str, str]]:
        """The names of each module's A and B."""
        found: dict[str, dict[str, str]] = {}
        for name in sorted(stored):
            matched = _NAME.fullmatch(name)
            module = matched and matched["module"]
            if module and module not in targets and f"model.{module}" in targets:
                module = f"model.{module}"  # of a base that was loaded without its head
            if matched is None or module not in targets:
                raise ModelError(
                    f"{path} has a tensor {name!r:.200}, which changes more than the attention and "
                    f"MLP maps of this model's {self.model.num_layers} layers; train without "
                    "modules_to_save, embeddings, experts and DoRA, and for this base model"
                )
            found.setdefault(module, {})[matched["half"]] = name
        if not found:
            raise ModelError(f"{path} has no tensors")
        for module, halves in found.items():
            if len(halves) < 2:
                raise ModelError(f"{path} has only one of lora_A and lora_B of {module}; is it complete?")
        return {module: (halves["A"], halves["B"]) for module, halves in found.items()}

    def _check(
        self, path: Path, config: AdapterConfig, module: str, target: _Target, a: Tensor, b: Tensor
    ) -> None:
        rank = config.rank_of(module)
        wanted = [rank, target.inputs], [target.width, rank]
        for half, tensor, shape in zip("AB", (a, b), wanted, strict=True):
            if list(tensor.shape) != shape:
                raise ModelError(
                    f"{path}: lora_{half} of {module} is {list(tensor.shape)}, but this model and "
                    f"rank {rank} need {shape}; is the adapter for another base model?"
                )
