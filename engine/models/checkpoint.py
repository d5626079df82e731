"""A checkpoint's tensors: memory-mapped safetensors shards, read one tensor at a time.

Pickled checkpoints are refused, because loading one runs any code in it.
"""

from collections.abc import KeysView
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...kernels.int4_weight import dequantize
from ..errors import ModelError
from .quantization.int4 import Int4Format
from .source import read_json

_POINTER = b"version https://git-lfs"

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Checkpoint:
    """The tensors of a checkpoint folder, by name."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        dtype: torch.dtype,
        device: torch.device,
        int4: Int4Format | None,
        *,
        tied: tuple[str, str] | None = None,
    ) -> None:
        """Open `folder`; `tied` names embedding and head if they are the same tensor."""
        self._dtype, self._device, self._int4 = dtype, device, int4
        found: dict[str, tuple[Any, str]] = {}
        for path in shards(folder):
            file = stack.enter_context(_opened(path))
            found |= {name: (file, name) for name in file.keys()}  # noqa: SIM118
        self._files = _as_saved_whole(found)
        if tied and tied[1] in self._files:  # tools that drop one of two equal tensors may have kept this one
            self._files.setdefault(tied[0], self._files[tied[1]])

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def names(self) -> KeysView[str]:
        """Of all tensors."""
        return self._files.keys()

    def shape(self, name: str) -> list[int]:
        """A tensor's shape in the file, which doesn't read the tensor."""
        shape: list[int] = self._slice(name).get_shape()
        return shape

    def kind(self, name: str) -> str:
        """A tensor's type in the file, by safetensors's name."""
        kind: str = self._slice(name).get_dtype()
        return kind

    def _slice(self, name: str) -> Any:
        file, stored = self._files[name]
        return file.get_slice(stored)

    def get(self, *names: str) -> Tensor:
        """One tensor, or several stacked by rows, in the model's type; 4-bit weights are dequantised."""
        parts = [self._one(name) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def stored(self, name: str) -> Tensor | None:
        """A tensor in the file's type; None if there is none."""
        if name not in self._files:
            return None
        file, stored = self._files[name]
        tensor: Tensor = file.get_tensor(stored)
        return tensor.to(self._device)

    def row(self, name: str, index: int) -> Tensor:
        """A row of a matrix in the model's type; of a float one, only the row is read."""
        if name not in self._files:
            return self._one(name)[index].clone()
        row: Tensor = self._slice(name)[index : index + 1]
        return row[0].to(self._device, self._dtype)

    def _one(self, name: str) -> Tensor:
        tensor = self.stored(name)
        if tensor is None and self._int4 is not None and f"{name.removesuffix('.weight')}.qweight" in self:
            # Asked for in floats all the same: experts are, whose product takes no four-bit weights.
            packed = self._int4.read(self.stored, [name.removesuffix(".weight")])
            assert packed is not None  # a single map
            return dequantize(packed, self._dtype)
        if tensor is None:
            raise ModelError(f"the checkpoint has no tensor {name!r}; is it complete?")
        return tensor.to(self._dtype)


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: the one with everything, or those that its index names.

    Raises:
        ModelError: it has none, or some that the index names are missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        return _indexed(folder, index)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise ModelError(
            f"{folder} holds a pickled checkpoint, which is never loaded (it could run code); "
            "save it with safe_serialization=True"
        )
    refuse_other_folders(folder)
    raise ModelError(f"{folder} holds no model.safetensors")


def refuse_other_folders(folder: Path) -> None:
    """Recognise a folder with something else by its files.

    Raises:
        ModelError: it contains a LoRA adapter or GGUF files.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds a LoRA adapter, not a model; serve its base model with max_adapters, and "
            "load the adapter there (headrace adapters load)"
        )
    if any(folder.glob("*.gguf")):
        raise ModelError(
            f"{folder} holds a GGUF file, which is not supported; use the model's safetensors checkpoint"
        )


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of the first floating tensor in a checkpoint's files."""
    for path in shards(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                if (dtype := _TYPES.get(file.get_slice(name).get_dtype())) is not None:
                    return dtype
    return torch.float32


def _indexed(folder: Path, index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(_is_file_name(name) for name in places.values()):
        raise ModelError(
            f"{index} has no weight_map that says which file each tensor is in; download it again"
        )
    names = sorted(set(places.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{index} names {missing[0]}, which is not there ({len(missing)} of {len(names)} files are "
            "missing); is the download complete?"
        )
    return [folder / name for name in names]


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in {"", ".", ".."} and Path(name).name == name


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # besides OSError, the library has errors of its own
        if path.is_file() and _begins_with(path, _POINTER):
            raise ModelError(
                f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
            ) from error
        size = path.stat().st_size if path.exists() else 0
        raise ModelError(
            f"{path} ({size} bytes) can't be read as safetensors: {error}; is the download complete?"
        ) from error


def _begins_with(path: Path, what: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(what)) == what


def _as_saved_whole(found: dict[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    """The tensors by a whole model's names; one saved from its base model lacks their first part."""
    # AutoModelForCausalLM saves model.layers.0…, AutoModel (the model without its head) layers.0….
    if any(name.startswith("model.") for name in found):
        return found
    return {name if name.startswith("lm_head.") else f"model.{name}": place for name, place in found.items()}
