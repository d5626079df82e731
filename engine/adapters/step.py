"""What a step's adapters add to its linear maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...kernels.compiled import LORA_MAPS
from ...kernels.dispatch import runs_triton
from ...kernels.lora import GroupedLora, LoraRows, add_lora
from .folder import AdapterWeights

if TYPE_CHECKING:
    from ..scheduler import ScheduledSequence


@dataclass(slots=True, frozen=True)
class StepAdapters:
    """The adapters of one step, each with the query rows that it computes.

    Attributes:
        groups: int64 [n] rows, ascending, and their adapter.
        grouped: the same for Triton's kernels; None where they don't run.
    """

    groups: tuple[tuple[Tensor, AdapterWeights], ...]
    grouped: GroupedLora | None = None

    def add(self, layer: int, name: str, x: Tensor, y: Tensor) -> None:
        """Add to y [T, out], the output of a layer's map, what the adapters add for its input x [T, in]."""
        if self.grouped is not None:
            self.grouped.add(layer * len(LORA_MAPS) + LORA_MAPS.index(name), x, y)
            return
        mine = ((rows, weights.layers[layer].get(name)) for rows, weights in self.groups)
        add_lora(x, y, [LoraRows(rows, lora) for rows, lora in mine if lora is not None])

    def addresses(self, rows: int) -> Tensor:
        """int64 [rows]: where each row's adapter is, as a compiled decoder takes it; 0 for none."""
        found = torch.zeros(rows, dtype=torch.int64)
        for mine, weights in self.groups:
            assert weights.compiled is not None
            found[mine] = weights.compiled.address
        return found


def adapters_of(plan: Sequence["ScheduledSequence"], device: torch.device) -> StepAdapters | None:
    """The adapters of a planned step, grouped; None if it has none, which then costs nothing."""
    if all(scheduled.sequence.adapter is None for scheduled in plan):
        return None
    rows: dict[str, list[range]] = {}
    weights: dict[str, AdapterWeights] = {}
    start = 0
    for scheduled in plan:
        adapter, end = scheduled.sequence.adapter, start + scheduled.count
        if adapter is not None:
            weights[adapter.fingerprint] = adapter
            rows.setdefault(adapter.fingerprint, []).append(range(start, end))
        start = end

    groups = [
        (np.concatenate([np.arange(part.start, part.stop) for part in parts]), weights[name])
        for name, parts in rows.items()
    ]
    made = tuple((torch.from_numpy(mine).to(device, non_blocking=True), adapter) for mine, adapter in groups)
    fields = [(mine, adapter.fields) for mine, adapter in groups if adapter.fields is not None]
    if len(fields) < len(groups) or not runs_triton(torch.empty(0, device=device)):
        return StepAdapters(made)
    return StepAdapters(made, GroupedLora.of(fields, device))
