"""Packed masks on the GPU: a word of 32 tokens is read once a lane, and only what it rules out is written."""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def mask(logits: Tensor, chosen: Tensor, masks: Tensor) -> None:
    """See `kernels.mask.mask_torch`; never waits for the device."""
    count, vocab = logits.shape
    if count:
        _mask_kernel[(count, triton.cdiv(vocab, _BLOCK))](
            logits, logits.stride(0), chosen, masks, masks.stride(0), vocab, BLOCK=_BLOCK
        )


@triton.jit
def _mask_kernel(logits, logits_stride, chosen, masks, masks_stride, vocab, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    which = tl.load(chosen + row)
    if which >= 0:
        ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = ids < vocab
        word = tl.load(masks + which.to(tl.int64) * masks_stride + ids // 32, mask=inside, other=-1)
        ruled_out = inside & (((word >> (ids % 32)) & 1) == 0)
        place = logits + row * logits_stride + ids
        # An addition, and not a fill: NaN must stay NaN, by which a broken row is known.
        value = tl.load(place, mask=ruled_out, other=0.0)
        tl.store(place, value + float("-inf"), mask=ruled_out)
