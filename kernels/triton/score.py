"""Log-probabilities of given tokens: one program a row finds the most likely ones without a sort.

The total of a row is summed tile by tile in one program, too: torch divides its sums by the number of rows,
so that the bits would depend on it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..structs import SampledTensors
from .noise import log
from .top_k_top_p import best

_BLOCK = 4096


def score(logits: Tensor, tokens: Tensor, wanted: Tensor, most: int) -> SampledTensors:
    """Like `kernels.score.score`, for logits on a GPU."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    count, vocab = logits.shape
    totals = logits.new_empty(count)
    if count:
        _total_kernel[(count,)](
            logits, logits.stride(0), totals, vocab, BLOCK=_BLOCK, num_warps=8, enable_fp_fusion=True
        )
    own = logits.gather(1, tokens[:, None])[:, 0] - totals
    rows = torch.arange(count, device=logits.device)
    return SampledTensors(tokens, own, *best(logits, totals, rows, wanted, most))


@triton.jit
def _total_kernel(logits, stride, totals, vocab, BLOCK: tl.constexpr):
    """The logarithm of the sum of a row's exponentials, relative to the largest logit so far."""
    place = tl.program_id(0).to(tl.int64)
    top = tl.full((), -float("inf"), tl.float32)
    base, total = tl.full((), 0.0, tl.float32), tl.full((), 0.0, tl.float32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(logits + place * stride + ids, mask=ids < vocab, other=-float("inf"))
        risen = tl.maximum(top, tl.max(x, 0))
        base = tl.where(risen > -float("inf"), risen, 0.0)  # -inf minus -inf would be NaN
        total = total * tl.exp(top - base) + tl.sum(tl.exp(x - base), 0)
        top = risen
    tl.store(totals + place, tl.where(top < float("inf"), base + log(total), float("inf")))
