"""The log-probabilities of given tokens, such as a prompt's, and of the most likely ones beside them."""

import torch
from torch import Tensor

from .dispatch import runs_triton
from .sample_cpu import chosen_logprobs
from .structs import SampledTensors


def score(logits: Tensor, tokens: Tensor, wanted: Tensor, most: int) -> SampledTensors:
    """The log-probability of each row's token, as the model gives it.

    Args:
        logits: float32 [R, V]; unchanged.
        tokens: int64 [R].
        wanted: int32 [R], how many of the most likely tokens each row wants, 0 or more.
        most: the largest of these.
    """
    most = min(most, logits.shape[1])
    if runs_triton(logits):
        from .triton.score import score as score_triton

        return score_triton(logits, tokens, wanted, most)
    if logits.device.type == "cpu":
        return SampledTensors(tokens, *chosen_logprobs(logits, tokens, wanted, most))
    return score_torch(logits, tokens, wanted, most)


def score_torch(logits: Tensor, tokens: Tensor, wanted: Tensor, most: int) -> SampledTensors:
    """`score` in torch operations that never wait for the device; also the reference."""
    totals = logits.logsumexp(1)
    own = logits.gather(1, tokens[:, None])[:, 0] - totals
    best = logits.sort(dim=1, descending=True, stable=True).indices[:, :most]
    unasked = torch.arange(most, device=logits.device) >= wanted[:, None]
    top = (logits.gather(1, best) - totals[:, None]).masked_fill(unasked, float("-inf"))
    return SampledTensors(tokens, own, best.masked_fill(unasked, -1), top)
