"""Log-probabilities of given tokens: one program a row finds the most likely ones without a sort."""

import torch
from torch import Tensor

from ..structs import SampledTensors
from .top_k_top_p import best


def score(logits: Tensor, tokens: Tensor, wanted: Tensor, most: int) -> SampledTensors:
    """Like `kernels.score.score`, for logits on a GPU."""
    totals = logits.logsumexp(1)
    own = logits.gather(1, tokens[:, None])[:, 0] - totals
    rows = torch.arange(len(tokens), device=logits.device)
    return SampledTensors(tokens, own, *best(logits, totals, rows, wanted, most))
