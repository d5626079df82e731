"""4-bit checkpoints: what `quantization_config` says about them, and their tensors as one weight.

AWQ and GPTQ store a linear map as `qweight`, `qzeros` and `scales` (GPTQ also `g_idx`) instead of `weight`.
Outputs are the second dimension of all of them, so maps of the same input are fused by stacking along it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....kernels.int4_weight import Int4Weight, from_awq, from_gptq
from ...errors import ModelError

_WAY_OUT = "use the float checkpoint, or one quantised to 4 bits with AWQ or GPTQ"


@dataclass(slots=True, frozen=True)
class Int4Format:
    """How a checkpoint stores its 4-bit weights.

    Attributes:
        method: `awq` or `gptq`.
        group_size: number of inputs that share a scale; -1 is all of them.
        reorders: whether `g_idx`, which gives the group of each input, is used.
        zero_offset: what is added to each zero in the file.
    """

    method: str
    group_size: int
    reorders: bool = False
    zero_offset: int = 0

    def read(self, tensor: Callable[[str], Tensor | None], names: Sequence[str]) -> Int4Weight | None:
        """The weight of the linear maps of these names, stacked.

        Args:
            tensor: returns a tensor of the checkpoint by name, as stored; None if there is none.
            names: of maps that have the same input.

        Returns:
            None if they take their inputs in different orders, so that each needs a weight of its own.

        Raises:
            ModelError: a tensor is missing or has a shape that doesn't fit the format.
        """
        qweight, qzeros, scales = (_fused(tensor, names, kind) for kind in ("qweight", "qzeros", "scales"))
        orders = [tensor(f"{name}.g_idx") for name in names] if self.reorders else [None]
        order = orders[0]
        if not all(_same(order, other) for other in orders[1:]):
            return None
        try:
            if self.method == "awq":
                return from_awq(qweight, qzeros, scales, group_size=self.group_size)
            return from_gptq(
                qweight, qzeros, scales, order, group_size=self.group_size, zero_offset=self.zero_offset
            )
        except ValueError as error:
            raise ModelError(f"{', '.join(names)}: {error}") from error


def int4_format(path: str, settings: Any) -> Int4Format | None:
    """The meaning of config.json's `quantization_config`; None for a float checkpoint.

    Args:
        path: the model's name, for messages.
        settings: the section, or None.

    Raises:
        ModelError: the method, width or layout isn't supported.
    """
    if settings is None:
        return None

    def refuse(field: str, value: object, supported: str) -> ModelError:
        return ModelError(
            f"{path}: quantization_config.{field} is {value!r}; it must be {supported}: {_WAY_OUT}"
        )

    if not isinstance(settings, Mapping):
        raise ModelError(f"{path}: quantization_config is {settings!r}; it must be an object")
    method, bits = settings.get("quant_method"), settings.get("bits")
    if method not in {"awq", "gptq"}:
        raise refuse("quant_method", method, "awq or gptq")
    if bits != 4:
        raise refuse("bits", bits, "4")
    group_size = settings.get("group_size", 128)
    if not _is_group_size(group_size):
        raise refuse("group_size", group_size, "32, 64, 128, a multiple of 256, or -1")
    if method == "awq":
        field = "version" if "version" in settings else "format"
        layout = str(settings.get(field) or "gemm").lower()
        if layout != "gemm":
            raise refuse(field, layout, "gemm")
        return Int4Format("awq", group_size)
    field = "checkpoint_format" if "checkpoint_format" in settings else "format"
    layout = str(settings.get(field) or "gptq").lower()
    if settings.get("is_marlin_format"):
        field, layout = "is_marlin_format", "True"
    if layout not in {"gptq", "gptq_v2"}:
        raise refuse(field, layout, "gptq or gptq_v2")
    if settings.get("pack_dtype", "int32") not in {"int32", "torch.int32"}:
        raise refuse("pack_dtype", settings["pack_dtype"], "int32")
    for pattern in settings.get("dynamic") or ():
        if not pattern.startswith("-:"):  # such modules are left as floats, which their tensors show
            raise refuse("dynamic", pattern, "one setting for all modules, or none (-:)")
    # gptq stores each zero less one, gptq_v2 as it is.
    return Int4Format("gptq", group_size, settings.get("desc_act") is not False, int(layout == "gptq"))


def _is_group_size(value: object) -> bool:
    """Whether the GPU kernel supports it: groups divide a tile of 256 inputs, or are whole tiles, or all."""
    return isinstance(value, int) and (value in {-1, 32, 64, 128} or (value > 0 and value % 256 == 0))


def _fused(tensor: Callable[[str], Tensor | None], names: Sequence[str], kind: str) -> Tensor:
    parts = []
    for name in names:
        part = tensor(f"{name}.{kind}")
        if part is None:
            raise ModelError(f"the checkpoint has no tensor '{name}.{kind}'; is it complete?")
        parts.append(part)
    try:
        return torch.cat(parts, dim=1)
    except RuntimeError as error:
        raise ModelError(f"{kind} of {', '.join(names)} do not fit together: {error}") from error


def _same(order: Tensor | None, other: Tensor | None) -> bool:
    return order is other or (order is not None and other is not None and torch.equal(order, other))
