"""Tokens ruled out by a mask, where entries would be too many: all but some, or what a grammar forbids.

A mask has one bit a token, packed as grammar libraries write them: token t is bit t % 32 of word t // 32.
"""

import torch
from torch import Tensor

from .dispatch import runs_triton
from .native import shared_library


def words(vocab: int) -> int:
    """The number of 32-bit words in a mask of this many tokens."""
    return -(-vocab // 32)


def mask(logits: Tensor, chosen: Tensor, masks: Tensor) -> None:
    """Set the logits that a row's mask rules out to -inf, in place; NaN stays NaN. Never waits for a GPU.

    Args:
        logits: float32 [S, V].
        chosen: int32 [S], the mask of each row; -1 for none.
        masks: int32 [M, ceil(V / 32)].
    """
    if runs_triton(logits):
        from .triton.mask import mask as mask_triton

        mask_triton(logits, chosen, masks)
    elif logits.device.type == "cpu" and logits.stride(1) == 1 and (lib := shared_library()):
        lib.hr_mask(
            logits.data_ptr(),
            logits.stride(0),
            masks.data_ptr(),
            masks.shape[1],
            chosen.data_ptr(),
            *logits.shape,
            torch.get_num_threads(),
        )
    else:
        mask_torch(logits, chosen, masks)


def mask_torch(logits: Tensor, chosen: Tensor, masks: Tensor) -> None:
    """`mask` in torch operations, for any device; also the reference."""
    ids = torch.arange(logits.shape[1], device=logits.device)
    allowed = (masks[chosen.long().clamp(min=0)][:, ids // 32] >> (ids % 32)) & 1
    # An addition, and not a fill: NaN must stay NaN, by which a broken row is known.
    logits += torch.where((allowed > 0) | (chosen < 0)[:, None], 0.0, float("-inf"))
