"""What a step's adapters add to its linear maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...kernels.lora import LoraRows, add_lora
from .folder import AdapterWeights

if TYPE_CHECKING:
    from ..scheduler import ScheduledSequence


@dataclass(slots=True, frozen=True)
class StepAdapters:
    """The adapters of one step, each with the query rows that it computes.

    Attributes:
        groups: int64 [n] rows, ascending, and their adapter.
    """

    groups: tuple[tuple[Tensor, AdapterWeights], ...]

    def add(self, layer: int, name: str, x: Tensor, y: Tensor) -> None:
        """Add to y [T, out], the output of a layer's map, what the adapters add for its input x [T, in]."""
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

    def index(parts: list[range]) -> Tensor:
        flat = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        return torch.from_numpy(flat).to(device, non_blocking=True)

    return StepAdapters(tuple((index(parts), weights[name]) for name, parts in rows.items()))
