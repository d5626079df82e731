"""A checkpoint's tensors: safetensors shards, mapped, of which one tensor at a time is read.

Pickled checkpoints are refused: loading one runs whatever code it holds.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...kernels.int4_weight import dequantize
from ..errors import ModelError
from .int4 import Int4Format


class Checkpoint:
    """The tensors of a checkpoint folder, by name."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        dtype: torch.dtype,
        device: torch.device,
        int4: Int4Format | None,
    ) -> None:
        self._dtype, self._device, self._int4 = dtype, device, int4
        self._files: dict[str, Any] = {}
        for path in shards(folder):
            file = stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> list[int]:
        """A tensor's shape in the file, which is not read for it."""
        shape: list[int] = self._files[name].get_slice(name).get_shape()
        return shape

    def get(self, *names: str) -> Tensor:
        """One tensor, or several stacked by rows, in the model's type; a weight of four bits dequantised."""
        parts = [self._one(name) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def stored(self, name: str) -> Tensor | None:
        """A tensor in the type of the file; None if there is none."""
        if name not in self._files:
            return None
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor.to(self._device)

    def _one(self, name: str) -> Tensor:
        tensor = self.stored(name)
        if tensor is None and self._int4 is not None and f"{name.removesuffix('.weight')}.qweight" in self:
            packed = self._int4.read(self.stored, [name.removesuffix(".weight")])
            assert packed is not None  # one map alone
            return dequantize(packed, self._dtype)
        if tensor is None:
            raise ModelError(f"the checkpoint has no tensor {name!r}; is it complete?")
        return tensor.to(self._dtype)


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        ModelError: it has none.
    """
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
