"""The CPU path of `sample`: rows pay only for what they ask for, since reading a number costs nothing here.

Every operation works on each row separately, so a row's token doesn't depend on its neighbours. A row whose
logits contain NaN or +infinity, or nothing above -infinity, gets -1. No pass searches for these: NaN and
+infinity survive every step and are found when the largest logit is determined.
"""

import torch
from torch import Tensor

from .mask import mask
from .noise import argmax, gumbel_argmax
from .structs import SampledTensors, SampleNeeds, SamplingTable

_NUCLEUS = 512
"""The nucleus is searched among this many most likely tokens before the whole vocabulary is sorted."""


def sample_cpu(logits: Tensor, rows: Tensor, table: SamplingTable, needs: SampleNeeds) -> SampledTensors:
    """Like `sample`, for logits on the CPU."""
    plain = logits.clone() if needs.logprobs is not None else logits
    if needs.penalties:
        _penalise(logits, rows, table)
    if needs.bias:
        _bias(logits, rows, table)
    if needs.mask:
        assert table.mask_of is not None
        assert table.masks is not None
        mask(logits, table.mask_of[rows], table.masks)
    tokens = argmax(logits)
    noisy = _places(table.temperature[rows] > 0)
    if len(noisy):
        tokens[noisy] = _draw(logits[noisy], rows[noisy], table, needs)
    if needs.logprobs is None:
        return SampledTensors(tokens, None, None, None)
    return SampledTensors(tokens, *chosen_logprobs(plain, tokens, table.logprobs[rows], needs.logprobs))


def _places(asks: Tensor) -> Tensor:
    return asks.nonzero()[:, 0]


def _penalise(logits: Tensor, rows: Tensor, table: SamplingTable) -> None:
    presence, frequency = table.presence_penalty[rows], table.frequency_penalty[rows]
    repetition = table.repetition_penalty[rows]
    picked = _places((presence != 0) | (frequency != 0) | (repetition != 1))
    if not len(picked):
        return
    mine, rows = logits[picked], rows[picked]
    lengths = table.lengths[rows, None]
    history = table.tokens[rows, : int(lengths.max())].long()
    places = torch.arange(history.shape[1])
    known = places < lengths
    output = known & (places >= table.prompt_lengths[rows, None])
    history = history.masked_fill(~known, 0)
    seen = torch.zeros_like(mine).scatter_add_(1, history, known.float()) > 0
    counts = torch.zeros_like(mine).scatter_add_(1, history, output.float())
    factor = repetition[picked, None]
    scaled = torch.where(mine > 0, mine / factor, mine * factor)
    mine = torch.where(seen, scaled, mine)
    mine -= counts * frequency[picked, None]
    mine -= (counts > 0) * presence[picked, None]
    logits[picked] = mine


def _bias(logits: Tensor, rows: Tensor, table: SamplingTable) -> None:
    """Change the few logits that entries name, in place."""
    ids = table.bias_ids[rows]
    holds = (ids >= 0) & (table.lengths[rows, None] < table.bias_until[rows])
    places, entries = holds.nonzero(as_tuple=True)
    values = table.bias_values[rows[places], entries]
    logits.index_put_((places, ids[places, entries].long()), values, accumulate=True)


def _draw(logits: Tensor, rows: Tensor, table: SamplingTable, needs: SampleNeeds) -> Tensor:
    logits = logits / table.temperature[rows, None]
    if needs.truncation:
        _truncate(logits, rows, table)
    return gumbel_argmax(logits, table.seed[rows], table.lengths[rows])


def _truncate(logits: Tensor, rows: Tensor, table: SamplingTable) -> None:
    """Mask what top-k, top-p and min-p leave out, in that order."""
    top_k, top_p, min_p = table.top_k[rows].long(), table.top_p[rows], table.min_p[rows]
    picked = _places((top_k > 0) & (top_k < logits.shape[1]))
    if len(picked):
        mine, counts = logits[picked], top_k[picked, None]
        least = mine.topk(int(counts.max())).values.gather(1, counts - 1)
        logits[picked] = mine.masked_fill(mine < least, float("-inf"))
    picked = _places(top_p < 1)
    if len(picked):
        logits[picked] = keep_top_p(logits[picked], top_p[picked, None])
    picked = _places(min_p > 0)
    if len(picked):
        mine = logits[picked]
        floor = mine.amax(1, keepdim=True) + min_p[picked, None].log()
        logits[picked] = mine.masked_fill(mine < floor, float("-inf"))


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Mask all but the smallest set of most likely tokens whose probability reaches top_p, row by row.

    Of the tokens that are as likely as the last one kept, those with the highest ids stay, as in transformers
    and vLLM, provided that their sorts are stable.

    Args:
        logits: float32 [S, V].
        top_p: float32 [S, 1].
    """
    top, vocab = logits.amax(1, keepdim=True), logits.shape[1]
    target = top_p * row_sums((logits - top).exp_())
    # A nucleus of more than 512 tokens is rare: a flat distribution, or a top_p close to 1.
    for size in (min(_NUCLEUS, vocab), vocab):
        best = logits.topk(size).values
        reached = (best - top).exp_().cumsum(1)
        kept = 1 + (reached[:, :-1] < target).sum(1, keepdim=True)
        if size == vocab or not bool((kept == size).any()):
            break
    least = best.gather(1, kept - 1)
    # The token after the last kept one: where it is as likely, ties have to be told apart by their ids.
    following = best.gather(1, kept.clamp(max=size - 1))
    for row in torch.nonzero((kept < size) & (following == least))[:, 0].tolist():
        tied = torch.nonzero(logits[row] == least[row])[:, 0]
        spare = int((logits[row] >= least[row]).sum() - kept[row])
        logits[row, tied[:spare]] = float("-inf")
    return logits.masked_fill(logits < least, float("-inf"))


def row_sums(x: Tensor) -> Tensor:
    """The sums of x's rows, float32 [S, 1], each with the same bits for any number of rows."""
    # A sum with a single result is divided among threads, and one of several rows isn't.
    return x.sum(1, keepdim=True) if len(x) > 1 else x.expand(2, -1).sum(1, keepdim=True)[:1]


def chosen_logprobs(
    plain: Tensor, tokens: Tensor, wanted: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the tokens and of each row's most likely ones, with ids (see `SampledTensors`)."""
    count = min(most, plain.shape[1])
    own = torch.zeros(len(tokens))
    ids = torch.full((len(tokens), count), -1)
    best = torch.full((len(tokens), count), float("-inf"))
    picked = _places(wanted >= 0)
    logprobs = plain[picked].log_softmax(-1)
    own[picked] = logprobs.gather(1, tokens[picked, None].clamp(min=0))[:, 0]
    if count == 0:
        return own, ids, best
    # topk does not say which of equals it takes, so it only finds the least value; a stable sort of the few
    # that reach it does the rest.
    least = logprobs.topk(count).values[:, -1]
    for at, place in enumerate(picked.tolist()):
        mine = logprobs[at]
        near = (mine >= least[at]).nonzero()[:, 0]  # in the order of their ids, which the sort preserves
        order = mine[near].sort(descending=True, stable=True).indices
        chosen = near[order[: min(int(wanted[place]), count)]]
        ids[place, : len(chosen)], best[place, : len(chosen)] = chosen, mine[chosen]
    return own, ids, best
