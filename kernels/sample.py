"""From a step's logits to its tokens; a GPU does this without involving the host.

What each sequence asks for is in tensors by batch row, which a pass over the logits applies. The order is
that of vLLM and transformers: penalties, bias, mask; temperature; top-k, top-p, min-p; then Gumbel-max with
the noise of noise.py. Log-probabilities are those of the unchanged logits.

Each of top-k, top-p and min-p is a cut: a scaled logit stays if it is at least the row's threshold. Of the
tokens that tie with the last one that top-p keeps, those with the highest ids stay; top-k and min-p keep all
that tie. This is what transformers and vLLM do, provided that their sorts are stable.
"""

import torch
from torch import Tensor

from .dispatch import runs_triton
from .mask import mask_torch
from .noise import argmax, gumbel_argmax
from .sample_cpu import sample_cpu
from .structs import SampledTensors, SampleNeeds, SamplingTable, Thresholds


def sample(logits: Tensor, rows: Tensor, table: SamplingTable, needs: SampleNeeds) -> SampledTensors:
    """The next token of each of `rows`.

    Args:
        logits: float32 [S, V], overwritten.
        rows: int64 [S], the row of the table that each belongs to.
        table: what the rows ask for.
        needs: which of that work is needed at all.
    """
    if runs_triton(logits):
        from .triton.sampling import sample as sample_triton

        return sample_triton(logits, rows, table, needs)
    if logits.device.type == "cpu":
        return sample_cpu(logits, rows, table, needs)
    return sample_torch(logits, rows, table, needs)


def sample_torch(logits: Tensor, rows: Tensor, table: SamplingTable, needs: SampleNeeds) -> SampledTensors:
    """`sample` in torch operations that never wait for the device; also the reference."""
    plain = logits.clone()
    if needs.penalties:
        logits = _penalise(logits, rows, table)
    if needs.bias:
        logits = _bias(logits, rows, table)
    if needs.mask:
        assert table.mask_of is not None
        assert table.masks is not None
        logits = logits.clone()
        mask_torch(logits, table.mask_of[rows], table.masks)
    temperature = table.temperature[rows]
    scaled = logits / torch.where(temperature > 0, temperature, 1)[:, None]
    if needs.truncation:
        thresholds = top_k_top_p_torch(scaled, table.top_k[rows], table.top_p[rows], table.min_p[rows])
        scaled = scaled.masked_fill(dropped(scaled, thresholds), float("-inf"))
    drawn = gumbel_argmax(scaled, table.seed[rows], table.lengths[rows])
    tokens = torch.where(temperature > 0, drawn, argmax(logits))
    if needs.logprobs is None:
        return SampledTensors(tokens, None, None, None)
    logprobs = plain.log_softmax(-1)
    own = logprobs.gather(1, tokens[:, None].clamp(min=0))[:, 0]
    count = min(needs.logprobs, plain.shape[1])
    best = plain.sort(dim=1, descending=True, stable=True).indices[:, :count]
    unasked = torch.arange(count, device=logits.device) >= table.logprobs[rows, None]
    top_logprobs = logprobs.gather(1, best).masked_fill(unasked, float("-inf"))
    return SampledTensors(tokens, own, best.masked_fill(unasked, -1), top_logprobs)


def dropped(scaled: Tensor, thresholds: Thresholds) -> Tensor:
    """Which scaled logits are cut off, bool [S, V]; NaN never is."""
    least, ids = thresholds.least[:, None], torch.arange(scaled.shape[1], device=scaled.device)
    return (scaled < least) | ((scaled == least) & (ids < thresholds.first[:, None]))


def top_k_top_p_torch(scaled: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Thresholds:
    """What each row keeps.

    Of the tokens that top-k leaves, top_p keeps the fewest of the most likely ones whose probability reaches
    it.
    """
    ordered = scaled.sort(dim=1, descending=True).values
    last = torch.where(top_k > 0, top_k, scaled.shape[1]).clamp(max=scaled.shape[1]).long() - 1
    threshold = ordered.gather(1, last[:, None])
    ordered = ordered.masked_fill(ordered < threshold, float("-inf"))
    weights = (ordered - ordered[:, :1]).exp()
    target = top_p[:, None] * weights.sum(1, keepdim=True)
    kept = 1 + (weights.cumsum(1)[:, :-1] < target).sum(1, keepdim=True)
    nucleus = torch.where(top_p[:, None] < 1, ordered.gather(1, kept - 1), float("-inf"))
    threshold = torch.maximum(torch.where(top_k[:, None] > 0, threshold, float("-inf")), nucleus)
    least = torch.maximum(threshold[:, 0], ordered[:, 0] + min_p.log())
    ties_from_here = (scaled == nucleus).flip(1).cumsum(1).flip(1)
    first = (ties_from_here > kept - (ordered > nucleus).sum(1, keepdim=True)).sum(1)
    return Thresholds(least, torch.where((top_p < 1) & (least == nucleus[:, 0]), first, 0).int())


def _penalise(logits: Tensor, rows: Tensor, table: SamplingTable) -> Tensor:
    tokens = table.tokens[rows].long()
    places = torch.arange(tokens.shape[1], device=logits.device)
    known = places < table.lengths[rows, None]
    output = known & (places >= table.prompt_lengths[rows, None])
    tokens = tokens.masked_fill(~known, 0)
    seen = torch.zeros_like(logits).scatter_add_(1, tokens, known.float()) > 0
    counts = torch.zeros_like(logits).scatter_add_(1, tokens, output.float())
    repetition = table.repetition_penalty[rows, None]
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(seen, scaled, logits)
    return (
        logits
        - counts * table.frequency_penalty[rows, None]
        - (counts > 0) * table.presence_penalty[rows, None]
    )


def _bias(logits: Tensor, rows: Tensor, table: SamplingTable) -> Tensor:
    ids = table.bias_ids[rows].long()
    holds = (ids >= 0) & (table.lengths[rows, None] < table.bias_until[rows])
    values = torch.where(holds, table.bias_values[rows], 0)
    return logits.scatter_add(1, ids.clamp(min=0), values)
