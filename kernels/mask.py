"""Tokens ruled out by a mask, where entries would be too many: all but some, or what a grammar forbids."""

import torch
from torch import Tensor

from .structs import SamplingTable


def mask(logits: Tensor, rows: Tensor, table: SamplingTable) -> None:
    """Set the logits that a row's mask rules out to -inf, in place; NaN stays NaN. Never waits for a GPU.

    Args:
        logits: float32 [S, V].
        rows: int64 [S], the row of the table that each belongs to.
        table: has `mask_of` and `masks`.
    """
    assert table.mask_of is not None
    assert table.masks is not None
    chosen = table.mask_of[rows].long()
    places = torch.arange(len(rows), device=logits.device)
    if logits.device.type == "cpu":  # on a CPU, where reading a number costs nothing: only rows that have one
        places = (chosen >= 0).nonzero()[:, 0]
        chosen = chosen[places]
    allowed = table.masks[chosen.clamp(min=0)] | (chosen < 0)[:, None]
    # An addition, and not a fill: NaN must stay NaN, by which a broken row is known.
    logits[places] += torch.where(allowed, 0.0, float("-inf"))
